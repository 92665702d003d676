"""Tasks that wait for a worker, and how often one is tried again when a machine was at fault."""

from __future__ import annotations

import heapq
import itertools

from pipeline.worker import Failure, Task

MACHINE_RETRIES = 3


class TaskQueue:
    """Tasks by order, then by arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], int, Task]] = []
        self._arrival = itertools.count()
        self._lost: dict[tuple[str, tuple[int, int], str], int] = {}

    def push(self, task: Task) -> None:
        """Add a task."""
        heapq.heappush(self._heap, (task.order, next(self._arrival), task))

    def pop(self) -> Task:
        """Take the first one."""
        return heapq.heappop(self._heap)[2]

    def again(self, task: Task, reason: str) -> Failure | None:
        """Queue a task again that a machine failed; a `Failure` once that has happened more than three times."""
        key = task.key, task.order, task.what
        lost = self._lost[key] = self._lost.get(key, 0) + 1
        if lost > MACHINE_RETRIES:
            return Failure(f"{reason}, {lost} times", machine=True)
        self.push(task)
        return None

    def drop(self, key: str) -> None:
        """Forget the tasks of a trial."""
        self._heap = [entry for entry in self._heap if entry[2].key != key]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)
