"""What the contracts are tested with: every registered solver and schedule, and more specs where one is too few."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.plan import Plan
from pipeline.registry import to_spec
from pipeline.sampler import Sampler
from pipeline.schedules import SCHEDULES, Given
from pipeline.solvers import SOLVERS, Solver
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE

# More than the defaults, for what has more to test, and what cannot be built from a name alone. A name that is neither
# here nor buildable from its name fails.
SOLVER_EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "heun": [{"name": "heun"}, {"name": "heun", "alpha": 0.5}],
    "dpm_solver_pp": [
        *({"name": "dpm_solver_pp", "order": k, "predict_x0": x0} for k in (1, 2, 3) for x0 in (True, False)),
        {"name": "dpm_solver_pp", "order": 3, "lower_order_final": False},
        {"name": "dpm_solver_pp", "order": 2, "variant": "heun"},
        {"name": "dpm_solver_pp", "order": 2, "variant": "heun", "predict_x0": False},
        *({"name": "dpm_solver_pp", "order": 3, "third_order": "exact", "predict_x0": x0} for x0 in (True, False)),
    ],
    "dpm_solver_2": [{"name": "dpm_solver_2", "r": r} for r in (0.3, 0.5, 1.0)],
    "dpm_solver_pp_singlestep": [
        *(
            {"name": "dpm_solver_pp_singlestep", "order": k, "predict_x0": x0, "variant": variant}
            for k in (1, 2, 3)
            for x0 in (True, False)
            for variant in ("midpoint", "heun")
        ),
        {"name": "dpm_solver_pp_singlestep", "order": 2, "r1": 1.0},
        {"name": "dpm_solver_pp_singlestep", "order": 3, "variant": "heun", "r1": 0.5},
        {"name": "dpm_solver_pp_singlestep", "order": 3, "final_orders": [3, 2, 1]},
    ],
    "deis": [{"name": "deis", "order": k, "mode": mode} for k in (1, 2, 3) for mode in ("tab", "rhoab", "logrho")],
    "lms": [{"name": "lms", "order": k} for k in (1, 2, 3, 4)],
    "unipc": [
        *({"name": "unipc", "order": k, "predict_x0": x0} for k in (1, 2, 3) for x0 in (True, False)),
        {"name": "unipc", "order": 3, "variant": "bh1", "lower_order_final": False},
        {"name": "unipc", "order": 2, "disable_corrector": [0, 3]},
    ],
    "ipndm": [{"name": "ipndm", "order": k} for k in (1, 2, 3, 4)],
    "ipndm_v": [{"name": "ipndm_v", "order": k, "coefficients": c} for k in (2, 3, 4) for c in ("published", "exact")],
    "switch": [
        {"name": "switch"},
        {"name": "switch", "tau_k": 0.2},
        {"name": "switch", "rule": "linear"},
        {
            "name": "switch",
            "low": {"name": "dpm_solver_pp", "order": 1},
            "high": {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False},
        },
        {
            "name": "switch",
            "low": {"name": "dpm_solver_pp", "order": 1},
            "high": {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False},
            "rule": "cosine",
        },
        {"name": "switch", "low": {"name": "heun"}, "high": {"name": "unipc"}, "tau_k": 0.2, "curvature": "absolute"},
    ],
}
SCHEDULE_EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "ays": [
        {"name": "ays"},
        {"name": "ays", "table": "sdxl", "num_steps": 7, "final": "zero"},
        {"name": "ays", "table": "svd", "num_steps": 1},
        {"name": "ays", "table": "deepfloyd_if", "final": "zero_in_place"},
    ],
    "cos": [
        {"name": "cos", "num_steps": 8},
        {"name": "cos", "num_steps": 8, "final": "sigma_min", "probe_steps": 30, "knots": "all"},
        {"name": "cos", "num_steps": 1},
    ],
    "edm": [{"name": "edm", "num_steps": n, "final": end} for n in (1, 7) for end in ("zero", "sigma_min")],
    "given": [{"name": "given", "values": [80.0, 3.0, 0.5, 0.0]}, {"name": "given", "values": [10, 0.1]}],
    "gits": [
        {"name": "gits", "num_steps": 6},
        {"name": "gits", "num_steps": 6, "final": "zero", "metric": "l2", "teacher": {"name": "heun"}, "warmup": 40},
        {"name": "gits", "num_steps": 6, "teacher": {"name": "switch"}, "teacher_steps": 20, "warmup": 40},
        {"name": "gits", "num_steps": 6, "final": "zero", "afs_search": True, "teacher_steps": 20, "warmup": 40},
    ],
    "iddpm": [{"name": "iddpm", "num_steps": n, "final": end} for n in (1, 7) for end in ("zero", "sigma_min")],
    "sdm": [
        {"name": "sdm", "num_steps": 8},
        {"name": "sdm", "num_steps": 8, "final": "sigma_min"},
        {"name": "sdm", "num_steps": 8, "enforce_bound": True, "mover": "heun"},
    ],
}


def examples(names: Sequence[str], held: dict[str, list[dict[str, Any]]], **fallback: Any) -> list[Any]:
    specs = [spec for name in names for spec in held.get(name, [{"name": name, **fallback}])]
    return [pytest.param(spec, id=",".join(f"{k}={v}" for k, v in spec.items())[5:]) for spec in specs]


every_solver = pytest.mark.parametrize("spec", examples(SOLVERS.names(), SOLVER_EXAMPLES))
every_schedule = pytest.mark.parametrize("spec", examples(SCHEDULES.names(), SCHEDULE_EXAMPLES, num_steps=8))


def noise(images: int) -> Tensor:
    """As much fixed calibration noise as is wanted."""
    rounds = math.ceil(images / len(CALIBRATION_LATENTS))
    return torch.cat([CALIBRATION_LATENTS.roll(k, 1) for k in range(max(rounds, 1))])[:images]


def prepare(spec: dict[str, Any], sigmas: Sequence[float], denoise: Any = MIXTURE) -> tuple[Solver, Plan]:
    """The solver, calibrated on these sigmas if it is of that kind, and its plan."""
    sampler = Sampler(SOLVERS.build(spec), Given(tuple(sigmas)))
    ready, plan = sampler.prepare(denoise, noise(sampler.calibration_images))
    return ready.solver, plan


@contextmanager
def global_randomness_untouched() -> Iterator[None]:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  # the global generator is what must not be touched
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])  # noqa: NPY002  # the global generator is what must not be touched
    assert random.getstate() == before[2]


def survives(instance: Any, registry: Any) -> None:
    """Frozen; the same after pickling and after JSON."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.order = 1
    assert pickle.loads(pickle.dumps(instance)) == instance
    assert registry.build(json.loads(json.dumps(to_spec(instance)))) == instance
