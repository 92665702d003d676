"""Trials with made-up scores and real plans, for the tests of the record and of the reports."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.agenda import leaders
from pipeline.comparison import Estimate
from pipeline.evidence import Evidence, TeacherDistance
from pipeline.plan import Plan
from pipeline.result import Role, TrialRecord, TrialResult
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import Euler
from pipeline.trial import TrialSpec

BUDGETS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30)
VERSIONS = {"python": "3.11.7", "torch": "2.6.0"}


CONFIRM_SEED = 1_000_000
RUNGS = (800, 2400)
# By how much other seeds raise every FID, and those that were chosen by theirs on top of that.
SEEDS_EFFECT, OPTIMISM = 0.003, 0.001


@functools.cache
def euler_plan(nfe: int, rho: float = 7.0) -> Plan:
    return trace(Euler(), EDM(nfe, rho=rho).sigmas().tolist())


def result(nfe: int, fid: float, se: float = 0.002, *, setup_rows: int = 0, **spec: Any) -> TrialResult:
    solver = spec.pop("solver", {"name": "euler"})
    schedule = spec.pop("schedule", {"name": "edm", "num_steps": nfe})
    held = {"benchmark": "digits-kde", "images": 8000, "first_seed": 0, "shard_images": 400} | spec
    trial = TrialSpec(solver=solver, schedule=schedule, **held)
    return TrialResult(
        spec=trial,
        plan=euler_plan(nfe),
        solver=solver,
        score=score(fid, se, trial.images),
        fid_infinity=fid - 0.011,
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


def score(fid: float, se: float, images: int = 8000, groups: int = 20, roll: int = 0) -> Estimate:
    """A score with this error, its leave-one-out values spread evenly; all of one `roll` alike, so that pairs agree."""
    spread = np.roll(np.linspace(-1, 1, groups), roll)
    spread *= se / math.sqrt((groups - 1) / groups * float(np.square(spread).sum()))
    return replace(Estimate.of(images, fid, tuple((fid + spread).tolist())), corrected=fid - 0.01)


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


def climbed(records: Sequence[TrialRecord], budgets: Sequence[int], stopped: int = 12) -> list[TrialRecord]:
    """The study as one with rungs ends: each trial with a plan of its own and evidence, `stopped` ones, confirmations.

    A confirmation scores SEEDS_EFFECT more. That of a searched trial scores OPTIMISM on top, for a chosen plan is
    lucky, and has 1.1 times the error, so that its paired differences have one.
    """
    held = [item if item.result is None else _with_evidence(item) for item in records]
    for number in range(stopped):
        reached = number % (1 + len(RUNGS))
        nfe, fid = 3 + number % 10, 0.5 + 0.1 * number
        scores = tuple(_rung_score(fid, images, number) for images in RUNGS[:reached])
        digest = euler_plan(nfe, 9.0 + number / 100).digest
        rows = nfe * (RUNGS[reached - 1] if reached else 128)
        evidence = Evidence(digest, nfe, 17.0, _teacher(fid, number), scores, rows)
        key, reason = f"searched/{1000 + number}", "behind the front"
        held.append(TrialRecord(key, "searched", "pruned", "SDM", reason=reason, evidence=evidence))
    return held + [_confirmation(item) for item in leaders(held, budgets)]


def _with_evidence(item: TrialRecord) -> TrialRecord:
    assert item.result is not None
    number = zlib.crc32(item.key.encode()) % 1000
    plan = euler_plan(int(item.result.nfe), 7.0 + number / 1000)
    scores = (*(_rung_score(item.result.fid, images, number) for images in RUNGS), item.result.score)
    spent = item.result.rows + item.result.setup_rows
    teacher = _teacher(item.result.fid, number)
    evidence = Evidence(plan.digest, len(plan), item.result.setup_nfe, teacher, scores, spent)
    return replace(item, result=replace(item.result, plan=plan), evidence=evidence)


def _rung_score(fid: float, images: int, number: int) -> Estimate:
    noise = math.sin(number) * 0.3 / math.sqrt(images)
    return score(fid * (1 + noise) + 80 / images, 0.01, images)


def _teacher(fid: float, number: int) -> TeacherDistance:
    distance = math.sqrt(max(fid - 0.06, 0.001)) * (1 + 0.1 * math.cos(number))
    return TeacherDistance((distance, 1.1 * distance, 0.9 * distance), (0.1 * distance,) * 3)


def _confirmation(item: TrialRecord) -> TrialRecord:
    assert item.result is not None
    assert item.evidence is not None
    held = item.result
    searched = item.role in ("published", "searched")
    fid, se = held.fid + SEEDS_EFFECT + searched * OPTIMISM, held.fid_se * (1.1 if searched else 1.0)
    again = replace(
        held, spec=replace(held.spec, first_seed=CONFIRM_SEED), score=score(fid, se, roll=7),
        fid_infinity=fid - 0.011,
    )  # fmt: skip
    evidence = replace(item.evidence, teacher=None, scores=(again.score,), spent_rows=held.rows)
    key = f"confirmed/{item.key}"
    return TrialRecord(
        key, "confirmed", "complete", item.method, again, item.budget, evidence=evidence, confirms=item.key
    )


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
    records.append(TrialRecord(f"searched/{trials}", "searched", "failed", "SDM", reason="not finite"))
    return climbed(records, BUDGETS, stopped=40)
