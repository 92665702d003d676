"""A clock that jumps and a disk that is slow: the study goes on, to the same numbers."""

from __future__ import annotations

import random
import time

import pytest

from pipeline import shard_store, yaml_file
from pipeline.cluster import InProcessPool
from pipeline.whole_file import write_whole
from search_spaces import Study
from tests.faults.driver import LISTED, TINY
from tests.spied_search import run, values


@pytest.fixture(scope="module")
def listed():
    return Study.model_validate(yaml_file.read(TINY) | LISTED | {"trials": 4})


def test_a_clock_that_jumps_by_days_and_a_slow_disk_change_nothing(listed, tmp_path, monkeypatch):
    expected = values(run(None, listed, pool=InProcessPool("gmm")).records)
    rng, honest, slow = random.Random(1), time.time, []

    def jumping():
        return honest() + rng.uniform(-1e6, 1e6)

    def sluggish(file, content):
        slow.append(file.name)
        time.sleep(0.02)
        write_whole(file, content)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(shard_store, "write_whole", sluggish)
    ran = run(tmp_path, listed, pool=InProcessPool("gmm"), disk=True)
    assert len(slow) > 20
    assert values(ran.records) == expected
