"""The plan: a sampler written down as a table of linear combinations, one row for each network evaluation.

Every solver here is linear in x and in the denoiser's outputs, and only the sigmas decide the coefficients. `Tape` runs
a sampler on formal vectors and records, for each evaluation, its sigma and its input as a combination of earlier
inputs and outputs. `Plan.run` executes that table on tensors. Its length is the NFE, before any network has run.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import SpecError

Terms = dict[str, float]
# Fresh noise that a stochastic step adds: n1, n2, ...
FRESH = re.compile("n([1-9][0-9]{0,8})")
# Below this, beside the largest coefficient of its row, a coefficient is what rounding left of a zero.
NEGLIGIBLE = 1e-15


class FormalVector:
    """A combination of named vectors: the noise `n`, fresh noise `n3`, inputs `x3`, outputs `d3`, carried states `c3`.

    Its arithmetic is the least that a solver needs. `name` turns it into a single named term in place, so that whoever
    still holds it goes on with the name rather than with its expansion: that keeps every row short.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def __add__(self, other: FormalVector) -> FormalVector:
        terms = dict(self.terms)
        for key, value in other.terms.items():
            terms[key] = terms.get(key, 0.0) + value
        return FormalVector(terms)

    def __sub__(self, other: FormalVector) -> FormalVector:
        return self + (-1.0) * other

    def __rmul__(self, scalar: float) -> FormalVector:
        return FormalVector({key: scalar * value for key, value in self.terms.items()})

    def name(self, key: str) -> Terms:
        """Return the terms, cleaned of rounding dust, and become the vector called `key`."""
        terms, self.terms = self.cleaned(), {key: 1.0}
        return terms

    def cleaned(self) -> Terms:
        """The terms without those that are zero up to rounding, largest names first in a fixed order."""
        if not all(map(math.isfinite, self.terms.values())):
            raise SpecError(
                "the solver's coefficients are not finite on these sigmas",
                path="schedule",
                allowed="sigmas further apart",
            )
        limit = NEGLIGIBLE * max((abs(value) for value in self.terms.values()), default=0.0)
        return {key: self.terms[key] for key in sorted(self.terms, key=_register_order) if abs(self.terms[key]) > limit}


def _register_order(key: str) -> tuple[int, str]:
    return (int(key[1:].split(".")[0]) if len(key) > 1 else -1, key)


@dataclass(frozen=True)
class Stage:
    """One evaluation: the network sees `input` at `sigma`. `carry` forms solver states first (UniPC's corrected x)."""

    sigma: float
    input: Terms
    carry: dict[str, Terms] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A traced sampler. `len(plan)` is the NFE; `sigmas` is the schedule it was traced on, for people to read.

    Registers: `n` the unit-normal noise, `nk` the fresh noise of stream k, `xk` the input of evaluation k, `dk` its
    output, `ck...` a carried state.
    """

    stages: tuple[Stage, ...]
    output: Terms
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.stages)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name the computation; coefficients to 12 digits, so that last bits do not count."""
        canonical = hashlib.sha256()
        for stage in self.stages:
            canonical.update(f"s{stage.sigma:.11e};".encode())
            for key, terms in (*stage.carry.items(), ("x", stage.input)):
                canonical.update((key + ":" + _canonical(terms) + ";").encode())
        canonical.update(("out:" + _canonical(self.output)).encode())
        return canonical.hexdigest()[:16]

    @property
    def streams(self) -> tuple[int, ...]:
        """The streams of fresh noise that a run asks for; none where the sampler is deterministic."""
        read = {key for terms, _ in self._reads() for key in terms}
        return tuple(sorted(int(found[1]) for found in map(FRESH.fullmatch, read) if found))

    def run(self, denoise: Denoiser, noise: Tensor, fresh: Callable[[int], Tensor] | None = None) -> Tensor:
        """Sample: unit-normal `noise` (B, C, H, W) in the dtype and on the device of the state -> (B, C, H, W).

        Coefficients are Python floats and sigmas too, so nothing here waits for a device.

        Args:
            denoise: D(x; sigma).
            noise: what the paths start from.
            fresh: unit-normal noise of a stream, the shape of `noise`; needed where `streams` is not empty.

        Raises:
            ValueError: the plan is stochastic and there is no `fresh`.
        """
        if fresh is None and self.streams:
            raise ValueError(f"a stochastic plan needs fresh noise for {len(self.streams)} steps: give `fresh`")
        held: dict[str, Tensor] = {"n": noise}
        last_use = self._last_use()
        largest = torch.finfo(noise.dtype).max

        def combine(terms: Terms) -> Tensor:
            total = torch.zeros_like(noise)
            for key, value in terms.items():
                if fresh is not None and key not in held and (found := FRESH.fullmatch(key)):
                    held[key] = fresh(int(found[1])).to(noise)
                # Beyond the dtype torch refuses a factor; infinite, it gives samples that are seen not to be finite.
                total.add_(held[key], alpha=value if abs(value) <= largest else math.copysign(math.inf, value))
            return total

        for k, stage in enumerate(self.stages):
            for key, terms in stage.carry.items():
                held[key] = combine(terms)
            held[f"x{k}"] = combine(stage.input)
            held = {key: tensor for key, tensor in held.items() if last_use.get(key, -1) > k or key == f"x{k}"}
            held[f"d{k}"] = denoise(held[f"x{k}"], stage.sigma).to(noise.dtype)
        return combine(self.output)

    def _last_use(self) -> dict[str, int]:
        """For each register, the row that reads it last; one that no row reads is absent."""
        last: dict[str, int] = {}
        for k, stage in enumerate(self.stages):
            for terms in (*stage.carry.values(), stage.input):
                last.update(dict.fromkeys(terms, k))
        last.update(dict.fromkeys(self.output, len(self.stages)))
        return last

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; floats survive exactly."""
        return {
            "sigmas": list(self.sigmas),
            "stages": [
                {"sigma": stage.sigma, "input": stage.input, **({"carry": stage.carry} if stage.carry else {})}
                for stage in self.stages
            ],
            "output": self.output,
        }

    @staticmethod
    def from_json(value: Any) -> Plan:
        """Read a plan back.

        Raises:
            SpecError: not a plan, a register read before it is written or written twice, a number that is not finite,
                an evaluation at sigma 0 or below.
        """
        try:
            stages = tuple(
                Stage(
                    _number(row["sigma"]),
                    _terms(row["input"]),
                    {str(key): _terms(terms) for key, terms in row.get("carry", {}).items()},
                )
                for row in value["stages"]
            )
            plan = Plan(stages, _terms(value["output"]), tuple(_number(v) for v in value["sigmas"]))
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecError(f"is not a plan ({type(error).__name__}: {error})", path="plan") from None
        for k, stage in enumerate(stages):
            if stage.sigma <= 0:
                raise SpecError("evaluates at no noise", path=f"plan row {k}", given=stage.sigma, allowed="above 0")
        if not plan.output or not all(stage.input for stage in stages):
            raise SpecError("has a row without terms", path="plan", allowed="registers with their coefficients")
        known = {"n", *(f"n{stream}" for stream in plan.streams)}
        for k, (terms, written) in enumerate(plan._reads()):
            unknown = sorted(set(terms) - known)
            if unknown:
                raise SpecError("is read before it is written", path=f"plan row {k}", given=unknown[0])
            if written & known:
                raise SpecError("is written twice", path=f"plan row {k}", given=min(written & known))
            known.update(written)
        return plan

    def _reads(self) -> Iterator[tuple[Terms, set[str]]]:
        for k, stage in enumerate(self.stages):
            for key, terms in stage.carry.items():
                yield terms, {key}
            yield stage.input, {f"x{k}", f"d{k}"}
        yield self.output, set()


class Tape:
    """Records the evaluations of a sampler that runs on formal vectors."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._carry: dict[str, Terms] = {}

    def noise(self, stream: int = 0) -> FormalVector:
        """The unit-normal noise that every plan starts from, or fresh noise of another stream."""
        return FormalVector({f"n{stream}" if stream else "n": 1.0})

    def denoise(self, x: FormalVector, sigma: float) -> FormalVector:
        """Record an evaluation of `x` at `sigma`; `x` becomes a named register, the answer is one."""
        k = len(self.stages)
        self.stages.append(Stage(float(sigma), x.name(f"x{k}"), self._carry))
        self._carry = {}
        return FormalVector({f"d{k}": 1.0})

    def carry(self, state: Any) -> Any:
        """Name the vectors in a solver's state, so that what they grew from is not expanded in every later row."""
        if isinstance(state, FormalVector):
            if len(state.terms) > 1:
                key = f"c{len(self.stages)}.{len(self._carry)}"
                self._carry[key] = state.name(key)
        elif isinstance(state, tuple | list):
            for item in state:
                self.carry(item)
        return state

    def plan(self, output: FormalVector, sigmas: tuple[float, ...]) -> Plan:
        """Close the tape: the finished table, without states that nothing reads."""
        plan = Plan(tuple(self.stages), output.cleaned(), sigmas)
        while True:
            used = plan._last_use()
            kept = tuple(
                Stage(s.sigma, s.input, {key: terms for key, terms in s.carry.items() if key in used})
                for s in plan.stages
            )
            if kept == plan.stages:
                return plan
            plan = Plan(kept, plan.output, sigmas)


def _canonical(terms: Mapping[str, float]) -> str:
    return ",".join(f"{key}={terms[key]:.11e}" for key in sorted(terms))


def _number(value: Any) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond double precision
        raise SpecError("holds a number that is too large", path="plan") from None
    raise SpecError("is not a finite number", path="plan", given=value)


def _terms(value: Any) -> Terms:
    return {str(key): _number(item) for key, item in value.items()}
