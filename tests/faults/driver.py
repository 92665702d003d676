"""A driver as a process of its own, to be killed: `sigmasearch` on the tiny study, and what it has left behind."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline import yaml_file
from pipeline.ledger import Ledger
from pipeline.result import TrialRecord
from search_spaces import load

TINY = Path(__file__).parents[1] / "data" / "tiny.yaml"
COMMAND = "from pipeline.cli import main; main()"
# A fixed list: nothing is proposed, so that runs which are cut at other places sample the same trials.
LISTED: dict[str, Any] = {
    "study": "listed",
    "trials": 10,
    "images": 400,
    # Every rung is climbed, and stops nobody: who is stopped hangs on which of two trials ends first.
    "rungs": {"teacher": 40, "images": [100, 200], "slack": 1000.0, "confidence": 0.999999999999},
    "baselines": ["ddim", "heun"],
    "published": [
        {"solver.low": "euler", "solver.tau_k": [2e-3, 0.5], "schedule.num_steps": [2, 3, 4, 5],
         "schedule.eta_max": 0.4, "schedule.eta_min": 0.01},
        {"solver.low": "ipndm-3", "solver.tau_k": 0.5, "schedule.num_steps": [3, 5], "schedule.eta_max": 0.1,
         "schedule.eta_min": 0.01},
    ],
}  # fmt: skip


def study_file(folder: Path, changes: Mapping[str, Any]) -> Path:
    """The tiny study with these changes, as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(yaml_file.read(TINY)) | dict(changes)))
    return file


def plain_environment() -> dict[str, str]:
    """This process's own without settings of Ray and MLflow; others, of OpenBLAS, may decide the last bits."""
    held = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return held | {"OMP_NUM_THREADS": "1"}


def _hear() -> None:
    """A job in the background of a script, as CI may be, ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(file: Path, folder: Path, *more: str, hears: bool = True, **environment: str) -> subprocess.Popen[str]:
    """`sigmasearch search` on the file, with its run directory in `folder`, in a process group of its own.

    `hears`: Ctrl-C, whatever this process does.
    """
    argv = [sys.executable, "-W", "ignore", "-c", COMMAND, "search", str(file), "--run-dir", str(folder / "run"), *more]
    return subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=plain_environment() | environment,
        start_new_session=True,
        preexec_fn=_hear if hears else None,
    )


def finish(file: Path, folder: Path, *more: str, timeout: float = 240) -> str:
    """The same, to its end; what it printed."""
    process = start(file, folder, *more)
    told, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, told
    return told


def records(file: Path, folder: Path) -> dict[str, TrialRecord]:
    """What the storage holds of the study."""
    study = load(file)
    ledger = Ledger(folder / "run", study.study, study.draw, study.optimizer.name, study.optimizer.seed, 0)
    return {record.key: record for record in ledger.records()}


def numbers(found: Mapping[str, TrialRecord]) -> dict[str, Any]:
    """All that must be the same to the last bit, however often a run was cut."""
    return {
        key: (
            record.state,
            record.params,
            record.same_as,
            record.evidence and (record.evidence.digest, record.evidence.nfe, record.evidence.teacher),
            record.evidence and record.evidence.scores,
            record.result and (record.result.score, record.result.fid_infinity, record.result.plan.digest),
        )
        for key, record in found.items()
    }
