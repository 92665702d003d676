"""The memory: what it keeps, what it never gives, and a folder that others write in too."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory import Memory


def number(value=1.5, rows=7):
    """What learns `value`, and the list of its calls."""
    calls = []

    def learn():
        calls.append(value)
        return value, rows

    return learn, calls


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(values, st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_every_value_comes_back_to_the_last_bit(tmp_path_factory, value, floats):
    folder = tmp_path_factory.mktemp("memory")
    learn, calls = number([value, floats])
    assert repr(Memory(folder).recall("k", {"v": value}, learn)) == repr([value, floats])
    back = Memory(folder).recall("k", {"v": value}, learn)
    assert repr(back) == repr([value, floats])
    assert struct.pack(f"{len(floats)}d", *back[1]) == struct.pack(f"{len(floats)}d", *floats)
    assert len(calls) == 1


def test_kinds_inputs_and_contexts_never_share(tmp_path):
    asked = [
        (context, kind, inputs)
        for context in ({}, {"benchmark": "gmm"}, {"benchmark": "gmm", "version": 2}, {"first_seed": 1})
        for kind in ("walk", "cost")
        for inputs in ({}, {"a": 1}, {"a": True}, {"a": None}, {"a": [1.0]}, {"a": math.nextafter(1.0, 2)}, {"b": 1})
    ]
    for _ in range(2):
        for i, (context, kind, inputs) in enumerate(asked):
            assert Memory(tmp_path, context).recall(kind, inputs, number(i)[0]) == i
    assert len(list(tmp_path.iterdir())) == len(asked)


def test_the_order_of_keys_does_not_matter():
    memory, (learn, calls) = Memory(), number()
    memory.recall("walk", {"a": 1, "b": {"c": 2, "d": 3}}, learn)
    memory.recall("walk", {"b": {"d": 3, "c": 2}, "a": 1}, learn)
    assert len(calls) == 1


def test_what_is_recalled_is_nobody_elses():
    memory, (learn, _) = Memory(), number([[1.0], {"a": 2}])
    memory.recall("walk", {}, learn)[0].append(9)
    memory.recall("walk", {}, learn)[1]["a"] = 9
    assert memory.recall("walk", {}, learn) == [[1.0], {"a": 2}]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_not_kept(bad, tmp_path):
    memory, (learn, calls) = Memory(tmp_path / "none"), number([1.0, bad])
    for _ in range(2):
        assert repr(memory.recall("walk", {}, learn)) == repr([1.0, bad])
    assert len(calls) == 2
    assert memory.rows_saved == 0
    assert not (tmp_path / "none").exists()


def damaged(text):
    """Ways in which an entry's file may be wrong; each is still a file of that name."""
    held = json.loads(text)
    yield from (text[:cut].encode() for cut in (0, 1, len(text) // 2, len(text) - 1))
    yield from (b"\xff\xfe\x00", b"[]", b"3", b"null", b"{}", b'{"entry": 3, "digest": 4}', b"[" * 100_000)
    for key, value in (("value", 2.5), ("rows", 8), ("rows", "7"), ("kind", "cost"), ("inputs", {"a": 2})):
        yield json.dumps({**held, "entry": {**held["entry"], key: value}}).encode()


def test_a_torn_or_edited_file_is_learned_anew_and_written_over(tmp_path):
    Memory(tmp_path).recall("walk", {"a": 1}, number()[0])
    (file,) = tmp_path.iterdir()
    good = file.read_text()
    for content in damaged(good):
        file.write_bytes(content)
        memory, (learn, calls) = Memory(tmp_path), number()
        assert memory.recall("walk", {"a": 1}, learn) == 1.5
        assert (len(calls), memory.rows_saved) == (1, 0), content
        assert file.read_text() == good


def test_the_file_of_another_entry_is_not_believed(tmp_path):
    Memory(tmp_path).recall("walk", {"a": 1}, number(1.5)[0])
    (first,) = tmp_path.iterdir()
    Memory(tmp_path).recall("walk", {"a": 2}, number(2.5)[0])
    (second,) = set(tmp_path.iterdir()) - {first}
    second.write_text(first.read_text())
    assert Memory(tmp_path).recall("walk", {"a": 2}, number(2.5)[0]) == 2.5


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_folder_that_cannot_be_is_a_memory_of_this_process_alone(below, tmp_path):
    (tmp_path / "taken").write_text("a file")
    memory, (learn, calls) = Memory(tmp_path / "taken" / below), number()
    assert [memory.recall("walk", {}, learn) for _ in range(3)] == [1.5] * 3
    assert (len(calls), memory.rows_saved) == (1, 14)
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert Memory(tmp_path).recall("walk", {}, number()[0]) == 1.5
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys, time
from pathlib import Path
from pipeline.memory import Memory
for entry in range(40):
    Memory(Path(sys.argv[1])).recall("walk", {"entry": entry % 10}, lambda: ([entry % 10 + 0.1] * 5000, 3))
"""


def test_processes_write_in_one_folder_at_once(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    root = Path(__file__).parents[1]
    writers = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [writer.communicate(timeout=60)[1] for writer in writers] == [""] * 3
    assert [writer.returncode for writer in writers] == [0] * 3
    assert len(list(tmp_path.iterdir())) == 10
    for entry in range(10):
        learn, calls = number("learned again")
        assert Memory(tmp_path).recall("walk", {"entry": entry}, learn) == [entry + 0.1] * 5000
        assert calls == []
