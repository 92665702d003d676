"""What a study measures beside its searched trials: the floor, the baselines, and in the end whoever leads, again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.job import Job
from pipeline.methods import METHODS
from pipeline.result import TrialRecord, describe
from pipeline.trial import Prepared
from search_spaces import Study

LOOP = ("solver", "schedule", "afs", "denoise_to_zero", "churn")


def measured(study: Study, sigma_range: tuple[float, float], known: set[str], numbers: Iterator[int]) -> Iterator[Job]:
    """The floor and every baseline at every budget, but for the keys that are `known`.

    `sigma_range`: the benchmark's sigma_min and sigma_max, between which a method runs that does not say otherwise.
    """
    floor = study.floor_spec()
    if "floor" not in known:
        yield Job("floor", "floor", floor, next(numbers), f"fine solve ({describe(floor)})")
    ends = {"sigma_min": sigma_range[0], "sigma_max": sigma_range[1]}
    for budget in study.budgets:
        for name in study.baseline_names:
            method, key = METHODS.get(name), f"baseline/{name}/{budget}"
            pair = method.spending(budget, study.rows_per_image)
            if pair is not None and key not in known:
                spec = study.spec({"solver": pair[0], "schedule": ends | dict(pair[1])})
                yield Job(key, "baseline", spec, next(numbers), method.title, budget)


def leaders(records: Iterable[TrialRecord], budgets: Iterable[int]) -> list[TrialRecord]:
    """Who is to be confirmed: the floor, the front of the search, and the best baseline within each budget.

    The lowest FID at all images counts, corrected; of equal ones the cheaper, then the first.
    """
    scored = [record for record in records if record.result is not None and record.feasible]
    found = [record for record in scored if record.role == "floor"]
    for roles, limits in (
        (("published", "searched"), sorted({_nfe(record) for record in scored})),
        (("baseline",), sorted(budgets)),
    ):
        rivals = [record for record in scored if record.role in roles]
        for limit in limits:
            within = [record for record in rivals if _nfe(record) <= limit]
            best = min(within, key=lambda record: (_fid(record), _nfe(record)), default=None)
            if best is not None and best not in found:
                found.append(best)
    return found


def confirmations(study: Study, records: list[TrialRecord], numbers: Iterator[int]) -> Iterator[Job]:
    """The leaders, each distinct plan once, on seeds that no search has seen; what was confirmed before is left out.

    Their plans are at hand, so that nothing is calibrated again.
    """
    plans = {record.key: record.result.plan.digest for record in records if record.result is not None}
    done = {plans.get(record.confirms) for record in records if record.role == "confirmed"}
    for record in leaders(records, study.budgets):
        result = record.result
        assert result is not None
        spec = study.confirm_spec({name: getattr(result.spec, name) for name in LOOP})
        if spec is None or result.plan.digest in done:
            continue
        done.add(result.plan.digest)
        job = Job(f"confirmed/{record.key}", "confirmed", spec, next(numbers), record.method, record.budget)
        job.panel = study.panel
        job.confirms = record.key
        job.prepared = Prepared(
            result.plan, result.solver, result.setup_rows, result.setup_nfe, 0.0, result.walk,
            rows_per_image=result.rows_per_image,
        )  # fmt: skip
        yield job


def _nfe(record: TrialRecord) -> float:
    assert record.result is not None
    return record.result.nfe


def _fid(record: TrialRecord) -> float:
    assert record.result is not None
    return record.result.score.ranked
