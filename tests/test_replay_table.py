"""The file of a replay's table: what comes back as it was, what half precision may change, and what is refused."""

import io
import json
import math
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.comparison import Estimate
from pipeline.evidence import TeacherDistance
from pipeline.registry import SpecError
from pipeline.replay.show import opened
from pipeline.replay.table import Entry, Lesson, Measured, Table, load, save
from tests.replay_study import ABOUT, GRID, by_hand, plan, spec

HALF = 2.0**-11  # what rounding to half precision changes at most, as a share
NORMAL = st.floats(2.0**-14, 6e4)  # below, half precision has fewer digits


@pytest.fixture
def file(tmp_path):
    return tmp_path / "t.zip"


def back(table, folder):
    save(table, folder / "back.zip")
    return load(folder / "back.zip")


def test_what_is_not_rounded_comes_back_as_it_was(tmp_path):
    shared = plan("b" * 64, 4, 2.5)
    churned = spec(6, afs=True, churn={"s_churn": 10.0})
    entries = [
        Entry(spec(3), plan("a" * 64, 3, 7.5, confirmed=8.0), (Lesson("walk", 160, 16, 0.25),)),
        Entry(spec(4), shared, (Lesson("walk", 160, 16, 0.25), Lesson("kappa", 64, 16, 0.125))),
        Entry(churned, shared, ()),
    ]
    table = Table(GRID, ABOUT, entries)
    read = back(table, tmp_path)
    assert len(read) == 3
    assert (read.study, read.about) == (json.loads(json.dumps(GRID)), ABOUT)
    for before, after in zip(table, read, strict=True):
        parts = ("solver", "schedule", "afs", "denoise_to_zero", "churn")
        assert all(getattr(before.spec, name) == getattr(after.spec, name) for name in parts)
        assert after.lessons == before.lessons
        assert (after.plan.digest, after.plan.nfe) == (before.plan.digest, before.plan.nfe)
        assert [score.images for score in after.plan.scores] == [40, 200]
        assert (after.plan.confirmed is None) == (before.plan.confirmed is None)
    assert read.find(churned).plan is read.find(spec(4)).plan, "a plan that two share is one again"


@given(
    st.lists(st.tuples(NORMAL, NORMAL, st.lists(st.floats(-8, 8), min_size=3, max_size=3)), min_size=1, max_size=4),
)
@example([(1.0, 6.103515625e-05, [1.0, 1.0, 1.0])])
@example([(1.0, 1.0, [-1.0, -1.0, -1.0])])
@example([(1.0, 1.0, [5e-324, 0.0, 0.0])])
def test_rounding_is_within_its_bounds(tmp_path_factory, drawn):
    def score(fid, deviations):
        return Estimate.of(200, fid, tuple(fid + fid * 0.01 * each for each in deviations))

    plans = [
        Measured(str(i), i + 2, far, TeacherDistance((far,), (far / 2,)), (score(fid, deviations),), None)
        for i, (far, fid, deviations) in enumerate(drawn)
    ]
    read = back(by_hand(plans), tmp_path_factory.mktemp("t"))
    for before, after in zip(plans, (entry.plan for entry in read), strict=True):
        assert after.teacher.features == pytest.approx(before.teacher.features, rel=HALF)
        assert after.teacher.pixels == pytest.approx(before.teacher.pixels, rel=HALF, abs=2.0**-25)
        assert after.seconds == pytest.approx(before.seconds, rel=2**-24)
        (ours,), (theirs,) = after.scores, before.scores
        assert ours.fid == pytest.approx(theirs.fid, rel=2**-24)
        # Single precision of the FID and its error, and half of each group's distance from it.
        reach = max(abs(each - theirs.fid) for each in theirs.leave_one_out)
        within = 2**-23 * theirs.fid + 2 * HALF * reach
        assert ours.leave_one_out == pytest.approx(theirs.leave_one_out, rel=0, abs=within)
        assert ours.se == pytest.approx(theirs.se, rel=0, abs=4 * within)
        assert ours.corrected == pytest.approx(theirs.corrected, rel=0, abs=3 * within)


def test_a_score_without_spread_comes_back_without(tmp_path):
    flat = Measured("d", 2, 1.0, TeacherDistance((1.0,), (1.0,)), (Estimate.of(200, 3.0, (3.0, 3.0)),), None)
    (entry,) = back(by_hand([flat]), tmp_path)
    assert entry.plan.scores[0] == flat.scores[0]


def test_a_spec_that_was_not_measured_is_one_line():
    table = by_hand([plan("a", 3, 7.5)])
    assert table.find(spec(3, first_seed=5)).plan.nfe == 3, "whatever images it is scored on"
    with pytest.raises(SpecError, match=r"^is not in the table of the replay, given '\{\"name\": \"edm\""):
        table.find(spec(4))


def test_stand_ins_are_as_long_as_their_plans_and_as_distinct():
    plans = [plan(f"{i}", nfe, 1.0) for i, nfe in enumerate([1, 2, 2, 7, 40, 40, 200])]
    entries = [Entry(spec(i + 2), each, ()) for i, each in enumerate([*plans, plans[1]])]
    table = Table(GRID, ABOUT, entries)
    stand_ins = [table.stand_in(entry) for entry in table]
    assert [len(each) for each in stand_ins] == [each.nfe for each in [*plans, plans[1]]]
    assert len({each.digest for each in stand_ins}) == len(plans)
    assert stand_ins[-1].digest == stand_ins[1].digest
    assert [table.measured(each) for each in stand_ins] == [*plans, plans[1]]


# What is refused ---------------------------------------------------------------------------------------------------


def rewritten(file, change):
    """The table's file with its parts, by name, changed."""
    with zipfile.ZipFile(file) as held:
        parts = {name: held.read(name) for name in held.namelist()}
    change(parts)
    with zipfile.ZipFile(file, "w") as held:
        for name, content in parts.items():
            held.writestr(name, content)


def edited(**changes):
    def change(parts):
        parts["table.json"] = json.dumps(json.loads(parts["table.json"]) | changes).encode()

    return change


def refused(file):
    with pytest.raises(SpecError) as caught:
        opened(str(file))
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Trap:
    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_nothing_is_unpickled(file):
    save(by_hand([plan("a", 3, 7.5)]), file)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], object), allow_pickle=True)
    rewritten(file, lambda parts: parts.update({"nfe.npy": buffer.getvalue()}))
    assert "is no table of a replay" in refused(file)
    rewritten(file, lambda parts: parts.update({"nfe.npy": pickle.dumps(Trap())}))
    assert "is no table of a replay" in refused(file)
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edited(format=2), "format: is a table of another version, given 2; allowed: 1"),
        (lambda parts: parts.pop("table.json"), "is no table of a replay"),
        (lambda parts: parts.pop("nfe.npy"), "is no table of a replay"),
        (edited(digests=["a", "b"]), "is no table of a replay"),
        (edited(entries=[[{"solver": {}, "schedule": {}, "shape": 3}, 0, []]]), "is no table of a replay"),
        (edited(entries=None), "is no table of a replay"),
        (edited(about={}), "is no table of a replay"),
        (edited(study=GRID | {"trials": -1}), "trials: "),
        (edited(study=GRID | {"benchmark": "gm"}), "did you mean 'gmm'"),
        (lambda parts: parts.update({"table.json": b"[" * 100_000}), "is no table of a replay"),
    ],
)
def test_what_is_no_table_is_one_line(file, change, says):
    save(by_hand([plan("a", 3, 7.5)]), file)
    rewritten(file, change)
    assert says in refused(file)


def test_a_torn_table_is_one_line(file):
    save(by_hand([plan("a", 3, 7.5), plan("b", 4, 2.5)]), file)
    whole = file.read_bytes()
    for at in range(0, len(whole) - 1, 97):
        file.write_bytes(whole[:at])
        assert "is no table of a replay" in refused(file) or "cannot be read" in refused(file)


@given(st.data())
def test_a_table_with_a_wrong_byte_is_a_table_or_one_line(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("t") / "t.zip"
    save(by_hand([plan("a", 3, 7.5)]), file)
    whole = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole)
    count, told = 1, str(file)
    try:
        count = len(load(file))
    except SpecError as error:
        told = error.file
    assert (count, told) == (1, str(file))


def test_a_table_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SpecError, match=r"no such table, given 'digits-kd'; .*did you mean 'digits-kde'\?"):
        opened("digits-kd")
    with pytest.raises(SpecError, match="no such table"):
        opened("x" * 5000)
    assert "directory" in refused(tmp_path)


def test_a_table_that_cannot_be_finished_leaves_the_old_one(file, monkeypatch):
    save(by_hand([plan("a", 3, 7.5)]), file)
    before = file.read_bytes()
    monkeypatch.setattr(np, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(by_hand([plan("a", 3, 9.5)]), file)
    assert file.read_bytes() == before
    assert math.isclose(next(iter(load(file))).plan.scores[-1].fid, 7.5)
