"""How many images a second one core denoises with the digits' kernel density estimate."""

from __future__ import annotations

import pytest
import torch

from pipeline.benchmarks import load
from pipeline.noise import noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 80.0])
def test_rows_a_second(benchmark, sigma, dtype, show):
    digits = load("digits-kde")
    denoise = digits.denoiser()
    x = sigma * noise(range(1024), digits.shape, dtype)
    benchmark(denoise, x, sigma)
    rate = len(x) / benchmark.stats.stats.median
    benchmark.extra_info["rows_per_second"] = round(rate)
    show(f"sigma {sigma:g}, {str(dtype)[6:]}: {rate:,.0f} rows a second")
