"""k-diffusion: a sampling function with the arguments of its own (crowsonkb/k-diffusion, k_diffusion/sampling.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.export import text
from pipeline.export.python import SAMPLE, table
from pipeline.export.target import TARGETS, Source

SAMPLE_PLAN = '''\
@torch.no_grad()
def sample_plan(model, x, sigmas=None, extra_args=None, callback=None, disable=None, fresh=None):
    """The samples, from x = SIGMAS[0] * noise; `model(x, sigma, **extra_args)` gives the denoised x.

    The coefficients hold on SIGMAS alone, so `sigmas` is these or nothing. `callback` is called once an evaluation,
    with its move, of MOVES, as "i". `fresh(k)` gives the k-th fresh noise; without it torch's generator does.
    """
    check(sigmas)
    extra_args = {} if extra_args is None else extra_args
    ones = x.new_ones([x.shape[0]])
    moves = iter(MOVES)

    def denoise(x, sigma):
        levels = sigma * ones
        denoised = model(x, levels, **extra_args)
        if callback is not None:
            callback({"x": x, "i": next(moves), "sigma": levels[0], "sigma_hat": levels[0], "denoised": denoised})
        return denoised

    return sample(denoise, x / SIGMAS[0], fresh or (lambda k: torch.randn_like(x)))


def check(sigmas):
    given = SIGMAS if sigmas is None else [float(sigma) for sigma in sigmas]
    if len(given) != len(SIGMAS) or any(abs(a - b) > 1e-5 * b for a, b in zip(given, SIGMAS, strict=True)):
        raise ValueError("the plan's coefficients hold on its own sigmas alone: leave `sigmas` out, or give SIGMAS")
'''


def moved(source: Source) -> str:
    """The table, and which move of the schedule each evaluation belongs to."""
    told = "# The move of the schedule that each evaluation belongs to."
    return f"{table(source)}{told}\nMOVES = {text.moves(source)}\n"


@TARGETS.register("k-diffusion")
@dataclass(frozen=True)
class KDiffusion:
    """`sample_plan(model, x, sigmas, extra_args, callback, disable)`, for its wrapped models."""

    registry_name: ClassVar[str]
    summary: ClassVar[str] = "sample_plan(model, x, sigmas=None, extra_args=None, callback=None, disable=None)"

    def render(self, source: Source) -> str:
        """The file's text."""
        head = text.header(source, "A diffusion sampler for k-diffusion: sample_plan(model, x).")
        return f"{head}\nimport torch\n\n{moved(source)}\n\n{SAMPLE}\n\n{SAMPLE_PLAN}"
