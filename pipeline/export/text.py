"""A card as Python source: numbers as literals, and what the card says as comments that nothing can break out of."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import __version__
from pipeline.card import told_steps
from pipeline.export.target import Source
from pipeline.plan import FRESH, Plan, Terms
from pipeline.registry import SpecError

MOST_CHARACTERS = 200  # of a card's text in one place
ORDINARY = re.compile(r"[cdnx][0-9.]*")


def harmless(value: object) -> str:
    """A card's text on one line, with everything escaped that an editor would not show as it is."""
    text = str(value)
    shown = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def header(source: Source, title: str) -> str:
    """The comment at the top: `title`, which no card decides, then what the card says of its plan.

    Python looks for a file's encoding in its first two lines, so these hold nothing of the card.
    """
    lines = [title, "Written by sigmasearch from a card, whose plan it executes; do not edit the numbers.", ""]
    lines += [f"{name:<10}{harmless(value)}" for name, value in _told(source)]
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def _told(source: Source) -> Iterator[tuple[str, str]]:
    card, plan = source.card, source.plan
    yield "method", str(card["method"])
    yield "NFE", _nfe(card, plan)
    score, again = _score(card), _score(card, "confirmed")
    yield "FID", _fid(score, "result") + (", which chose it" if again else "")
    if again:
        yield "confirmed", _fid(again, "confirmed") + ", which chose nothing"
    benchmark = card["benchmark"]
    yield "benchmark", f"{benchmark.get('name')} version {benchmark.get('version')}"
    yield "reference", str(benchmark.get("reference_hash"))
    yield "model", str(benchmark.get("model_hash"))
    yield "plan", plan.digest
    last = plan.sigmas[-1]
    yield "end", f"stops at sigma {last:.6g}" if last else "at sigma 0, where the last move returns D"
    if plan.streams:
        yield "noise", f"fresh in {len(plan.streams)} steps"
    yield "made by", f"sigmasearch at revision {card.get('revision', 'unknown')}, {card['schema']}"
    yield "exported", f"by sigmasearch {__version__}"


def _nfe(card: Mapping[str, Any], plan: Plan) -> str:
    words = f"{len(plan)} network evaluations an image"
    score = _score(card)
    if not score:
        return words
    setup = _number(score, "setup_nfe", default=0.0)
    once = f"; finding the plan took {setup:g} more, once" if setup else ""
    return f"{words}, {_number(score, 'nfe'):g} measured{once}"


def _fid(score: Mapping[str, Any], where: str) -> str:
    if not score:
        return "not measured"
    images, first = int(_number(score, "images", where)), int(_number(score, "first_seed", where))
    error = _number(score, "fid_se", where)
    # The error to two digits, and as many places to what it is the error of.
    places = min(max(0, 1 - math.floor(math.log10(error))), 12) if error > 0 else 4
    fid, corrected = (f"{_number(score, key, where):.{places}f}" for key in ("fid", "fid_corrected"))
    return (
        f"{fid} ± {error:.{places}f} ({corrected} with the bias of the number of images taken off), {images:,} images, "
        f"seeds {first}-{first + images - 1}"
    )


def _score(card: Mapping[str, Any], name: str = "result") -> Mapping[str, Any]:
    score = card.get(name, {})
    if not isinstance(score, Mapping):
        raise SpecError("has the wrong type", path=name, given=harmless(score), allowed="a mapping")
    return score


def _number(score: Mapping[str, Any], key: str, where: str = "result", default: float | None = None) -> float:
    value = score.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise SpecError("is not a finite number", path=f"{where}.{key}", given=harmless(value))
    return float(value)


def sigmas(plan: Plan) -> str:
    """The schedule as a tuple, its values to the last bit."""
    return f"({', '.join(map(repr, plan.sigmas))})"


def rows(source: Source) -> str:
    """The evaluations, one a line: sigma, carried states, input, and the registers that are not read again."""
    plan = source.plan
    last = last_reads(plan)
    lines = []
    held = {"n"}
    for k, (stage, solver) in enumerate(zip(plan.stages, _solvers(source), strict=True)):
        held |= {*stage.carry, f"x{k}", *(key for key in stage.input if FRESH.fullmatch(key))}
        held |= {key for terms in stage.carry.values() for key in terms if FRESH.fullmatch(key)}
        done = sorted(key for key in held if last.get(key, -1) <= k and key != f"x{k}")
        held = held - {*done} | {f"d{k}"}
        carry = "{" + ", ".join(f"{_name(key)}: {_terms(terms)}" for key, terms in stage.carry.items()) + "}"
        names = f"({', '.join(map(_name, done))}{',' if len(done) == 1 else ''})"
        said = f"  # {harmless(solver)}" if solver else ""
        lines.append(f"    ({stage.sigma!r}, {carry}, {_terms(stage.input)}, {names}),{said}")
    return "(\n" + "\n".join(lines) + "\n)" if lines else "()"


def output(plan: Plan) -> str:
    """The samples as a combination of registers."""
    return _terms(plan.output)


def moves(source: Source) -> tuple[int, ...]:
    """The move of the schedule that each evaluation belongs to; judged by its sigma where the card does not say."""
    told = told_steps(source.card, source.plan)
    if told:
        return tuple(i for i, step in enumerate(told) for _ in range(step.evaluations))
    starts = source.plan.sigmas[:-1]
    judged = [
        max((i for i, sigma in enumerate(starts) if sigma >= stage.sigma), default=0) for stage in source.plan.stages
    ]
    return tuple(itertools.accumulate(judged, max))


def last_reads(plan: Plan) -> dict[str, int]:
    """For each register, the row that reads it last, the output being the row after the last."""
    last: dict[str, int] = {}
    for k, stage in enumerate(plan.stages):
        for terms in (*stage.carry.values(), stage.input):
            last.update(dict.fromkeys(terms, k))
    return last | dict.fromkeys(plan.output, len(plan))


def _solvers(source: Source) -> list[str]:
    """The solver that made each evaluation; empty words where the card does not say."""
    made = [step.solver for step in told_steps(source.card, source.plan) for _ in range(step.evaluations)]
    return made or [""] * len(source.plan)


def _terms(terms: Terms) -> str:
    return "{" + ", ".join(f"{_name(key)}: {value!r}" for key, value in terms.items()) + "}"


def _name(key: str) -> str:
    """A register's name as a literal; a card may call a carried state anything."""
    return f'"{key}"' if ORDINARY.fullmatch(key) else ascii(key)
