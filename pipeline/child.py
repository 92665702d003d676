"""The child run of a trial as an MLflow store holds it, and how it differs from what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline import marks, store
from pipeline.entry import Entry, file_digests
from pipeline.marks import Mark
from pipeline.store import STEPS

OURS = "sigmasearch."
METRICS = ("fid", "teacher_distance")
# By their whole names: somebody's own precision_at_5 is theirs.
OTHERS = {name + end for name in store.BESIDE for end in ("", "_se", "_spread", store.CONFIRMED)}
PARAMS = ("searched.", "solver.", "schedule.", "churn.")
# These are not the entry's alone.
MARKED = (store.FRONT, store.PLACE, store.BUDGET, store.STUDY, store.FILES)
ENDED = ("FINISHED", "FAILED", "KILLED")


@dataclass
class Child:
    """What the store holds of a trial. Tags, params and metrics that somebody added are theirs, and left alone."""

    run_id: str
    key: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def whole(self) -> bool:
        """Whether it was written to its end."""
        return self.status in ENDED

    def differences(self, entry: Entry) -> list[str]:
        """How it differs from the trial's entry, in a few words each; its files by what their tag says of them."""
        told = [] if self.status == entry.status else [f"status {self.status} instead of {entry.status}"]
        told += _differing("param", self.params, entry.params)
        told += _differing("metric", self.metrics, entry.metrics)
        tags = {name: value for name, value in entry.tags.items() if name != store.FILES}
        told += _differing("tag", self.tags, tags)
        told += [f"{name} is left over" for name in self._stale(entry)]
        return told + [f"file {name} is another" for name in self.new_files(entry)]

    def files_after(self, entry: Entry) -> dict[str, str]:
        """The digests of its files once it is told the entry: what was seen of a plan is not taken back."""
        held = file_digests(self.tags) if self.whole else {}
        after = held | file_digests(entry.tags)
        return after if entry.seen or STEPS not in held else after | {STEPS: held[STEPS]}

    def new_files(self, entry: Entry) -> list[str]:
        """The names of the entry's files that the store does not have as they are."""
        held = file_digests(self.tags) if self.whole else {}
        return [name for name, digest in sorted(self.files_after(entry).items()) if held.get(name) != digest]

    def grows_into(self, entry: Entry) -> bool:
        """Whether it becomes the entry by having things added: what it has is not taken back, nor changed by hand."""
        if self._stale(entry) or any(entry.params.get(name, value) != value for name, value in self.params.items()):
            return False
        same_truth = self.whole and not self.new_files(entry)
        return not (same_truth and _differing("metric", self.metrics, entry.metrics))

    def new_points(self, entry: Entry) -> dict[tuple[str, int], float]:
        """The entry's points that the store does not have yet."""
        last = dict(sorted(entry.points))

        def known(name: str, step: int, value: float) -> bool:
            if step == last[name]:
                return self.metrics.get(name) == value
            return f"{store.FID_AT}{step}" in self.metrics  # written with the rung's other metrics

        return {at: value for at, value in entry.points.items() if not known(*at, value)}

    def unmarked(self, mark: Mark) -> list[str]:
        """What its mark should be and is not."""
        return _differing("tag", self.tags, mark.tags) + _differing("metric", self.metrics, mark.metrics)

    def _stale(self, entry: Entry) -> list[str]:
        """What is of our making, and not the entry's."""
        tags = {name for name in self.tags if name.startswith(OURS)} - set(entry.tags) - set(MARKED)
        metrics = {name for name in self.metrics if name.startswith(METRICS) or name in OTHERS}
        metrics -= set(entry.metrics) | set(marks.METRICS)
        params = {name for name in self.params if name.startswith(PARAMS)} - set(entry.params)
        held = (("metric", metrics), ("param", params), ("tag", tags))
        return [f"{what} {name}" for what, names in held for name in sorted(names)]


def _differing(what: str, held: Any, wanted: Any) -> list[str]:
    """Each name whose value is another, or is missing."""
    return [
        f"{what} {name} is {_short(held.get(name))} instead of {_short(value)}"
        for name, value in wanted.items()
        if held.get(name) != value
    ]


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
