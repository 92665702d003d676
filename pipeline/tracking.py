"""The MLflow record of a study, written by the driver only and in step with the truth, which lies elsewhere.

One experiment a benchmark, one parent run a study, one child run a trial. Everything may be said twice: what is there
already is not written again, so a resumed search syncs by telling all it knows. MLflow is imported when a store is
opened, not before.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import store
from pipeline.entry import Entry
from pipeline.registry import SpecError
from pipeline.store import leaderboard_url, server_command, store_uri

if TYPE_CHECKING:
    from pipeline.result import TrialRecord

__all__ = ["Entry", "Record", "server_command", "store_uri"]

PAGE = 1000  # runs a request, of MLflow's maximum of 50,000
# Column and width, in pixels; the first two are pinned by the page itself, which shows them whatever is chosen.
COLUMNS = {
    "attributes.`Run Name`": 290,
    "runDateAndNestInfo": 60,
    "metrics.`nfe`": 60,
    "metrics.`fid`": 95,
    "metrics.`fid_se`": 105,
    f"tags.`{store.ROLE}`": 130,
    f"tags.`{store.FRONT}`": 130,
    "metrics.`setup_nfe`": 90,
    f"tags.`{store.METHOD}`": 170,
    "metrics.`images`": 80,
}
PINNED = 2


@dataclass
class _Child:
    """What the store holds of a trial."""

    run_id: str
    content: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: dict[str, str]


class Record:
    """An open study. Use `Record.open`; one writer at a time."""

    def __init__(self, client: Any, experiment_id: str, run_id: str, status: str) -> None:
        self._client = client
        self.experiment_id = experiment_id
        self.run_id = run_id
        self._status = status
        self._children: dict[str, _Child] = {}
        self._note: str | None = None

    @staticmethod
    def open(uri: str, experiment: str, study: str, fingerprint: str, artifact_folder: Path | None = None) -> Record:
        """Find the study again by its name and fingerprint, or begin it.

        `artifact_folder` is where a new experiment keeps its files if the store is a database; by default `mlartifacts`
        beside a sqlite file. A server keeps them itself.

        Raises:
            SpecError: the store cannot be opened, or its experiment of this name is deleted.
        """
        client = store.open_client(uri, create=True)
        held = client.get_experiment_by_name(experiment)
        if held is None:
            experiment_id = client.create_experiment(
                experiment,
                artifact_location=_artifacts(uri, artifact_folder),
                # The runs page, not the one for language-model traces.
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        elif held.lifecycle_stage != "active":
            raise SpecError("the experiment is deleted in this store; restore it", path="experiment", given=experiment)
        else:
            experiment_id = held.experiment_id
        query = f"tags.`{store.STUDY}` = {_quoted(study)} AND tags.`{store.FINGERPRINT}` = {_quoted(fingerprint)}"
        runs = client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"])
        if not runs:
            tags = {store.STUDY: study, store.FINGERPRINT: fingerprint}
            run = client.create_run(experiment_id, tags=tags, run_name=study)
            return Record(client, experiment_id, run.info.run_id, "RUNNING")
        record = Record(client, experiment_id, runs[0].info.run_id, runs[0].info.status)
        record._note = runs[0].data.tags.get(store.NOTE)
        record._load()
        return record

    def __len__(self) -> int:
        return len(self._children)

    def log(self, record: TrialRecord, *, started: float | None = None, ended: float | None = None) -> bool:
        """Create or update the trial's child run; False where the store held exactly this already.

        `started` and `ended` are seconds since 1970, now by default.
        """
        entry = Entry.of(record)
        child = self._children.get(record.key)
        if child is not None and child.content == entry.digest and child.status == entry.status:
            return False
        self._resume()
        if child is not None and not _extends(child, entry):
            # Params cannot change and metrics cannot be taken back in MLflow; a rung left behind would stay a tag.
            self._client.delete_run(child.run_id)
            child = None
        now = time.time()
        tags = {store.FRONT: "false", store.PLACE: _place(entry, "4")} | (child.tags if child is not None else {})
        tags |= dict(entry.tags) | {store.RUN_NAME: entry.name}
        if child is None:
            run_id, params = self._create(entry.name, tags, now if started is None else started), entry.params
            changed: dict[str, str] = {}
        else:
            run_id, params = child.run_id, {} if child.params else entry.params
            changed = {name: value for name, value in tags.items() if child.tags.get(name) != value}
        if entry.card:
            self._client.log_text(run_id, entry.card, "card.json")
        # The content tag goes with the last of the data, so that a run cut short is written again.
        tags[store.CONTENT] = entry.digest
        self._batch(run_id, params, entry.metrics, changed | {store.CONTENT: entry.digest})
        self._client.set_terminated(run_id, entry.status, int(1000 * (now if ended is None else ended)))
        self._children[record.key] = _Child(run_id, entry.digest, entry.status, entry.params, entry.metrics, tags)
        return True

    def mark_front(self, keys: Iterable[str]) -> int:
        """Say which trials are the front; returns how many runs had to be changed.

        The place tag orders the leaderboard: the front by NFE, the floor, the best baseline of each NFE, the rest.
        """
        front = set(keys)
        unknown = sorted(front - set(self._children))
        if unknown:
            raise KeyError(f"not in the record: {', '.join(unknown)}")
        best: dict[float, tuple[float, str]] = {}
        for key, child in self._children.items():
            if child.tags.get(store.ROLE) == "baseline" and "fid" in child.metrics:
                nfe = child.metrics["nfe"]
                best[nfe] = min(best.get(nfe, (math.inf, "")), (child.metrics["fid"], key))
        winners = {key for _, key in best.values()}
        changed = 0
        for key, child in self._children.items():
            role = child.tags.get(store.ROLE)
            group = "1" if key in front else "2" if role == "floor" else "3" if key in winners else "4"
            wanted = {store.FRONT: str(key in front).lower(), store.PLACE: _place(child, group)}
            if any(child.tags.get(name) != value for name, value in wanted.items()):
                self._resume()
                self._batch(child.run_id, {}, {}, wanted)
                child.tags |= wanted
                changed += 1
        return changed

    def describe_study(self, markdown: str) -> None:
        """Set the text that MLflow shows above the study's run."""
        if markdown != self._note:
            self._client.set_tag(self.run_id, store.NOTE, markdown)
            self._note = markdown

    def attach(self, source: Path | str, artifact_path: str) -> None:
        """Keep a file (a `Path`) or a text (a `str`) with the study as `artifact_path`; the same again replaces it."""
        if isinstance(source, str):
            self._client.log_text(self.run_id, source, artifact_path)
            return
        folder, _, name = artifact_path.rpartition("/")
        if source.name == name:
            self._client.log_artifact(self.run_id, str(source), folder or None)
            return
        with tempfile.TemporaryDirectory() as temporary:
            renamed = Path(temporary, name)
            renamed.write_bytes(source.read_bytes())
            self._client.log_artifact(self.run_id, str(renamed), folder or None)

    def finish(self, status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED") -> None:
        """End the study's run, with the numbers of its trials by state and role as metrics; twice is once."""
        if self._status == status:
            return
        counts: dict[str, float] = {"trials": len(self._children)}
        for child in self._children.values():
            for name in (child.tags.get(store.STATE, "broken"), child.tags.get(store.ROLE, "broken")):
                counts[f"trials_{name}"] = counts.get(f"trials_{name}", 0) + 1
        counts["front"] = sum(child.tags.get(store.FRONT) == "true" for child in self._children.values())
        self._batch(self.run_id, {}, counts, {})
        self._client.set_terminated(self.run_id, status)
        self._status = status

    def set_leaderboard_view(self) -> None:
        """Make the experiment's page a leaderboard of this study: `leaderboard_url` opens it.

        MLflow's shared views are undocumented; the value is what its page reads (MLflow 3.17.2). One view an
        experiment: the study that was opened last.
        """
        view = {
            "searchFilter": f"tags.`{store.PARENT}` = '{self.run_id}' AND tags.`{store.STATE}` = 'complete'",
            "orderByKey": f"tags.`{store.PLACE}`",
            "orderByAsc": True,
            "lifecycleFilter": "Active",
            "selectedColumns": list(COLUMNS)[PINNED:],
            "columnOrder": list(COLUMNS),
            "columnWidths": COLUMNS,
            "runsHiddenMode": "SHOW_ALL",
            "autoRefreshEnabled": True,
            "groupBy": None,
        }
        name, value = f"mlflow.sharedViewState.{store.VIEW}", json.dumps(view)
        if self._client.get_experiment(self.experiment_id).tags.get(name) != value:
            self._client.set_experiment_tag(self.experiment_id, name, value)

    def leaderboard_url(self, base: str) -> str:
        """The leaderboard's page under a server's address, e.g. http://127.0.0.1:5000."""
        return leaderboard_url(base, self.experiment_id)

    def _load(self) -> None:
        token: str | None = None
        while True:
            query = f"tags.`{store.PARENT}` = '{self.run_id}'"
            page = self._client.search_runs([self.experiment_id], query, max_results=PAGE, page_token=token)
            for run in page:
                key = run.data.tags.get(store.KEY)
                if key is not None:
                    tags, info = dict(run.data.tags), run.info
                    content = tags.get(store.CONTENT, "")
                    self._children[key] = _Child(
                        info.run_id, content, info.status, run.data.params, run.data.metrics, tags
                    )
            token = page.token
            if not token:
                return

    def _resume(self) -> None:
        if self._status != "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
            self._status = "RUNNING"

    def _create(self, name: str, tags: Mapping[str, str], started: float) -> str:
        # Tags given here cost nothing; each of a batch's kinds is a commit, which a disk takes 5 to 10 ms for.
        run = self._client.create_run(
            self.experiment_id, int(1000 * started), {**tags, store.PARENT: self.run_id}, name
        )
        return str(run.info.run_id)

    def _batch(
        self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(1000 * time.time())
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
            synchronous=True,
        )


def _place(entry: Entry | _Child, group: str) -> str:
    """A text that sorts as the leaderboard should: group, then NFE, then FID."""
    nfe, fid = entry.metrics.get("nfe", 9999.0), entry.metrics.get("fid", 9999.0)
    return f"{group} {nfe:08.3f} {max(fid, 0.0):014.7f}"


def _extends(child: _Child, entry: Entry) -> bool:
    stale = store.STOPPED_AT in child.tags and store.STOPPED_AT not in entry.tags
    return not stale and (not child.params or child.params == entry.params) and set(child.metrics) <= set(entry.metrics)


def _quoted(text: str) -> str:
    """A string of MLflow's filter language, which cannot hold both kinds of quote."""
    if "'" in text and '"' in text:
        raise SpecError("cannot hold both kinds of quotation mark", path="study", given=text)
    return f'"{text}"' if "'" in text else f"'{text}'"


def _artifacts(uri: str, folder: Path | None) -> str | None:
    if store.is_server(uri):
        return None
    file = store.sqlite_file(uri)
    if folder is None and file is not None:
        folder = file.parent / "mlartifacts"
    # Without one, MLflow would use ./mlruns of whoever comes first.
    return (folder or Path("mlartifacts")).resolve().as_uri()
