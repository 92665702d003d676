"""The pool on Ray: actors that hold the benchmark, on this machine or on a cluster that comes and goes."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline import benchmarks
from pipeline.acceleration import AS_IS, Acceleration
from pipeline.patience import Patience
from pipeline.registry import SpecError
from pipeline.store import masked
from pipeline.task_queue import TaskQueue
from pipeline.teacher import Teacher
from pipeline.worker import Failure, Outcome, Task, Worker

# Ray binds to every interface and reports usage unless told otherwise; a local search is nobody else's business.
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
PING_SECONDS = 1.0  # between two looks at a worker that is gone
LOOK_SECONDS = 0.25  # between two looks at all workers
IDLE_SECONDS = 60.0  # after which a cluster's worker without work is given back
STORE_BYTES = 100 * 2**20  # plans and few features are small; Ray's own minimum is 75 MiB


def check_address() -> None:
    """Raise a `SpecError` if nothing answers at RAY_ADDRESS; Ray itself would try for minutes and then abort."""
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address and not address.startswith("ray://"):
        message = "is the address of a job server, for `ray job submit`; a search wants the cluster's own"
        raise SpecError(message, path="RAY_ADDRESS", given=masked(address), allowed="HOST:PORT, or auto")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # none, "auto" and the like: Ray's own business
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        message = f"no Ray cluster answers there ({error.strerror or error})"
        raise SpecError(message, path="RAY_ADDRESS", given=masked(address)) from None


def guard_local_ray() -> None:
    """Have a Ray that is started here keep to itself. It reads this when it is imported: later is too late."""
    for key, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Loopback is everybody's on a shared machine: this process and its children share a token of their own.
    if os.environ["RAY_AUTH_MODE"] == "token" and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def start_ray(workers: int, threads: int, store_bytes: int = STORE_BYTES) -> bool:
    """Connect to the cluster of RAY_ADDRESS, or start Ray here, bound to 127.0.0.1. True if Ray was started here.

    `store_bytes` are for what is on its way between a driver and workers here.
    """
    local = not os.environ.get("RAY_ADDRESS")
    if local:
        guard_local_ray()
    import ray

    if ray.is_initialized():
        return False
    if local:
        ray.init(
            address="local",
            num_cpus=workers * threads,
            num_gpus=torch.cuda.device_count(),
            include_dashboard=False,
            object_store_memory=store_bytes,
            log_to_driver=False,
            logging_level="ERROR",
        )
    else:
        ray.init(log_to_driver=False, logging_level="ERROR")
    return local


@dataclass
class _Slot:
    """A place for a worker. `actor` is None while it is given back; `tasks` are in the order that it does them."""

    actor: Any = None
    up: bool = False
    tasks: deque[Task] = field(default_factory=deque)
    since: float = 0.0  # when the first of its tasks could begin, or it had nothing more to do
    ping_at: float | None = None


class RayWorker(Worker):
    """A worker that fetches the benchmark, boxed so that Ray does not do it: it warns of arguments in the store."""

    def __init__(
        self, benchmark: list[Any], threads: int, memory: Path | None, device: str, acceleration: Acceleration
    ) -> None:
        import ray

        super().__init__(ray.get(benchmark[0]), threads, memory, device, acceleration)


class RayPool:
    """Long-lived Ray actors. Two tasks are in flight for each, so that none waits for the driver between shards.

    What does not fit on the cluster now waits for nodes, which is what asks an autoscaler for them; on a cluster that
    was not started here, workers without work are given back after a minute, so that it may shrink.
    """

    DEPTH = 2

    def __init__(
        self,
        benchmark: str,
        workers: int,
        threads: int = 1,
        memory: Path | None = None,
        *,
        cpus: float | None = None,
        gpus: float = 0.0,
        device: str = "cpu",
        acceleration: Acceleration = AS_IS,
        patience: Patience | None = None,
    ) -> None:
        loaded = benchmarks.load(benchmark)
        features = len(loaded.reference.mean)
        # Two moments are a task to measure: with less room Ray would put them on the disk.
        self._started = start_ray(workers, threads, STORE_BYTES + workers * self.DEPTH * 2 * 8 * features**2)
        import ray

        self._ray = ray
        self._idle_seconds = float("inf") if self._started else IDLE_SECONDS
        self._patience = patience or Patience()
        actor = ray.remote(RayWorker).options(
            num_cpus=threads if cpus is None else cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        # One copy a node, which its workers share, and the machines of the cluster need no file of the user's.
        held = ray.put(loaded)
        self._begin: Callable[[], Any] = lambda: actor.remote([held], threads, memory, device, acceleration)
        self._queue = TaskQueue()
        self._slots = [_Slot() for _ in range(workers)]
        self._running: dict[Any, tuple[int, Task]] = {}
        self._pings: dict[Any, int] = {}
        self._shared: Any = None
        self._look_at = 0.0
        for i in range(workers):
            self._fill(i)

    @property
    def size(self) -> int:
        """How many workers there may be."""
        return len(self._slots)

    def submit(self, task: Task) -> None:
        """Queue a task, and hand it out if a worker has room."""
        self._queue.push(task)
        self._hand_out()

    def share(self, teacher: Teacher) -> None:
        """Put the teacher where every worker can fetch it, and tell each to."""
        self._shared = self._ray.put(teacher)
        for slot in self._slots:
            if slot.actor is not None:
                slot.actor.hold.remote(self._shared)

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """The next finished task; one that was lost with its worker is queued again up to three times."""
        deadline = time.monotonic() + timeout
        while self._running or self._pings or len(self._queue) or any(slot.ping_at for slot in self._slots):
            self._look_after()
            left = deadline - time.monotonic()
            waited = [*self._running, *self._pings]
            if waited:
                ready, _ = self._ray.wait(waited, num_returns=1, timeout=max(0.0, min(left, PING_SECONDS)))
            else:
                time.sleep(max(0.0, min(left, 0.1)))
                ready = []
            answer = self._collect(ready[0]) if ready else None
            self._hand_out()
            if answer is not None:
                return answer
            if not ready and left <= PING_SECONDS:
                return None
        self._look_after()
        return None

    def cancel(self, key: str) -> None:
        """Drop the queued tasks of `key`."""
        self._queue.drop(key)

    def close(self) -> None:
        """Stop the actors, and Ray where this pool started it."""
        for slot in self._slots:
            if slot.actor is not None:
                with contextlib.suppress(Exception):  # a worker that is gone already is what is wanted
                    self._ray.kill(slot.actor)
        if self._started:
            self._ray.shutdown()

    def _fill(self, i: int) -> None:
        self._slots[i].actor = self._begin()
        self._ping(i)

    def _ping(self, i: int) -> None:
        slot = self._slots[i]
        slot.up, slot.ping_at = False, None
        # A worker that starts anew has forgotten the teacher: that it holds it is the sign that it is up.
        up = slot.actor.ping.remote() if self._shared is None else slot.actor.hold.remote(self._shared)
        self._pings[up] = i

    def _hand_out(self) -> None:
        for depth in range(1, self.DEPTH + 1):
            for i, slot in enumerate(self._slots):
                if not len(self._queue):
                    return
                if slot.actor is None:
                    self._fill(i)
                if slot.up and len(slot.tasks) < depth:
                    task = self._queue.pop()
                    if not slot.tasks:
                        slot.since = time.monotonic()
                    slot.tasks.append(task)
                    self._running[slot.actor.do.remote(task)] = i, task

    def _look_after(self) -> None:
        """Workers that hang are replaced, those that are gone looked for, those without work given back."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        for i, slot in enumerate(self._slots):
            if slot.ping_at is not None and now >= slot.ping_at:
                self._ping(i)
            elif slot.up and slot.tasks and now - slot.since > self._patience.limit(slot.tasks[0]):
                slot.since = now
                self._ray.kill(slot.actor, no_restart=False)
            elif slot.up and not slot.tasks and not len(self._queue) and now - slot.since > self._idle_seconds:
                self._ray.kill(slot.actor)
                slot.actor, slot.up = None, False

    def _collect(self, reference: Any) -> tuple[Task, Outcome] | None:
        if reference in self._pings:
            self._answered(self._pings.pop(reference), reference)
            return None
        i, task = self._running.pop(reference)
        slot, now = self._slots[i], time.monotonic()
        first = bool(slot.tasks) and slot.tasks[0] is task
        late = first and now - slot.since > self._patience.limit(task)
        seconds = now - slot.since
        slot.tasks.remove(task)
        if first:
            slot.since = now
        try:
            outcome: Outcome = self._ray.get(reference)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError):
            if slot.up:
                slot.up, slot.ping_at = False, now
            if not first:  # it had not begun
                self._queue.push(task)
                return None
            failure = self._queue.again(task, "its worker hung" if late else "its worker was lost")
            return None if failure is None else (task, failure)
        if isinstance(outcome, Failure) and outcome.machine:
            failure = self._queue.again(task, outcome.reason)
            return None if failure is None else (task, failure)
        if first:
            self._patience.took(task, seconds)
        return task, outcome

    def _answered(self, i: int, reference: Any) -> None:
        """A worker is up, or is not yet."""
        slot = self._slots[i]
        try:
            slot.up = self._ray.get(reference)
            slot.since = time.monotonic()
        except self._ray.exceptions.RayTaskError as error:
            # The worker's own start-up failed: no retry would mend a card or a file that is wrong.
            raise error.as_instanceof_cause() from None
        except self._ray.exceptions.ActorDiedError as error:
            cause = str(error).strip().splitlines()
            raise RuntimeError(f"a worker could not start: {cause[-1] if cause else 'no reason given'}") from None
        except self._ray.exceptions.RayActorError:
            slot.ping_at = time.monotonic() + PING_SECONDS
