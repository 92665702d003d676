"""The portraits of a study's plans, one file each: what MLflow is shown can be shown again to an empty store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.cluster import Pool
from pipeline.portrait import Portrait
from pipeline.result import TrialRecord
from pipeline.teacher import Teacher
from pipeline.whole_file import write_whole
from pipeline.worker import Compared, Evaluated, Outcome, Task

FOLDER = "portraits"


class PortraitStore:
    """Portraits by the plan's digest, in a folder that is made when the first is kept. Equal plans share theirs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, digest: str, portrait: Portrait) -> None:
        """Keep a portrait, if none is there: the first batch that showed the plan is what is shown of it.

        Raises:
            OSError: the file cannot be written; nothing is left of it then.
        """
        file = self._file(digest)
        if file.exists():
            return
        arrays = {
            "sigmas": np.array(portrait.sigmas),
            "kappas": np.array(portrait.kappas),
            "etas": np.array(portrait.etas),
            "images": np.array(portrait.images),
        }
        if portrait.pixels is not None:
            arrays["pixels"] = np.ascontiguousarray(portrait.pixels)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, save(arrays, {"plan": digest}))

    def take(self, digest: str) -> Portrait | None:
        """The portrait of a plan; None where there is none that can be read."""
        try:
            with safe_open(self._file(digest), "np") as opened:
                if (opened.metadata() or {}).get("plan") != digest:
                    return None
                held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            sigmas, kappas, etas = (tuple(held[name].tolist()) for name in ("sigmas", "kappas", "etas"))
            return Portrait(sigmas, kappas, etas, int(held["images"]), held.get("pixels"))
        except (OSError, KeyError, TypeError, ValueError, SafetensorError):
            return None

    def of(self, record: TrialRecord) -> Portrait | None:
        """The portrait of a trial's plan."""
        digest = digest_of(record)
        return self.take(digest) if digest else None

    def adopt(self, other: PortraitStore) -> None:
        """Take over those of another study, as a fork does with its trials."""
        if other._folder.is_dir():
            shutil.copytree(other._folder, self._folder, dirs_exist_ok=True)

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest}.safetensors"


def digest_of(record: TrialRecord, *, sampled: bool = False) -> str:
    """The digest of a trial's plan; empty where it came to none, or with `sampled` where it gave no image."""
    if record.result is not None:
        return record.result.plan.digest
    evidence = record.evidence
    if evidence is None or (sampled and evidence.teacher is None and not evidence.scores):
        return ""
    return evidence.digest


class PortraitPool:
    """A pool that keeps the portraits which come with the first images; `first_seed` is the study's.

    Kept before the driver hears of the images themselves, so that what it knows of has a portrait whoever is killed.
    """

    def __init__(self, pool: Pool, portraits: PortraitStore, first_seed: int) -> None:
        self._pool, self._portraits, self._first_seed = pool, portraits, first_seed
        self.submit, self.cancel, self.close = pool.submit, pool.cancel, pool.close

    @property
    def size(self) -> int:
        """How many workers there may be."""
        return self._pool.size

    def share(self, teacher: Teacher) -> None:
        """Give every worker the teacher."""
        self._pool.share(teacher)

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """As of the pool."""
        answer = self._pool.next(timeout)
        if answer is None:
            return None
        task, outcome = answer
        portrait = outcome.portrait if isinstance(outcome, Compared | Evaluated) else None
        if portrait is not None and task.plan is not None and task.spec.first_seed == self._first_seed:
            self._portraits.keep(task.plan.digest, portrait)
        return answer
