"""A disk that fills up: one line, nothing lost, and on it goes once there is space."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.driver import COMMAND, LISTED, finish, numbers, plain_environment, records, study_file

ROOT = Path(__file__).parents[2]
# A file system of its own, small at first, in a name space of its own: no rights are needed for that.
SCRIPT = """
set -eu
mkdir -p small && mount -t tmpfs -o size=1500k small small
run() { "$@" > "$said" 2>&1 && echo "status 0" || echo "status $?"; }
said=first.txt; run "$@"
cp small/run/study.db full.db
mount -o remount,size=64m small
said=second.txt; run "$@"
cp -r small/run run
"""


def may_mount(folder):
    trial = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=64k small ."]
    return (
        shutil.which("unshare") and subprocess.run(trial, cwd=folder, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.fault
def test_a_full_disk_is_one_line_and_the_study_goes_on_when_there_is_space(tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a file system in a name space of their own")
    whole, folder = tmp_path / "whole", tmp_path / "full"
    changes = LISTED | {"trials": 3, "baselines": ["ddim"]}
    file = study_file(whole, changes)
    finish(file, whole)
    folder.mkdir()
    argv = [sys.executable, "-W", "ignore", "-c", COMMAND, "search", str(file), "--run-dir", "small/run"]
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", SCRIPT, "sh", *argv],
        cwd=folder,
        env=plain_environment() | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    first, second = (folder / "first.txt").read_text(), (folder / "second.txt").read_text()
    assert ran.stdout.splitlines() == ["status 1", "status 0"], (ran.stderr, first[-1000:], second[-1000:])
    assert "Traceback" not in first
    said = first.splitlines()[-1]
    assert said.startswith(f"error: no space is left on the disk of {folder / 'small' / 'run'}")
    with sqlite3.connect(folder / "full.db") as storage:
        assert storage.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert numbers(records(file, folder)) == numbers(records(file, whole))
