"""How the end of a trial is put down: in the ledger, as a result or as why there is none, with its constraints."""

from __future__ import annotations

from dataclasses import replace

from pipeline.evidence import Evidence
from pipeline.job import Fate, Job
from pipeline.ledger import Ledger
from pipeline.pruning import Field
from pipeline.result import TrialRecord, describe
from search_spaces.protocol import Constraints


class Closing:
    """Writes ends of trials into the ledger. `limits` are the study's constraints."""

    def __init__(self, ledger: Ledger, field: Field, limits: Constraints) -> None:
        self._ledger, self._field, self._limits = ledger, field, limits

    def close(self, job: Job, fate: Fate, same_as: str) -> TrialRecord:
        """Tell the truth: a result, or why there is none."""
        latency = job.latency_ms
        if latency is None and fate.result is not None and fate.result.images_per_second > 0:
            latency = 1000 / fate.result.images_per_second
        constraints = self._constraints(job, latency)
        if job.final is not None:
            return self._ledger.finish(job.final, fate.evidence, constraints, fate.result, same_as=same_as)
        if job.trial is None:
            record = TrialRecord(
                job.key, job.role, "complete", job.method, fate.result, job.budget,
                same_as=same_as, evidence=fate.evidence, confirms=job.confirms,
            )  # fmt: skip
            self._ledger.add_measured(record)
            return record
        if fate.result is not None:
            return self._ledger.tell(job.trial, fate.result, fate.evidence, constraints, same_as)
        assert fate.stop is not None
        told = self._told(fate.evidence)
        return self._ledger.tell_stopped(job.trial, fate.stop, fate.evidence, constraints, told, _words(job), same_as)

    def park(self, job: Job, same_as: str, latency: float | None) -> None:
        """Tell Optuna what is known of a trial that waits for its last rungs; `latency` is that of its plan, in ms."""
        assert job.trial is not None
        told = job.scores[-1].corrected
        constraints = self._constraints(job, latency)
        self._ledger.tell_waiting(job.trial, job.evidence, constraints, told, _words(job), same_as)

    def fail(self, job: Job, reason: str) -> TrialRecord:
        """End a trial that went wrong."""
        if job.trial is not None:
            return self._ledger.tell_off(job.trial, reason)
        if job.final is not None:
            evidence = job.evidence if job.prepared is not None else None
            return self._ledger.finish(job.final, evidence, {}, reason=reason, failed=True)
        record = TrialRecord(
            job.key, job.role, "failed", job.method, None, job.budget, reason=reason, confirms=job.confirms
        )
        self._ledger.add_measured(record)
        return record

    def _told(self, evidence: Evidence) -> float | None:
        """The FID that a stopped trial may be told with: corrected, or what its distance to the teacher predicts."""
        if evidence.scores:
            return evidence.scores[-1].corrected
        return None if evidence.teacher is None else self._field.predicted(evidence.teacher)

    def _constraints(self, job: Job, latency: float | None) -> dict[str, float]:
        """By how much each constraint of the study is exceeded, 0 and less where it is kept; those that are known."""
        limits = self._limits
        held = {"setup_nfe": (job.evidence.setup_nfe, limits.setup_nfe), "latency_ms": (latency, limits.latency_ms)}
        return {
            name: 0.0 if value is None else value - limit  # not exceeded, as far as is known
            for name, (value, limit) in held.items()
            if limit is not None
        }


def _words(job: Job) -> str:
    return describe(replace(job.spec, solver=job.prepared.solver) if job.prepared else job.spec)
