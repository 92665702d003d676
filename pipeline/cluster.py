"""Where trials run: a pool of workers that hold the benchmark and answer tasks, on Ray or in this process.

The driver submits tasks and takes whichever is done next.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.registry import SpecError
from pipeline.teacher import Teacher
from pipeline.worker import Failure, Outcome, Task, Worker

MACHINE_RETRIES = 3  # how often a task is run again after its worker was lost


class Pool(Protocol):
    """Workers behind a queue."""

    size: int

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


class _Queue:
    """Tasks by order, then by arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], int, Task]] = []
        self._arrival = itertools.count()

    def push(self, task: Task) -> None:
        heapq.heappush(self._heap, (task.order, next(self._arrival), task))

    def pop(self) -> Task:
        return heapq.heappop(self._heap)[2]

    def drop(self, key: str) -> None:
        self._heap = [entry for entry in self._heap if entry[2].key != key]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)


class InProcessPool:
    """The same pool without Ray: tasks run in `next`, one after the other. For tests and debugging."""

    def __init__(self, benchmark: str, threads: int = 1, memory: Path | None = None) -> None:
        self.size = 1
        self._threads_before = torch.get_num_threads()
        self._worker = Worker(benchmark, threads, memory)
        self._queue = _Queue()

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
        return task, self._worker.do(task)

    def cancel(self, key: str) -> None:
        """Drop the queued tasks of `key`."""
        self._queue.drop(key)

    def close(self) -> None:
        """Restore the process's thread count."""
        torch.set_num_threads(self._threads_before)


# Ray binds to every interface and reports usage unless told otherwise; a local search is nobody else's business.
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def check_address() -> None:
    """Raise a `SpecError` if nothing answers at RAY_ADDRESS; Ray itself would try for minutes and then abort."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # none, "auto" and the like: Ray's own business
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        message = f"no Ray cluster answers there ({error.strerror or error})"
        raise SpecError(message, path="RAY_ADDRESS", given=address) from None


def start_ray(workers: int, threads: int) -> bool:
    """Connect to the cluster of RAY_ADDRESS, or start Ray here, bound to 127.0.0.1. True if Ray was started here."""
    local = not os.environ.get("RAY_ADDRESS")
    if local:
        for key, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
    import ray

    if ray.is_initialized():
        return False
    if local:
        ray.init(
            address="local",
            num_cpus=workers * threads,
            num_gpus=torch.cuda.device_count(),
            include_dashboard=False,
            object_store_memory=100 * 2**20,  # plans and moments are small; Ray's own minimum is 75 MiB
            log_to_driver=False,
            logging_level="ERROR",
        )
    else:
        ray.init(log_to_driver=False, logging_level="ERROR")
    return local


class RayPool:
    """Long-lived Ray actors. Two tasks are in flight for each, so that none waits for the driver between shards."""

    DEPTH = 2

    def __init__(self, benchmark: str, workers: int, threads: int = 1, memory: Path | None = None) -> None:
        self._started = start_ray(workers, threads)
        import ray

        self._ray = ray
        self.size = workers
        actor = ray.remote(Worker).options(
            num_cpus=threads,
            max_restarts=-1,
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        self._actors = [actor.remote(benchmark, threads, memory) for _ in range(workers)]
        self._queue = _Queue()
        self._running: dict[Any, tuple[int, Task]] = {}
        self._pings: dict[Any, int] = {}
        self._lost: dict[tuple[str, tuple[int, int]], int] = {}
        self._load = [0] * workers
        self._up = [False] * workers
        self._shared: Any = None
        for i in range(workers):
            self._ping(i)

    def submit(self, task: Task) -> None:
        """Queue a task, and hand it out if a worker has room."""
        self._queue.push(task)
        self._hand_out()

    def share(self, teacher: Teacher) -> None:
        """Put the teacher where every worker can fetch it, and tell each to."""
        self._shared = self._ray.put(teacher)
        for actor in self._actors:
            actor.hold.remote(self._shared)

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """The next finished task; a task that was lost with its worker is queued again up to three times."""
        deadline = time.monotonic() + timeout
        while self._running or self._pings:
            left = max(0.0, deadline - time.monotonic())
            ready, _ = self._ray.wait([*self._running, *self._pings], num_returns=1, timeout=left)
            if not ready:
                return None
            answer = self._collect(ready[0])
            self._hand_out()
            if answer is not None:
                return answer
        return None

    def cancel(self, key: str) -> None:
        """Drop the queued tasks of `key`."""
        self._queue.drop(key)

    def close(self) -> None:
        """Stop the actors, and Ray where this pool started it."""
        for actor in self._actors:
            with contextlib.suppress(Exception):  # a worker that is gone already is what is wanted
                self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()

    def _ping(self, i: int) -> None:
        self._up[i] = False
        # A worker that starts anew has forgotten the teacher: that it holds it is the sign that it is up.
        actor = self._actors[i]
        up = actor.ping.remote() if self._shared is None else actor.hold.remote(self._shared)
        self._pings[up] = i

    def _hand_out(self) -> None:
        for depth in range(1, self.DEPTH + 1):
            for i, actor in enumerate(self._actors):
                if len(self._queue) and self._up[i] and self._load[i] < depth:
                    task = self._queue.pop()
                    self._running[actor.do.remote(task)] = (i, task)
                    self._load[i] += 1

    def _collect(self, reference: Any) -> tuple[Task, Outcome] | None:
        ping = self._pings.pop(reference, None)
        if ping is not None:
            try:
                self._up[ping] = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                # The worker's own start-up failed: no retry would mend a card or a file that is wrong.
                raise error.as_instanceof_cause() from None
            except self._ray.exceptions.ActorDiedError as error:
                cause = str(error).strip().splitlines()
                raise RuntimeError(f"a worker could not start: {cause[-1] if cause else 'no reason given'}") from None
            except self._ray.exceptions.RayActorError:
                time.sleep(0.1)
                self._ping(ping)
            return None
        i, task = self._running.pop(reference)
        self._load[i] -= 1
        try:
            return task, self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            if self._up[i]:
                self._ping(i)
            lost = self._lost[task.key, task.order] = self._lost.get((task.key, task.order), 0) + 1
            if lost > MACHINE_RETRIES:
                return task, Failure(f"its worker was lost {lost} times", machine=True)
            self._queue.push(task)
            return None


def open_pool(benchmark: str, workers: int, threads: int = 1, memory: Path | None = None) -> Pool:
    """A Ray pool of `workers`, or with 0 one that runs in this process. `memory`: where they keep what they learn."""
    if workers == 0:
        return InProcessPool(benchmark, threads, memory)
    return RayPool(benchmark, workers, threads, memory)
