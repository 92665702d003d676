"""A study that is over, small and written straight into its ledger: real plans, really scored, in seconds."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import search_spaces
from pipeline import benchmarks, trial, yaml_file
from pipeline.benchmarks import FOLDER, Benchmark
from pipeline.evidence import Evidence
from pipeline.result import TrialRecord, TrialResult, describe
from pipeline.run_folder import claim
from pipeline.scoring import finish
from pipeline.shared_study import Driver
from pipeline.trial import TrialSpec
from search_spaces import Study
from tests.study_files import TINY

SWITCH = {"name": "switch", "low": {"name": "ipndm", "order": 3}, "high": {"name": "heun"}, "calibration_images": 16}
# The last two are decided alike elsewhere and not here: one is on the front, the other behind it.
SEARCHED: list[dict[str, Any]] = [
    {"solver": SWITCH | {"tau_k": tau_k}, "schedule": {"name": "edm", "num_steps": steps}}
    for steps, tau_k in ((2, 0.3), (3, 0.3), (5, 0.3), (6, 0.05), (6, 0.02))
]
IPNDM, EULER = {"name": "ipndm", "order": 2}, {"name": "euler"}
BASELINES = [
    ("ddim", 3, EULER, {"name": "edm", "num_steps": 3}),
    ("ipndm", 5, IPNDM, {"name": "edm", "num_steps": 5}),
    ("ddim", 5, EULER, {"name": "edm", "num_steps": 5, "sigma_min": 0.002, "sigma_max": 80.0}),
    ("ipndm", 7, IPNDM, {"name": "edm", "num_steps": 7}),
]


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def study_file(folder: Path, **changes: Any) -> Path:
    content = yaml_file.read(TINY) | {"images": 80, "shard_images": 20, "rungs": "none", "confirm": "none"} | changes
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def benchmark_file(folder: Path, **changes: Any) -> Path:
    """The shipped gmm with other numbers, so that it is another benchmark."""
    content = yaml_file.read(FOLDER / "gmm.yaml")
    content["model"] = {**content["model"], "seed": 5, **changes.pop("model", {})}
    file = folder / f"other-{len(list(folder.iterdir()))}.yaml"
    file.write_text(yaml.safe_dump(content | {"name": "other"} | changes))
    return file


def score(spec: TrialSpec, benchmark: Benchmark, prepared: trial.Prepared | None = None) -> TrialResult:
    """A spec measured, by the functions that workers use."""
    ready = prepared or trial.prepare(spec, benchmark)
    parts = [trial.evaluate(ready.plan, benchmark, seeds, spec.shard_images) for seeds in spec.batches()]
    return finish(spec, ready, [shard for part in parts for shard in part], benchmark)


def records(study: Study) -> list[TrialRecord]:
    held = benchmarks.load(study.benchmark)
    found = []
    for name, budget, solver, schedule in BASELINES:
        result = score(study.spec({"solver": solver, "schedule": schedule}), held)
        found.append(TrialRecord(f"baseline/{name}/{budget}", "baseline", "complete", name.upper(), result, budget))
    for pair in SEARCHED:
        result = score(study.spec(pair), held)
        found.append(TrialRecord("", "searched", "complete", describe(result), result))
    return found


def write(file: Path, folder: Path, found: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The run directory of a study with these trials; the trials as they are read back."""
    study = search_spaces.load(str(file))
    claim(folder, study.identity(), study.fingerprint).close()
    driver = Driver(study, None, console())
    ledger = driver.open_ledger(folder)
    for record in found:
        if record.role != "searched":
            ledger.add_measured(record)
            continue
        asked, _ = ledger.ask()
        assert record.result is not None
        evidence = Evidence(record.result.plan.digest, len(record.result.plan))
        ledger.tell(asked, record.result, evidence, dict(record.constraints))
    driver.close()
    return ledger.records()


def confirmation(record: TrialRecord, fid: float) -> TrialRecord:
    """The same plan's score on other seeds, made up."""
    assert record.result is not None
    again = replace(
        record.result,
        spec=replace(record.result.spec, first_seed=1_000_000),
        score=replace(record.result.score, fid=fid, corrected=fid),
    )
    return TrialRecord(
        f"confirmed/{record.key}", "confirmed", "complete", record.method, again, record.budget, confirms=record.key
    )
