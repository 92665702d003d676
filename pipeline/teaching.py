"""Once a study: the floor's plan on the first seeds, solved by the pool, kept, and shared with every worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.cluster import Pool
from pipeline.teacher import Teacher
from pipeline.trial import Prepared, TrialSpec
from pipeline.worker import Failure, Outcome, Task, Taught


class TeacherFailedError(RuntimeError):
    """The fine solve failed: the first rung, and so the search, has nothing to compare with."""


def teach_pool(
    pool: Pool, floor: TrialSpec, images: int, file: Path | None, identity: str, waiting: Callable[[], None]
) -> int:
    """See that every worker holds the teacher of the first `images` seeds; returns the network rows that it took now.

    `file` keeps it for the next run; `identity` says which benchmark it is of. Nothing else may be under way in the
    pool. `waiting` is called about once a second.

    Raises:
        TeacherFailedError: the fine solve is not finite, or its worker was lost too often.
    """
    known_by = f"{identity} {floor.to_json()} {images}"
    teacher = Teacher.load(file, known_by) if file is not None else None
    rows = 0
    if teacher is None:
        pool.submit(Task("teacher", (0, 0), floor))
        prepared = _answer(pool, waiting)
        assert isinstance(prepared, Prepared)
        batches = floor.batches(0, images)
        for i, seeds in enumerate(batches):
            pool.submit(Task("teacher", (0, i), floor, prepared.plan, seeds, "teach"))
        taught = [answer for answer in (_answer(pool, waiting) for _ in batches) if isinstance(answer, Taught)]
        teacher = Teacher.merge([part.teacher for part in taught])
        rows = prepared.spent_rows + sum(part.rows for part in taught)
        if file is not None:
            teacher.save(file, known_by)
    pool.share(teacher)
    return rows


def _answer(pool: Pool, waiting: Callable[[], None]) -> Outcome:
    while (answer := pool.next(timeout=1.0)) is None:
        waiting()
    outcome = answer[1]
    if isinstance(outcome, Failure):
        raise TeacherFailedError(f"the floor, which is the teacher, failed: {outcome.reason}")
    return outcome
