"""Where trials run: a pool of workers that hold the benchmark and answer tasks, on Ray or in this process.

The driver submits tasks and takes whichever is done next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from pipeline.acceleration import AS_IS, Acceleration
from pipeline.interruption import InterruptedSearch, Interruption
from pipeline.ray_pool import RayPool, check_address, start_ray
from pipeline.task_queue import TaskQueue
from pipeline.teacher import Teacher
from pipeline.worker import Compared, Evaluated, Failure, Outcome, Task, Taught, Worker

__all__ = [
    "InProcessPool", "InterruptiblePool", "Pool", "RayPool", "TellingPool", "check_address", "open_pool", "start_ray",
]  # fmt: skip


class Pool(Protocol):
    """Workers behind a queue."""

    @property
    def size(self) -> int:
        """How many workers there may be."""
        ...

    def submit(self, task: Task) -> None:
        """Queue a task."""
        ...

    def share(self, teacher: Teacher) -> None:
        """Give every worker the teacher, those that start anew later included."""
        ...

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """The next finished task, or None if none finished within `timeout` seconds."""
        ...

    def cancel(self, key: str) -> None:
        """Drop the queued tasks of `key`; those already running still come back."""
        ...

    def close(self) -> None:
        """Give the workers back."""
        ...


class InProcessPool:
    """The same pool without Ray: tasks run in `next`, one after the other. For tests and debugging."""

    def __init__(
        self,
        benchmark: str,
        threads: int = 1,
        memory: Path | None = None,
        device: str = "cpu",
        acceleration: Acceleration = AS_IS,
    ) -> None:
        self.size = 1
        self._threads_before = torch.get_num_threads()
        self._worker = Worker(benchmark, threads, memory, device, acceleration)
        self._queue = TaskQueue()

    def submit(self, task: Task) -> None:
        """Queue a task."""
        self._queue.push(task)

    def share(self, teacher: Teacher) -> None:
        """Give the worker the teacher."""
        self._worker.hold(teacher)

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """Run the first task of the queue."""
        del timeout
        if not len(self._queue):
            return None
        task = self._queue.pop()
        outcome = self._worker.do(task)
        if isinstance(outcome, Failure) and outcome.machine:
            failure = self._queue.again(task, outcome.reason)
            return None if failure is None else (task, failure)
        return task, outcome

    def cancel(self, key: str) -> None:
        """Drop the queued tasks of `key`."""
        self._queue.drop(key)

    def close(self) -> None:
        """Restore the process's thread count."""
        torch.set_num_threads(self._threads_before)


class InterruptiblePool:
    """A pool whose driver may be asked to stop while it waits; `tidy` is called first of all then, in half a second.

    A stopped job has three seconds by default, and Ray's own end may take two of them.
    """

    POLL_SECONDS = 0.25

    def __init__(self, pool: Pool, interruption: Interruption, tidy: Callable[[InterruptedSearch], None]) -> None:
        self._pool, self._interruption, self._tidy = pool, interruption, tidy
        self.submit, self.share, self.cancel, self.close = pool.submit, pool.share, pool.cancel, pool.close

    @property
    def size(self) -> int:
        """How many workers there may be."""
        return self._pool.size

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """As of the pool.

        Raises:
            InterruptedSearch: somebody wants the process to stop.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._interruption.check()
            except InterruptedSearch as interrupted:
                self._tidy(interrupted)
                raise
            left = deadline - time.monotonic()
            answer = self._pool.next(max(0.0, min(left, self.POLL_SECONDS)))
            if answer is not None or left <= self.POLL_SECONDS:
                return answer


class TellingPool:
    """A pool that says once, and again where it is less, for how many images at once its workers' memory has room."""

    def __init__(self, pool: Pool, say: Callable[[str], None]) -> None:
        self._pool, self._say = pool, say
        self._told: int | None = None
        self.submit, self.share, self.cancel, self.close = pool.submit, pool.share, pool.cancel, pool.close

    @property
    def size(self) -> int:
        """How many workers there may be."""
        return self._pool.size

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """As of the pool."""
        answer = self._pool.next(timeout)
        least = answer[1].images_at_once if answer and isinstance(answer[1], Taught | Compared | Evaluated) else None
        if least is not None and (self._told is None or least < self._told):
            self._told = least
            images = "1 image" if least == 1 else f"{least} images"
            self._say(f"memory ran out: a worker goes on with {images} at once; nothing is lost, images are the same")
        return answer


def open_pool(
    benchmark: str,
    workers: int,
    threads: int = 1,
    memory: Path | None = None,
    *,
    cpus: float | None = None,
    gpus: float = 0.0,
    device: str = "cpu",
    acceleration: Acceleration = AS_IS,
) -> Pool:
    """A Ray pool of `workers`, or with 0 one that runs in this process.

    `memory`: where they keep what they learn. `cpus`, `gpus`: what each is given of a machine; as many processors as
    threads where nothing else is said. `device`, `acceleration`: where they sample, and how they run the network.
    """
    if workers == 0:
        return InProcessPool(benchmark, threads, memory, device, acceleration)
    return RayPool(
        benchmark, workers, threads, memory, cpus=cpus, gpus=gpus, device=device, acceleration=acceleration
    )  # fmt: skip
