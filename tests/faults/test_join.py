"""Several drivers on one study, in processes of their own, on a PostgreSQL server of the test's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.faults import postgres
from tests.faults.driver import study_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "PostgreSQL is there"),
]

# Beats of one second, so that a test need not wait half a minute for a death.
COMMAND = """
import sys
from pipeline.leases import Leases
Leases.BEAT_SECONDS = 1.0
from pipeline.cli import main
main()
"""
SHARED = {
    "study": "shared",
    "trials": 60,
    "images": 160,
    "shard_images": 20,
    "rungs": {"teacher": 20, "images": [40, 100], "slack": 20.0, "confidence": 0.99},
    "optimizer": {"name": "random", "seed": 0},
    "confirm": {"first_seed": 100_000, "images": 160},
}
TOLD = re.compile(r"^\[\d+/\d+\] (\S+) ", re.MULTILINE)


@pytest.fixture(scope="module")
def server():
    with postgres.server() as held:
        yield held


@pytest.fixture
def drivers(tmp_path, server, request):
    """`start` a driver with a run directory of its own; those that are left in the end are killed."""
    address, started = server.create(f"t{abs(hash(request.node.name))}"), []

    class Drivers:
        file = study_file(tmp_path, SHARED)
        database = address.rpartition("/")[2]

        def start(self, name, *more, file=None, address=address):
            environment = {
                name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))
            }
            log = tmp_path / f"{name}.log"
            with log.open("a") as out:
                process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-c", COMMAND, "search", str(file or self.file), *more,
                     "--run-dir", str(tmp_path / "runs" / name)],
                    stdout=out, stderr=out, cwd=tmp_path, start_new_session=True,
                    env=environment | {"OMP_NUM_THREADS": "1", "SIGMASEARCH_STORAGE": address},
                )  # fmt: skip
            process.log = log
            process.report = tmp_path / "runs" / name / "report"
            started.append(process)
            return process

        def over(self):
            """How many searched trials are over; before there is a storage, none."""
            try:
                return self.states()["over"]
            except postgres.psycopg.Error:
                return 0

        def states(self):
            with server.connect(self.database) as connection:
                found = connection.execute(
                    "select state::text, count(*) from trials join studies using (study_id) "
                    "where study_name = 'shared' group by state"
                ).fetchall()
            states = Counter(dict(found))
            states["over"] = states["COMPLETE"] + states["PRUNED"] + states["FAIL"]
            return states

        def kept(self, attribute):
            """How often what is kept beside the searched trials has each value of an attribute."""
            with server.connect(self.database) as connection:
                found = connection.execute(
                    "select value_json from trial_user_attributes join trials using (trial_id) "
                    "join studies using (study_id) where study_name = 'shared/baselines' and key = %s",
                    [attribute],
                ).fetchall()
            return Counter(value for (value,) in found)

        def wait_for(self, over):
            deadline = time.monotonic() + 120
            while self.over() < over:
                assert time.monotonic() < deadline, [process.log.read_text() for process in started]
                assert all(process.poll() is None for process in started)
                time.sleep(0.1)

    yield Drivers()
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def finish(process, status=0, timeout=200):
    process.wait(timeout=timeout)
    text = process.log.read_text()
    assert process.returncode == status, text
    assert postgres.PASSWORD not in text
    assert postgres.URL_PASSWORD not in text
    return text


def check_whole(drivers, *finished, trials=60):
    """All trials are over, each was done once, and every driver that is left has the same in its report."""
    states = drivers.states()
    assert states["over"] == trials
    assert states["RUNNING"] == states["WAITING"] == 0
    measured, finals = drivers.kept("key"), drivers.kept("final")
    assert {'"floor"', '"baseline/ddim/3"', '"baseline/heun/5"', '"confirmed/floor"'} <= set(measured)
    assert finals
    assert set((measured + finals).values()) == {1}
    tables = {(process.report / "table.csv").read_bytes() for process in finished}
    assert len(tables) == 1
    assert len(tables.pop().splitlines()) > 5


@pytest.mark.fault
def test_two_drivers_tell_each_of_200_trials_once(drivers, tmp_path):
    """They meet by themselves: an empty storage, and the same moment."""
    drivers.file = study_file(tmp_path, SHARED | {"trials": 200, "optimizer": {"name": "tpe", "seed": 0}})
    first = drivers.start("first", "--join")
    second = drivers.start("second", "--join")
    texts = [finish(process) for process in (first, second)]
    check_whole(drivers, first, second, trials=200)
    told = [TOLD.findall(text) for text in texts]
    assert min(len(keys) for keys in told) > 20, "one of them did nearly all"
    assert set(Counter(told[0] + told[1]).values()) == {1}
    assert sum(drivers.kept("key").values()) + 200 == len(told[0] + told[1])
    for process in (first, second):
        assert not list(process.report.parent.glob("shards*"))
        kept = (process.report.parent / "study.json").read_text()
        assert "searcher" not in kept
        assert postgres.URL_PASSWORD not in kept


@pytest.mark.fault
def test_one_driver_is_killed_and_one_is_frozen_and_a_third_does_all(drivers):
    """The one that wakes up again, when others have taken its trials over, tells nothing any more."""
    killed, frozen, third = (drivers.start(name, "--join") for name in ("killed", "frozen", "third"))
    drivers.wait_for(12)
    os.killpg(killed.pid, signal.SIGKILL)
    os.killpg(frozen.pid, signal.SIGSTOP)
    finish(third)
    check_whole(drivers, third)
    os.killpg(frozen.pid, signal.SIGCONT)
    text = finish(frozen, status=1)
    assert text.splitlines()[-1].startswith("error: the other drivers of the study have heard nothing of this one")
    assert "Traceback" not in text
    check_whole(drivers, third)
    # Its command again finds everything done.
    again = drivers.start("frozen", "--join")
    assert "nothing to add" in finish(again)
    check_whole(drivers, third, again)


@pytest.mark.fault
def test_a_second_driver_is_refused_unless_it_joins_and_is_of_the_same_study(drivers, tmp_path):
    first = drivers.start("first")
    drivers.wait_for(3)
    other = study_file(tmp_path / "other", SHARED | {"images": 200})
    refused = {
        "another driver is on this study": drivers.start("alone"),
        "images is 160 there": drivers.start("changed", "--join", file=other),
        "the drivers of a study have to agree; it is 60": drivers.start("longer", "--join", "--trials", "90"),
    }
    for says, process in refused.items():
        text = finish(process, status=2)
        assert says in text
        assert text.strip().splitlines()[-1].startswith("error: ")
        assert "Traceback" not in text
        assert not process.report.parent.exists()
    second = drivers.start("second", "--join")
    texts = finish(first), finish(second)
    check_whole(drivers, first, second)
    assert set(Counter(TOLD.findall("".join(texts))).values()) == {1}


@pytest.mark.fault
def test_a_server_that_goes_away_ends_the_search_in_one_line_and_the_same_command_goes_on(drivers, server):
    first = drivers.start("first")
    drivers.wait_for(20)
    server.stop()
    text = finish(first, status=1)
    server.start()
    last = text.splitlines()[-1]
    assert re.match(r"error: the storage postgresql://127\.0\.0\.1:\d+/\w+ does not answer", last)
    assert "Traceback" not in text
    again = drivers.start("first")
    text = finish(again)  # of both
    check_whole(drivers, again)
    assert set(Counter(TOLD.findall(text)).values()) == {1}


@pytest.mark.fault
def test_a_study_on_a_server_is_not_gone_on_with_in_a_file(drivers, tmp_path):
    first = drivers.start("first")
    drivers.wait_for(3)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    text = finish(drivers.start("first", address=""), status=2)
    assert re.search(r"--run-dir: the study of this directory is kept in postgresql://127\.0\.0\.1:\d+/\w+; give", text)
    assert not (tmp_path / "runs" / "first" / "study.db").exists()


@pytest.mark.fault
def test_a_user_who_may_not_make_tables_is_told_so(drivers, server, tmp_path):
    with server.connect(drivers.database) as connection:
        connection.execute("create role guest login password 'guest'")
    address = f"postgresql://guest:guest@127.0.0.1:{server.port}/{drivers.database}"
    text = finish(drivers.start("first", address=address), status=2)
    assert "cannot keep a study (permission denied for schema public)" in text
    assert not (tmp_path / "runs" / "first").exists()


@pytest.mark.fault
def test_a_wrong_password_is_told_without_it(drivers, server):
    address = server.address(drivers.database, "s3cr3t")
    text = finish(drivers.start("first", address=address), status=2)
    assert "password authentication failed" in text
    assert f"searcher:***@127.0.0.1:{server.port}" in text
    assert "s3cr3t" not in text
