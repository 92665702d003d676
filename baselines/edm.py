"""Euler and Heun on EDM's schedule, as the few-step tables of the field run them."""

from __future__ import annotations

from pipeline.methods import METHODS, Method, Pair


def _ddim(nfe: int) -> Pair | None:
    if nfe < 1:
        return None
    return {"name": "euler"}, {"name": "edm", "num_steps": nfe, "final": "sigma_min"}


def _heun(nfe: int) -> Pair | None:
    """Even budgets stop at sigma_min (two evaluations a move); odd ones go on to 0, whose move costs one."""
    if nfe < 1:
        return None
    final = "zero" if nfe % 2 else "sigma_min"
    return {"name": "heun"}, {"name": "edm", "num_steps": (nfe + 1) // 2, "final": final}


METHODS.register(
    Method(
        name="ddim",
        title="DDIM",
        source="Song et al., 2021, arXiv 2010.02502; on the polynomial schedule, rho 7: zju-pi/diff-sampler, README",
        pair=_ddim,
    )
)
METHODS.register(
    Method(
        name="heun",
        title="Heun",
        source="Karras et al., 2022, arXiv 2206.00364, Algorithm 1 (odd NFE); zju-pi/diff-sampler, README (even NFE)",
        pair=_heun,
    )
)
