"""Plans made into cards, cards into source text, and source text into modules."""

from __future__ import annotations

import json
import types
from typing import Any

import torch

from pipeline.card import SCHEMA
from pipeline.churn import Churn
from pipeline.export.target import TARGETS, Source
from pipeline.noise import noise
from pipeline.plan import Plan
from pipeline.registry import build_dataclass
from pipeline.sampler import trace
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from pipeline.steps import steps
from pipeline.trial import TrialSpec

SEEDS = range(3)
HEUN_SWITCH = {"name": "switch", "switch_at": 3}
MULTISTEP = {"name": "unipc", "order": 3}

# What a plan may be like: several evaluations a step, states, a free first step, fresh noise, either end.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "euler": ({"name": "euler"}, {"num_steps": 5}, {}),
    "switch": (HEUN_SWITCH, {"num_steps": 6}, {}),
    "unipc": (MULTISTEP, {"num_steps": 6}, {}),
    "multistep-to-sigma-min": ({"name": "dpm_solver_pp", "order": 3}, {"num_steps": 6, "final": "sigma_min"}, {}),
    "afs": (MULTISTEP, {"num_steps": 6}, {"afs": True}),
    "denoise-to-zero": (
        {"name": "ipndm", "order": 4}, {"num_steps": 5, "final": "sigma_min"}, {"denoise_to_zero": True},
    ),
    "churn": ({"name": "heun"}, {"num_steps": 4}, {"churn": {"s_churn": 3.0, "s_noise": 1.003}}),
    "churn-in-the-middle": ({"name": "euler"}, {"num_steps": 6}, {"churn": {"s_churn": 3.0, "s_max": 30.0}}),
}  # fmt: skip


def source(kind: str, **card: Any) -> Source:
    """A card of that kind, as read from a file; `card` replaces keys of it."""
    solver, schedule, loop = KINDS[kind]
    return made(solver, {"name": "edm"} | schedule, loop, **card)


def made(solver: dict[str, Any], schedule: dict[str, Any], loop: dict[str, Any], **card: Any) -> Source:
    """A card of this solver, its decision taken, on this schedule."""
    spec = TrialSpec("gmm", solver, schedule, **loop)
    sigmas = SCHEDULES.build(schedule).sigmas().tolist() + ([0.0] if spec.denoise_to_zero else [])
    churn = None if spec.churn is None else build_dataclass(Churn, spec.churn)
    return of(spec, trace(SOLVERS.build(solver), sigmas, afs=spec.afs, churn=churn), **card)


def of(spec: TrialSpec, plan: Plan, **card: Any) -> Source:
    told = [step._asdict() for step in steps(spec, spec.solver, plan)]
    content = {
        "schema": SCHEMA,
        "method": "a method",
        "nfe": len(plan),
        "benchmark": {"name": "gmm", "version": 2, "model_hash": "ab" * 32, "reference_hash": "cd" * 32},
        "spec": spec.to_json(),
        "solver": dict(spec.solver),
        "plan_digest": plan.digest,
        "plan": plan.to_json(),
        "revision": "a1b2c3d4e5f6",
        "steps": {key: [step[key] for step in told] for key in ("sigma", "to", "solver", "evaluations")},
    }
    return Source(spec, plan, json.loads(json.dumps(content | card)))


def text(target: str, card: Source) -> str:
    return TARGETS.get(target)().render(card)


def module(target: str, card: Source) -> Any:
    """The exported file, run; registered nowhere."""
    held = types.ModuleType("exported")
    exec(compile(text(target, card), "exported.py", "exec"), held.__dict__)
    return held


def start(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return noise(SEEDS, shape, dtype)


def fresh_noise(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Any:
    """Unit-normal noise of a stream, the same whenever it is asked for."""
    return lambda stream: noise(SEEDS, shape, dtype, stream=stream)
