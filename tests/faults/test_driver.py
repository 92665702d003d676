"""The driver is killed or asked to stop, at any moment: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time

import pytest

from tests.faults.driver import LISTED, finish, numbers, records, start, study_file


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The study in one run: its file, and its records."""
    folder = tmp_path_factory.mktemp("whole")
    file = study_file(folder, LISTED)
    finish(file, folder)
    return file, records(file, folder)


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def check_equal(file, folder, whole):
    found = records(file, folder)
    assert numbers(found) == numbers(whole)
    assert not list((folder / "run").glob("shards*"))
    with sqlite3.connect(folder / "run" / "study.db") as storage:
        states = dict(storage.execute("select state, count(*) from trials group by state"))
        kept = "select count(*) from trial_user_attributes where key = 'key'"
        (measured,) = storage.execute(kept).fetchone()
        (distinct,) = storage.execute(kept.replace("count(*)", "count(distinct value_json)")).fetchone()
    assert "RUNNING" not in states
    assert "WAITING" not in states
    assert measured == distinct, "a baseline or a confirmation was kept twice"


@pytest.mark.fault
def test_a_driver_killed_twenty_times_gives_the_same_bytes(undisturbed, tmp_path):
    """At a random moment after none, one or two more trials, start-up included; each time the same command again.

    A machine may be done with the study before that: then it begins another one, and all of them are looked at.
    """
    file, whole = undisturbed
    rng, kills, folders = random.Random(20), 0, [tmp_path / "1"]
    while kills < 20:
        folders[-1].mkdir(exist_ok=True)
        process, trials, wait = start(file, folders[-1]), rng.choice([0, 0, 1, 1, 2]), rng.uniform(0.0, 1.5)
        ended = False
        while trials and not ended:
            line = process.stdout.readline()
            trials -= line.startswith("[")
            ended = not line
        time.sleep(wait)
        alive = process.poll() is None
        kill_group(process)
        kills += alive
        if not alive and kills < 20:
            folders.append(tmp_path / str(len(folders) + 1))
    assert len(folders) <= 4, "there is little to kill in so short a study"
    for folder in folders:
        finish(file, folder)
        check_equal(file, folder, whole)


def test_a_driver_killed_in_the_middle_goes_on_to_the_same_bytes(undisturbed, tmp_path):
    file, whole = undisturbed
    process = start(file, tmp_path)
    for line in process.stdout:
        if line.startswith("[8/"):
            break
    kill_group(process)
    assert 0 < len(records(file, tmp_path)) < len(whole)
    told = finish(file, tmp_path)
    assert f"/{len(whole)}]" not in told, "what was over is not counted again"
    check_equal(file, tmp_path, whole)


@pytest.mark.parametrize(
    ("asked", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.fault)]
)
def test_a_driver_that_is_asked_to_stop_says_how_to_go_on_within_three_seconds(undisturbed, tmp_path, asked, status):
    file, whole = undisturbed
    process = start(file, tmp_path)
    for line in process.stdout:
        if line.startswith("[6/"):
            break
    began = time.monotonic()
    process.send_signal(asked)
    told, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 3 or os.getloadavg()[0] > os.cpu_count(), "on a box that is free"
    assert process.returncode == status, told
    last = told.splitlines()[-1]
    assert last.startswith(f"stopped by {asked.name}: ")
    assert f"to go on: sigmasearch search {file} --run-dir {tmp_path / 'run'}" in last
    assert "Traceback" not in told
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select status from runs where name = 'listed'").fetchall() == [("KILLED",)]
    finish(file, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select status from runs where name = 'listed'").fetchall() == [("FINISHED",)]
    check_equal(file, tmp_path, whole)


@pytest.mark.fault
def test_nohup_stays_nohup(tmp_path):
    """A signal that the driver was told to ignore is ignored."""
    file = study_file(tmp_path, {"trials": 2, "confirm": None, "baselines": ["ddim"]})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(file, tmp_path, hears=False)
    finally:
        signal.signal(signal.SIGINT, before)
    for line in process.stdout:
        if line.startswith("[1/"):
            break
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
