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
SIGMAS = EDM(40).sigmas().tolist()
every_solver = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])


@every_solver
def test_trace_40_steps(benchmark, spec):
    solver = SOLVERS.build(spec)
    plan = benchmark(trace, solver, SIGMAS)
    benchmark.extra_info["nfe"] = len(plan)


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
