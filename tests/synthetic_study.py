"""Trials with made-up scores and real plans, for the tests of the record and of the reports."""

from __future__ import annotations

import functools
import math
from typing import Any

from pipeline.plan import Plan
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import Euler
from pipeline.trial import Role, TrialRecord, TrialResult, TrialSpec

BUDGETS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30)
VERSIONS = {"python": "3.11.7", "torch": "2.6.0"}


@functools.cache
def euler_plan(nfe: int) -> Plan:
    return trace(Euler(), EDM(nfe).sigmas().tolist())


def result(nfe: int, fid: float, se: float = 0.002, *, setup_rows: int = 0, **spec: Any) -> TrialResult:
    solver = spec.pop("solver", {"name": "euler"})
    schedule = spec.pop("schedule", {"name": "edm", "num_steps": nfe})
    held = {"benchmark": "digits-kde", "images": 8000, "first_seed": 0, "shard_images": 400} | spec
    trial = TrialSpec(solver=solver, schedule=schedule, **held)
    return TrialResult(
        spec=trial,
        plan=euler_plan(nfe),
        solver=solver,
        fid=fid,
        fid_se=se,
        fid_corrected=fid - 0.01,
        nfe=float(nfe),
        setup_nfe=setup_rows / 128,
        setup_rows=setup_rows,
        rows=nfe * trial.images,
        seconds=2.0,
        benchmark_version=1,
        reference_hash="feedc0de12345678",
        model_hash="0123456789abcdef",
        git_revision="a1b2c3d4e5f6",
        versions=VERSIONS,
    )


def record(key: str, nfe: int, fid: float, se: float = 0.002, *, method: str = "", **more: Any) -> TrialRecord:
    role: Role = more.pop("role", key.split("/")[0])
    params = more.pop("params", {})
    same_as = more.pop("same_as", "")
    budget = nfe if role == "baseline" else None
    scored = result(nfe, fid, se, **more)
    return TrialRecord(key, role, "complete", method or role, scored, budget, params, same_as=same_as)


def small_study() -> list[TrialRecord]:
    """Fifteen trials: a floor, two baselines at four budgets, a published setting, five searched ones."""
    records = [record("floor", 31, 0.07, 0.002, role="floor", method="Heun on edm")]
    for nfe, ddim, ipndm in ((3, 0.9, 0.4), (4, 0.7, 0.2), (6, 0.4, 0.1), (10, 0.2, 0.071)):
        records.append(record(f"baseline/ddim/{nfe}", nfe, ddim, method="DDIM"))
        records.append(record(f"baseline/ipndm/{nfe}", nfe, ipndm, method="iPNDM · 4"))
    records.append(record("searched/0", 5, 0.3, role="published", method="SDM", setup_rows=2176))
    searched = {1: (3, 0.3), 2: (4, 0.199), 9: (6, 0.08), 10: (6, 0.08)}
    for number, (nfe, fid) in searched.items():
        held = {"eta_max": 0.1 * number, "tau_k": 2e-4, "rule": "step"}
        records.append(record(f"searched/{number}", nfe, fid, method="SDM", params=held, setup_rows=2176))
    records.append(
        TrialRecord("searched/11", "searched", "pruned", "SDM", params={"eta_max": 0.2}, reason="behind the front")
    )
    records.append(TrialRecord("searched/12", "searched", "failed", "SDM", reason="3 of 400 samples are not finite"))
    return records


def demo_study(trials: int = 110) -> list[TrialRecord]:
    """As large as the demo: eleven budgets, nine baselines, `trials` searched ones; for looking at, and for timing."""
    floor = 0.07
    records = [record("floor", 127, floor, 0.0012, role="floor", method="Heun on edm, fine")]
    methods = {
        "DDIM": 1.9, "Heun": 2.4, "DPM-Solver++(2M)": 0.9, "DPM-Solver++(3M)": 0.75, "UniPC-2": 0.72, "UniPC-3": 0.6,
        "iPNDM-4": 0.55, "GITS · Euler": 1.1, "GITS · iPNDM": 0.35,
    }  # fmt: skip
    for name, level in methods.items():
        for nfe in BUDGETS:
            if name == "Heun" and nfe % 2 == 0:
                continue
            fid = floor + level * math.exp(-0.42 * (nfe - 3)) * 1.2
            slug = name.lower().replace(" ", "")
            rows = 61 * 256 if name.startswith("GITS") else 0
            made = {"name": slug}, {"name": "gits" if rows else "edm", "num_steps": nfe}
            records.append(
                record(f"baseline/{slug}/{nfe}", nfe, fid, 0.002 + 0.01 * (fid - floor), method=name,
                       solver=made[0], schedule=made[1], setup_rows=rows)
            )  # fmt: skip
    for number in range(trials):
        nfe = 3 + number * 7 % 28
        wobble = (number * 37 % 101) / 101
        fid = floor * 0.99 + 0.25 * math.exp(-0.45 * (nfe - 3)) * (1 + 4 * wobble**2) + 0.3 * wobble**4
        solver = {
            "name": "switch",
            "low": {"name": "ipndm", "order": 3},
            "high": {"name": "heun"},
            "switch_at": number % 6,
        }
        role = "published" if number < 3 else "searched"
        records.append(
            record(f"searched/{number}", nfe, fid, 0.002 + 0.01 * (fid - floor), role=role, solver=solver,
                   schedule={"name": "sdm", "num_steps": nfe}, setup_rows=2176, method="SDM",
                   params={"eta_max": 0.1 + wobble, "tau_k": 2e-4, "q": 0.1})
        )  # fmt: skip
    records.append(TrialRecord(f"searched/{trials}", "searched", "pruned", "SDM", reason="behind the front"))
    records.append(TrialRecord(f"searched/{trials + 1}", "searched", "failed", "SDM", reason="not finite"))
    return records
