"""Equal plans are sampled once: what became of each, which trial is at it, and which wait for that."""

from __future__ import annotations

from pipeline.job import Fate, Job
from pipeline.trial import Prepared


class EqualPlans:
    """Plans by their digests. A trial owns its plan while it works on it."""

    def __init__(self) -> None:
        self.fates: dict[str, Fate] = {}
        # Of trials that wait for their last rungs: what is known of the plan, and what it took an image.
        self.parked: dict[str, Fate] = {}
        self._latencies: dict[str, float | None] = {}
        self._prepared: dict[str, Prepared] = {}
        self._owners: dict[str, str] = {}
        self._waiting: dict[str, list[Job]] = {}

    def owns(self, key: str, digest: str) -> bool:
        """Whether the trial `key` is at the plan."""
        return self._owners.get(digest) == key

    def own(self, job: Job) -> None:
        """The trial is at its plan."""
        self._owners[job.plan.digest] = job.key

    def waits(self, job: Job) -> bool:
        """Let a trial wait where another one is at its plan."""
        taken = job.plan.digest in self._owners
        if taken:
            self._waiting.setdefault(job.plan.digest, []).append(job)
        return taken

    def release(self, job: Job) -> list[Job]:
        """The trial gives up its plan; those that waited for it."""
        digest = job.plan.digest if job.prepared is not None else ""
        if not self.owns(job.key, digest):
            return []
        del self._owners[digest]
        return self._waiting.pop(digest, [])

    def park(self, job: Job) -> float | None:
        """A trial waits for its last rungs; milliseconds of a worker an image of its plan, as the first had it."""
        assert job.prepared is not None
        self._prepared[job.key] = job.prepared
        self.parked.setdefault(job.plan.digest, Fate(job.key, job.evidence))
        return self._latencies.setdefault(job.plan.digest, job.latency_ms)

    def prepared(self, key: str) -> Prepared | None:
        """The plan of a trial that waited; None where it did so in an earlier run of the study."""
        return self._prepared.pop(key, None)
