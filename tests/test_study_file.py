"""Study files that are refused: every mistake is one line that names the file, the key and what is allowed."""

import re

import pytest

import search_spaces
from pipeline import yaml_file
from pipeline.registry import SpecError
from tests.study_files import ABSENT, changed, refused

UNKNOWN = [
    ("trails", 5, "trails", "did you mean 'trials'"),
    ("optimizer/sead", 1, "optimizer.sead", "did you mean 'seed'"),
    ("floor/shedule", {}, "floor.shedule", "did you mean 'schedule'"),
    ("floor/schedule/num_step", 3, "floor.schedule.num_step", "did you mean 'num_steps'"),
    ("space/solvr", {}, "space.solvr", "did you mean 'solver'"),
    ("space/solver/tau", 1.0, "space.solver.tau", "did you mean 'tau_k'"),
    ("space/schedule/etamax", 1.0, "space.schedule.etamax", "did you mean 'eta_max'"),
    ("space/schedule/num_steps/hihg", 3, "space.schedule.num_steps.hihg", "did you mean 'high'"),
    ("space/solver/low/choises", [], "space.solver.low.choises", "did you mean 'choices'"),
    ("space/solver/low/choices/ipndm-3/ordr", 2, "space.solver.low.choices.ipndm-3.ordr", "did you mean 'order'"),
    ("published/0/solver.tau", 1e-3, "published[0].solver.tau", "did you mean 'solver.tau_k'"),
    ("benchmark", "gm", "benchmark", "did you mean 'gmm'"),
    ("baselines", ["ddim", "huen"], "baselines[1]", "did you mean 'heun'"),
    ("baselines", "al", "baselines", "did you mean 'all'"),
    ("optimizer/name", "tpee", "optimizer.name", "did you mean 'tpe'"),
    ("floor/solver/name", "huen", "floor.solver.name", "did you mean 'heun'"),
    ("space/solver/name", "swich", "space.solver.name", "did you mean 'switch'"),
    ("space/schedule/name", "sdmm", "space.schedule.name", "did you mean 'sdm'"),
    ("space/solver/low/choices/euler/name", "eulr", "space.solver.low.choices.euler.name", "did you mean 'euler'"),
    ("space/solver/rule", {"choices": ["step", "linaer"]}, "space.solver.rule", "did you mean 'linear'"),
    ("space/schedule/eta_min/share_of", "eta_mx", "space.schedule.eta_min.share_of", "did you mean 'eta_max'"),
]


@pytest.mark.parametrize(("place", "value", "path", "says"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_an_unknown_name_is_told_with_the_nearest(tmp_path, place, value, path, says):
    error = refused(tmp_path, changed(place, value))
    assert error.path == path
    assert says in str(error)
    assert "given " in str(error)
    assert "; allowed: " in str(error)


WRONG = [
    ("trials", "six", "trials", "integer, given 'six'"),
    ("trials", 6.0, "trials", "integer, given 6.0"),
    ("trials", True, "trials", "integer, given True"),
    ("trials", -1, "trials", "greater than or equal to 0, given -1"),
    ("trials", None, "trials", "given 'null'"),
    ("images", 1, "images", "given 1"),
    ("workers", -1, "workers", "given -1"),
    ("threads", 0, "threads", "given 0"),
    ("optimizer", "tpe", "optimizer", "given 'tpe'; allowed: a mapping with name, seed"),
    ("optimizer/seed", "x", "optimizer.seed", "given 'x'"),
    ("study", "a/b", "study", "given 'a/b'"),
    ("study", "x" * 300, "study", "at most 100 characters"),
    ("benchmark", "nope.yaml", "benchmark", "given 'nope.yaml'"),
    ("baselines", None, "baselines", "given 'null'; allowed: all, ddim"),
    ("baselines", ["ddim", "ddim"], "baselines[1]", "given twice, given 'ddim'"),
    ("baselines", [3], "baselines[0]", "given 3; allowed: ddim"),
    ("budgets", [], "budgets", "given []"),
    ("budgets", [5, 3], "budgets", "do not rise, given [5, 3]"),
    ("budgets", [3, 3], "budgets", "do not rise, given [3, 3]"),
    ("budgets", [0, 3], "budgets", "from 1 up"),
    ("budgets", [3, 5.0], "budgets[1]", "given 5.0"),
    ("budgets", [1], "budgets[0]", "given 1; allowed: 2 or more"),
    ("shard_images", 30, "shard_images", "given 30; allowed: a divisor of 200"),
    ("shard_images", 200, "shard_images", "given 200; allowed: 1 to 100"),
    ("floor/schedule/num_steps", "x", "floor.schedule.num_steps", "given 'x'; allowed: a whole number"),
    ("space", [], "space", "given []"),
    ("space/solver", [1], "space.solver", "given [1]; allowed: a mapping"),
    ("space/afs", "yes", "space.afs", "given 'yes'; allowed: true or false"),
    ("space/afs", {"choices": [0, 1]}, "space.afs", "given 0; allowed: true or false"),
    ("space/solver/low", "euler", "space.solver.low", "given 'euler'; allowed: a mapping"),
    ("space/solver/low", {"choices": []}, "space.solver.low.choices", "given []"),
    ("space/solver/low", {"choices": {"a": "heun"}}, "space.solver.low.choices.a", "given 'heun'; allowed: a mapping"),
    ("space/solver/rule", {"choices": ["step", "step"]}, "space.solver.rule.choices", "twice, given 'step'"),
    ("space/solver/tau_k", "0.1", "space.solver.tau_k", "given '0.1'; allowed: a number"),
    ("space/solver/tau_k", {"low": "a", "high": 1.0}, "space.solver.tau_k.low", "given 'a'; allowed: a number"),
    ("space/solver/tau_k", {"low": 0.1, "high": float("inf")}, "space.solver.tau_k.high", "given inf"),
    ("space/solver/tau_k", {"low": 0, "high": 1.0, "log": True}, "space.solver.tau_k.low", "given 0; allowed: above 0"),
    ("space/solver/tau_k", {"low": -1.0, "high": 1.0}, "space.solver.tau_k", "given -1.0; allowed: 0 or more"),
    ("space/solver/tau_k", {"low": 0, "high": 10}, "space.solver.tau_k", "low: 0.0, high: 10.0"),
    ("space/solver/tau_k", {"low": 0.1, "high": 1.0, "step": 0.4}, "space.solver.tau_k.step", "a divisor of 0.9"),
    ("space/solver/tau_k", {"low": 0.1, "high": 1.0, "step": 0}, "space.solver.tau_k.step", "given 0; allowed: a num"),
    ("space/schedule/num_steps/low", 9, "space.schedule.num_steps.low", "given 9; allowed: at most 5"),
    ("space/schedule/num_steps/low", 0, "space.schedule.num_steps", "given 0; allowed: 1 to 10000, or null"),
    ("space/schedule/num_steps/low", 2.5, "space.schedule.num_steps", "given 2.5; allowed: a whole number"),
    ("space/schedule/num_steps/step", 1.5, "space.schedule.num_steps.step", "given 1.5; allowed: a whole number"),
    ("space/schedule/num_steps/step", "a", "space.schedule.num_steps.step", "given 'a'; allowed: a whole number"),
    ("space/schedule/num_steps/log", "yes", "space.schedule.num_steps.log", "given 'yes'; allowed: true or false"),
    (
        "space/schedule/num_steps",
        {"low": 2, "high": 4, "log": True, "step": 2},
        "space.schedule.num_steps.step",
        "not both",
    ),
    # eta_min above eta_max: fixed, drawn from ranges that overlap, and as a share of more than the whole.
    ("space/schedule/eta_min", 0.9, "space.schedule.eta_min", "above eta_max, given 0.9; allowed: at most 0.01"),
    (
        "space/schedule/eta_min",
        {"low": 0.001, "high": 0.4},
        "space.schedule.eta_min",
        "given 0.4; allowed: at most 0.01",
    ),
    ("space/schedule/eta_min/high", 1.5, "space.schedule.eta_min", "given 0.015; allowed: at most 0.01"),
    ("space/schedule/eta_min/share_of", "eta_min", "space.schedule.eta_min.share_of", "given 'eta_min'"),
    ("space/schedule/eta_min/share_of", "name", "space.schedule.eta_min.share_of", "given 'name'"),
    ("published", None, "published", "given 'null'"),
    ("published/0", [1], "published[0]", "given [1]"),
    ("published/0/solver.tau_k", 100.0, "published[0].solver.tau_k", "given 100.0; allowed: 0.001 to 1"),
    ("published/0/solver.tau_k", True, "published[0].solver.tau_k", "given True; allowed: 0.001 to 1"),
    ("published/0/solver.low", "eulr", "published[0].solver.low", "given 'eulr'; allowed: euler, ipndm-3"),
    ("published/0/schedule.num_steps", [3, 9], "published[0].schedule.num_steps", "given 9; allowed: 2 to 5"),
    ("published/0/schedule.num_steps", 3.5, "published[0].schedule.num_steps", "given 3.5; allowed: 2 to 5"),
    ("published/0/schedule.num_steps", "3", "published[0].schedule.num_steps", "given '3'; allowed: 2 to 5"),
    ("published/0/schedule.num_steps", [], "published[0].schedule.num_steps", "given []"),
    # A share's range is told as what may be written: 0.02 to 1 times this setting's eta_max of 0.4.
    ("published/0/schedule.eta_min", 0.5, "published[0].schedule.eta_min", "given 0.5; allowed: 0.008 to 0.4"),
    ("published/0/schedule.eta_min", "x", "published[0].schedule.eta_min", "given 'x'; allowed: 0.008 to 0.4"),
    ("published/0/schedule.eta_min", None, "published[0].schedule.eta_min", "given 'null'; allowed: 0.008 to 0.4"),
    ("published/0/schedule.eta_max", 0, "published[0].schedule.eta_max", "given 0; allowed: 0.01 to 0.5"),
    ("published/0/schedule.eta_max", "y", "published[0].schedule.eta_max", "given 'y'; allowed: 0.01 to 0.5"),
]


@pytest.mark.parametrize(("place", "value", "path", "says"), WRONG, ids=[f"{c[0]}={c[1]!r}"[:60] for c in WRONG])
def test_a_wrong_value_is_told_with_what_is_allowed(tmp_path, place, value, path, says):
    error = refused(tmp_path, changed(place, value))
    assert error.path == path
    assert says in str(error)


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("study", "study"),
        ("floor", "floor"),
        ("floor/solver", "floor.solver"),
        ("floor/solver/name", "floor.solver.name"),
        ("floor/schedule/num_steps", "floor.schedule.num_steps"),
        ("space", "space"),
        ("space/solver", "space.solver"),
        ("space/solver/name", "space.solver.name"),
        ("space/schedule/name", "space.schedule.name"),
        ("space/schedule/num_steps/high", "space.schedule.num_steps.high"),
        ("space/schedule/eta_min/low", "space.schedule.eta_min.low"),
        ("published/0/solver.tau_k", "published[0].solver.tau_k"),
    ],
)
def test_a_missing_key_is_named(tmp_path, place, path):
    error = refused(tmp_path, changed(place, ABSENT))
    assert error.path == path
    assert "missing" in str(error) or "needs a name" in str(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no mapping"),
        (b"# nothing but a remark\n", "holds no mapping"),
        (b"- a\n- b\n", "given 'list'"),
        (b"study: a\ntrials: 1\nstudy: b\n", "study: is given twice (line 3)"),
        (b"floor:\n  solver: 1\n  solver: 2\n", "solver: is given twice (line 3)"),
        (b"study: [1, 2\n", "is not YAML"),
        (b"study: a\n\ttrials: 1\n", "is not YAML at line 2"),
        (b"a: 1\n---\nb: 2\n", "another document"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not YAML at line 1"),
        (b"a: \xe9\xe8\n", "not UTF-8"),
        (b"a: \x00\n", "is not YAML"),
        (b"? {a: 1}\n: 3\n", "cannot be read"),
        (b"a: " + b"[" * 3000, "cannot be read"),
        (b"space: &x {solver: *x}\n", "cannot be read (Circular"),
        (b"a: " + b"9" * 5000 + b"\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping_of_yaml_is_refused(tmp_path, content, says):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=re.escape(says)) as caught:
        search_spaces.load(file)
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_with_the_nearest_shipped_one(tmp_path):
    with pytest.raises(SpecError, match=r"no such study file, given 'digts'.*did you mean 'digits.yaml'"):
        search_spaces.load("digts")
    with pytest.raises(SpecError, match="no such study file"):
        search_spaces.load("x" * 5000)
    with pytest.raises(SpecError, match="directory"):
        search_spaces.load(tmp_path)


def test_numbers_are_read_as_people_write_them(tmp_path):
    file = tmp_path / "numbers.yaml"
    file.write_text("a: 1e-3\nb: -2E+4\nc: .5e1\nd: 1.5\ne: 7\nf: '1e-3'\ng: yes\n")
    read = yaml_file.read(file)
    assert read == {"a": 1e-3, "b": -2e4, "c": 5.0, "d": 1.5, "e": 7, "f": "1e-3", "g": True}
    assert [type(value) for value in read.values()] == [float, float, float, float, int, str, bool]


def test_a_study_may_not_take_the_name_of_a_report(tmp_path):
    error = refused(tmp_path, changed("study", "nfe"))
    assert error.path == "study"
    assert "given 'nfe'" in str(error)
