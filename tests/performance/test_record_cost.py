"""What MLflow's record costs a search of 300 trials, and how long the leaderboard takes to open."""

from __future__ import annotations

import functools
import io
import os
import threading
import time
from collections import defaultdict

import pytest
from rich.console import Console

from pipeline import run_study, store
from pipeline.publisher import Publisher
from pipeline.tracking import Record
from tests.headless import ABSENT, Browser, find_chromium
from tests.screenshots import TABLE_SHOWN, _served

TRIALS, WORKERS = 300, 2
SHARE, OPENS_SECONDS = 0.05, 3.0
# All that a search says to MLflow goes through these.
TOLD = {
    Publisher: ("open", "finished", "sync"),
    Record: ("log", "mark_front", "attach", "describe_study", "name_settings", "set_leaderboard_view", "finish"),
}
# MLflow's store and browser pages bring warnings of their own.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


class Clock:
    """Wall and processor seconds by thread, of the outermost of the calls that are timed."""

    def __init__(self) -> None:
        self.wall, self.cpu = defaultdict(float), defaultdict(float)
        self._inside = threading.local()

    def timed(self, method):
        @functools.wraps(method)
        def whole(*args, **kwargs):
            if getattr(self._inside, "yes", False):
                return method(*args, **kwargs)
            self._inside.yes, wall, cpu = True, time.perf_counter(), time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self._inside.yes, name = False, threading.current_thread().name
                self.wall[name] += time.perf_counter() - wall
                self.cpu[name] += time.thread_time() - cpu

        return whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recorded")


def test_a_search_of_300_trials(benchmark, show, folder, monkeypatch):
    """The issue asks for 5 % of the search's time: what it waits for MLflow, and the processors that MLflow takes."""
    clock = Clock()
    for owner, names in TOLD.items():
        for name in names:
            monkeypatch.setattr(owner, name, clock.timed(getattr(owner, name)))

    def searched():
        quiet = Console(file=io.StringIO())
        return run_study.search("digits", trials=TRIALS, workers=WORKERS, run_dir=folder / "digits", console=quiet)

    outcome = benchmark.pedantic(searched, rounds=1)
    seconds, main = benchmark.stats.stats.total, threading.main_thread().name
    waited, told, cpu = clock.wall[main], clock.wall["record"], sum(clock.cpu.values())
    shares = {"waited": waited / seconds, "processors": cpu / (seconds * (os.cpu_count() or 1))}
    benchmark.extra_info |= {"runs": len(outcome.frame), **{name: round(share, 4) for name, share in shares.items()}}
    show(f"{len(outcome.frame)} runs of a search of {TRIALS} trials, {seconds:.0f} s with {WORKERS} workers:")
    show(f"  the search waited for MLflow  {waited:.1f} s ({shares['waited']:.1%})")
    show(f"  beside it, in a thread        {told:.1f} s, {1000 * told / len(outcome.frame):.0f} ms a run")
    show(f"  processor time of both        {cpu:.1f} s ({shares['processors']:.1%} of {os.cpu_count()} cores)")
    show(f"  (load {os.getloadavg()[0]:.1f})")
    assert max(shares.values()) <= SHARE


def test_the_leaderboard_opens(benchmark, show, folder):
    """From the address to the first lines of the table, in a new browser; the server has shown it once before."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(ABSENT)
    uri = f"sqlite:///{folder}/mlflow.db"
    experiment = store.open_client(uri, create=False).get_experiment_by_name("digits-kde").experiment_id
    with _served(uri) as base:
        address = store.leaderboard_url(base, experiment)

        def opened():
            with Browser(chromium) as browser:
                started = time.perf_counter()
                browser.open(address)
                browser.wait(TABLE_SHOWN)
                return time.perf_counter() - started

        opened()
        seconds = benchmark.pedantic(opened, rounds=3)
    show(f"the leaderboard opens in {seconds:.2f} s (load {os.getloadavg()[0]:.1f})")
    benchmark.extra_info["opens_seconds"] = round(seconds, 2)
    assert seconds <= OPENS_SECONDS
