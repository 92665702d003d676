"""What tracing costs once, and what a plan costs beside the eager loop."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS

SPECS = [
    {"name": "euler"},
    {"name": "dpm_solver_pp", "order": 2},
    {"name": "unipc", "order": 2},
    {"name": "ipndm", "order": 4},
]
# Every solver at its highest order, and what else makes a row dear.
HIGHEST = {"dpm_solver_pp": 3, "dpm_solver_pp_singlestep": 3, "unipc": 3, "deis": 3}
TRACED = [
    *({"name": name, **({"order": HIGHEST[name]} if name in HIGHEST else {})} for name in SOLVERS.names()),
    {"name": "switch", "rule": "cosine", "low": {"name": "ipndm"}, "high": {"name": "unipc", "order": 3}},
]
LIMIT_MS = 5.0
SIGMAS = EDM(40).sigmas().tolist()
every_solver = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])


@pytest.mark.parametrize(
    "spec", TRACED, ids=lambda spec: "-".join(str(v) for v in spec.values() if type(v) is not dict)
)
def test_trace_40_steps(benchmark, spec, show):
    solver = SOLVERS.build(spec if spec["name"] != "switch" else {"switch_at": 20, **spec})
    plan = benchmark(trace, solver, SIGMAS)
    took = 1000 * benchmark.stats.stats.median
    show(f"{took:.2f} ms, {len(plan)} evaluations")
    benchmark.extra_info["nfe"] = len(plan)
    assert took <= LIMIT_MS


@every_solver
def test_run_40_steps_beside_the_eager_loop(benchmark, spec, show):
    """A CIFAR-10 batch and a denoiser that costs nearly nothing, so that only the arithmetic of the sampler counts."""
    solver = SOLVERS.build(spec)
    plan = trace(solver, SIGMAS)
    noise = torch.randn((64, 3, 32, 32), generator=torch.Generator().manual_seed(0))

    def denoise(x, sigma):
        return x * (1 / (1 + sigma**2))

    def eager():
        return integrate(denoise, SIGMAS[0] * noise, SIGMAS, solver)

    torch.testing.assert_close(plan.run(denoise, noise), eager(), rtol=1e-3, atol=1e-4)
    times = {"plan": [], "eager": []}
    for _ in range(7):  # in turn, so that a busy machine slows both
        for name, call in (("plan", lambda: plan.run(denoise, noise)), ("eager", eager)):
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    ratio = statistics.median(times["plan"]) / statistics.median(times["eager"])
    benchmark.extra_info["plan_over_eager"] = round(ratio, 3)
    show(f"{spec['name']}: Plan.run takes {ratio:.2f} of the eager loop's time")
    benchmark(plan.run, denoise, noise)
