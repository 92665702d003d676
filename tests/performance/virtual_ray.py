"""Ray without its processes: actors that answer at once and say how long they would have taken, on a virtual clock.

`RayPool` runs on it as it is. The clock runs with the driver, so that every millisecond that the driver takes is one in
which workers may run dry; while the driver waits it jumps to the next answer. What the simulation itself takes is not
counted.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

# Of the driver's time, measured with Ray 2.60 on one machine: to submit a call, to fetch a small answer, and to wait
# on so many references when one is ready.
SUBMIT_SECONDS, GET_SECONDS, WAIT_SECONDS, WAIT_SECONDS_EACH = 1.0e-4, 1.4e-4, 4e-5, 1.1e-7


class Clock:
    """Seconds since the start: the driver's own, and the jumps over what it waited for."""

    def __init__(self) -> None:
        self._started, self._started_cpu = time.perf_counter(), time.process_time()
        self._outside = self._outside_cpu = 0.0
        self._depth = 0
        self.waited = self.charged = 0.0

    def monotonic(self) -> float:
        """Now."""
        return self.driver + self.waited

    @property
    def driver(self) -> float:
        """The driver's own seconds, with what it would have spent in Ray."""
        return time.perf_counter() - self._started - self._outside + self.charged

    @property
    def processor(self) -> float:
        """The driver's seconds of a processor: without waiting for the disk, or for others on the machine."""
        return time.process_time() - self._started_cpu - self._outside_cpu

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """What is done inside costs the driver nothing."""
        started, cpu, self._depth = time.perf_counter(), time.process_time(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._outside += time.perf_counter() - started
                self._outside_cpu += time.process_time() - cpu

    def charge(self, seconds: float) -> None:
        """Let the driver spend so much."""
        self.charged += seconds

    def sleep(self, seconds: float) -> None:
        """Wait so long."""
        self.waited += max(0.0, seconds)


class _Reference:
    def __init__(self, value: Any, ready: float) -> None:
        self.value, self.ready = value, ready


class _Actor:
    def __init__(self, ray: VirtualRay) -> None:
        self._ray, self._free = ray, 0.0

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self._call(name, args))

    def _call(self, name: str, args: tuple[Any, ...]) -> _Reference:
        ray, asked = self._ray, self._ray.clock.monotonic()
        ray.clock.charge(SUBMIT_SECONDS)
        with ray.clock.outside():
            value, seconds = ray.work(args[0]) if name == "do" else (True, 0.0)
            # Its calls are done one after the other.
            self._free = max(asked, self._free) + seconds
            ray.busy += seconds
            return ray.later(value, self._free)


class VirtualRay:
    """What `RayPool` takes of Ray. `work` says what comes of a task, and after how many seconds of one worker."""

    # No worker is lost here. Ray's own are not used: it reads its settings when it is imported.
    exceptions = SimpleNamespace(
        **{
            name: type(name, (Exception,), {})
            for name in ("RayActorError", "ActorDiedError", "RayTaskError", "OutOfMemoryError")
        }
    )

    def __init__(self, work: Callable[[Any], tuple[Any, float]]) -> None:
        self.clock, self.work, self.busy = Clock(), work, 0.0
        self._coming: list[tuple[float, int, _Reference]] = []
        self._count = itertools.count()

    @contextlib.contextmanager
    def installed(self) -> Iterator[VirtualRay]:
        """A `RayPool` that is made inside runs here, and keeps this clock for good."""
        with (
            mock.patch.dict("sys.modules", {"ray": self}),
            mock.patch("pipeline.ray_pool.start_ray", return_value=True),
            mock.patch("pipeline.ray_pool.time", self.clock),
        ):
            yield self

    def remote(self, kind: type) -> Any:
        """A class of actors; theirs is `work`."""
        del kind
        made = SimpleNamespace(remote=lambda *args: _Actor(self))
        return SimpleNamespace(options=lambda **options: made)

    def put(self, value: Any) -> Any:
        """Every worker holds it."""
        return value

    def later(self, value: Any, ready: float) -> _Reference:
        """A reference that is ready at that time."""
        reference = _Reference(value, ready)
        heapq.heappush(self._coming, (ready, next(self._count), reference))
        return reference

    def wait(
        self, references: Sequence[_Reference], num_returns: int, timeout: float
    ) -> tuple[list[_Reference], list[_Reference]]:
        """The reference that is ready first, if it is within `timeout` seconds; those left are not told apart."""
        assert num_returns == 1
        self.clock.charge(WAIT_SECONDS + WAIT_SECONDS_EACH * len(references))
        with self.clock.outside():
            asked = set(references)
            while self._coming[0][2] not in asked:
                heapq.heappop(self._coming)  # nobody waits for it, or it was fetched
            left = self._coming[0][0] - self.clock.monotonic()
            self.clock.sleep(min(left, timeout))
            return ([self._coming[0][2]] if left <= timeout else []), []

    def get(self, reference: _Reference) -> Any:
        """What came of a call."""
        self.clock.charge(GET_SECONDS)
        return reference.value

    def kill(self, actor: _Actor, no_restart: bool = True) -> None:
        """An actor is not needed any more."""
        assert no_restart, "no worker hangs here"

    def shutdown(self) -> None:
        """Nothing to stop."""
