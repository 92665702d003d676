"""The table of a replay: what every trial of a study would measure, so that none has to be sampled again."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparison import Estimate
from pipeline.evidence import TeacherDistance
from pipeline.plan import Plan
from pipeline.registry import SpecError
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import Euler
from pipeline.trial import TrialSpec

FORMAT = 1
ABOUT = ("benchmark_version", "reference", "model", "revision", "sigma_range")  # what a replay reads of `about`
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Lesson:
    """Something that calibration learns: its key, what it costs in network rows, and seconds of one worker."""

    key: str
    rows: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """Everything that is known of one plan. `scores` by number of images, growing; `confirmed` on other seeds."""

    digest: str
    nfe: int
    seconds: float
    teacher: TeacherDistance
    scores: tuple[Estimate, ...]
    confirmed: Estimate | None


@dataclass(frozen=True)
class Entry:
    """One spec: its plan, and the lessons that its schedule and solver take."""

    spec: TrialSpec
    plan: Measured
    lessons: tuple[Lesson, ...]


def key_of(spec: TrialSpec) -> str:
    """Sixteen hex digits of what is sampled, whatever images it is scored on."""
    parts = {name: getattr(spec, name) for name in ("solver", "schedule", "afs", "denoise_to_zero", "churn")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Table:
    """Measured trials by spec, with the study that they belong to.

    `study` is the study file's content, `about` what was measured where: benchmark, versions, revision, seeds.
    """

    def __init__(self, study: Mapping[str, Any], about: Mapping[str, Any], entries: Iterable[Entry]) -> None:
        self.study, self.about = dict(study), dict(about)
        self._entries = {key_of(entry.spec): entry for entry in entries}
        self._plans = {entry.plan.digest: i for i, entry in enumerate(self._entries.values())}
        self._by_stand_in: dict[str, Measured] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Any:
        return iter(self._entries.values())

    def find(self, spec: TrialSpec) -> Entry:
        """The entry of a spec.

        Raises:
            SpecError: it was not measured.
        """
        try:
            return self._entries[key_of(spec)]
        except KeyError:
            raise SpecError("is not in the table of the replay", given=json.dumps(dict(spec.schedule))) from None

    def stand_in(self, entry: Entry) -> Plan:
        """A plan of as many evaluations that stands for the measured one; equal plans have equal ones."""
        plan = _stand_in(entry.plan.nfe, self._plans[entry.plan.digest])
        self._by_stand_in[plan.digest] = entry.plan
        return plan

    def measured(self, plan: Plan) -> Measured:
        """What is known of the plan that this one stands for."""
        return self._by_stand_in[plan.digest]


@functools.cache
def _stand_in(nfe: int, number: int) -> Plan:
    # A sigma of its own makes the digest its own.
    return trace(Euler(), EDM(nfe, sigma_max=80.0 + number, final="sigma_min").sigmas().tolist())


def save(table: Table, file: Path) -> None:
    """Write a table: a zip of arrays and one JSON, nothing that could be run when it is read.

    Leave-one-out values are kept as deviations from the FID in units of its error, in half precision, and distances in
    half precision: to 0.05 %, far inside what they say. Written whole or not at all.
    """
    plans = list({entry.plan.digest: entry.plan for entry in table}.values())
    number = {plan.digest: i for i, plan in enumerate(plans)}
    lessons = list({lesson.key: lesson for entry in table for lesson in entry.lessons}.values())
    at = {lesson.key: i for i, lesson in enumerate(lessons)}
    arrays: dict[str, Array] = {
        "nfe": np.array([plan.nfe for plan in plans], np.int16),
        "seconds": np.array([plan.seconds for plan in plans], np.float32),
        "features": np.array([plan.teacher.features for plan in plans], np.float16),
        "pixels": np.array([plan.teacher.pixels for plan in plans], np.float16),
    }
    rungs = [score.images for score in plans[0].scores]
    for i, images in enumerate(rungs):
        arrays |= _packed(f"at_{images}", [plan.scores[i] for plan in plans])
    confirmed = [plan for plan in plans if plan.confirmed is not None]
    arrays["confirmed"] = np.array([number[plan.digest] for plan in confirmed], np.int32)
    arrays |= _packed("confirmed", [plan.confirmed for plan in confirmed if plan.confirmed is not None])
    entries = [
        [_parts(entry.spec), number[entry.plan.digest], [at[lesson.key] for lesson in entry.lessons]] for entry in table
    ]
    held = {
        "format": FORMAT,
        "study": table.study,
        "about": table.about,
        "rungs": rungs,
        "confirmed_images": confirmed[0].confirmed.images if confirmed and confirmed[0].confirmed else 0,
        "digests": [plan.digest for plan in plans],
        "lessons": [[lesson.key, lesson.rows, lesson.images, lesson.seconds] for lesson in lessons],
        "entries": entries,
    }
    partial = file.with_name(f"{file.name}.part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_LZMA) as opened:
        opened.writestr("table.json", json.dumps(held, separators=(",", ":")))
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            opened.writestr(f"{name}.npy", buffer.getvalue())
    os.replace(partial, file)


def load(file: Path) -> Table:
    """Read a table.

    Raises:
        SpecError: no such file, or no table of this version.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            held = json.loads(opened.read("table.json"))
            names = [name.removesuffix(".npy") for name in opened.namelist() if name.endswith(".npy")]
            arrays = {
                name: np.load(io.BytesIO(opened.read(f"{name}.npy")), allow_pickle=False).astype(np.float64)
                for name in names
            }
        if held["format"] != FORMAT:
            raise SpecError("is a table of another version", path="format", given=held["format"], allowed=str(FORMAT))
        return _table(held, arrays)
    except SpecError as error:
        raise error.under(file=str(file)) from None
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror or error})", file=str(file)) from None
    except Exception as error:  # a torn file breaks zipfile, its decompressors, numpy or JSON, each in its own way
        raise SpecError(f"is no table of a replay ({type(error).__name__})", file=str(file)) from None


def _table(held: Mapping[str, Any], arrays: Mapping[str, Array]) -> Table:
    count = len(held["digests"])
    about = dict(held["about"])
    about |= {name: about[name] for name in ABOUT}
    columns = [_unpacked(f"at_{images}", images, arrays) for images in held["rungs"]]
    confirmed: dict[int, Estimate] = {}
    if len(arrays["confirmed"]):
        scores = _unpacked("confirmed", held["confirmed_images"], arrays)
        confirmed = dict(zip(arrays["confirmed"].astype(int).tolist(), scores, strict=True))
    plans = [
        Measured(
            digest=held["digests"][i],
            nfe=int(arrays["nfe"][i]),
            seconds=float(arrays["seconds"][i]),
            teacher=TeacherDistance(tuple(arrays["features"][i].tolist()), tuple(arrays["pixels"][i].tolist())),
            scores=tuple(column[i] for column in columns),
            confirmed=confirmed.get(i),
        )
        for i in range(count)
    ]
    lessons = [Lesson(*values) for values in held["lessons"]]
    benchmark = held["study"]["benchmark"]
    return Table(
        held["study"],
        about,
        (
            Entry(TrialSpec(benchmark, **parts), plans[plan], tuple(lessons[i] for i in taken))
            for parts, plan, taken in held["entries"]
        ),
    )


def _parts(spec: TrialSpec) -> dict[str, Any]:
    held = {"solver": dict(spec.solver), "schedule": dict(spec.schedule)}
    rest = {"afs": spec.afs, "denoise_to_zero": spec.denoise_to_zero, "churn": spec.churn and dict(spec.churn)}
    return held | {name: value for name, value in rest.items() if value}


def _packed(name: str, scores: Sequence[Estimate]) -> dict[str, Array]:
    groups = [np.asarray(score.leave_one_out) - score.fid for score in scores]
    # Under the name of the error, which it was at first: any scale reads back, and this one cannot overflow.
    scales = np.array([np.abs(each).max(initial=0.0) for each in groups], np.float32)
    spread = [each / scale if scale else 0 * each for each, scale in zip(groups, scales.astype(float), strict=True)]
    return {
        f"{name}_fid": np.array([score.fid for score in scores], np.float32),
        f"{name}_se": scales,
        f"{name}_groups": np.array(spread, np.float16),
    }


def _unpacked(name: str, images: int, arrays: Mapping[str, Array]) -> list[Estimate]:
    fids, ses = arrays[f"{name}_fid"], arrays[f"{name}_se"]
    each = fids[:, None] + arrays[f"{name}_groups"] * np.where(ses == 0, 1.0, ses)[:, None]
    return [Estimate.of(images, fid, tuple(row)) for fid, row in zip(fids.tolist(), each.tolist(), strict=True)]
