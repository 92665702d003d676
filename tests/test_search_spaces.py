"""Study files: what they say, what is refused and how, and the way from a drawn point to a trial's spec."""

import copy
import itertools
import random
import re
from pathlib import Path

import pytest
import yaml

import search_spaces
from pipeline import yaml_file
from pipeline.registry import SpecError
from pipeline.trial import TrialSpec
from search_spaces import Space, Study

TINY = Path(__file__).parent / "data" / "tiny.yaml"
ABSENT = object()
SPACE = {
    "solver": {
        "name": "switch",
        "low": {"choices": {"euler": {"name": "euler"}, "ipndm-3": {"name": "ipndm", "order": 3}}},
        "tau_k": {"low": 1e-3, "high": 1.0, "log": True},
    },
    "schedule": {
        "name": "sdm",
        "num_steps": {"low": 2, "high": 5},
        "eta_max": {"low": 0.01, "high": 0.5, "log": True},
        "eta_min": {"share_of": "eta_max", "low": 0.02, "high": 1.0, "log": True},
    },
}
SHARE = "schedule.eta_min/eta_max"


def changed(place, value, content=None):
    """The tiny study, or `content`, with the value at a place such as "space/solver/tau_k"."""
    content = copy.deepcopy(yaml_file.read(TINY) if content is None else content)
    *way, last = [int(part) if part.isdecimal() else part for part in place.split("/")]
    inner = content
    for part in way:
        inner = inner[part]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return content


def refused(folder, content):
    """The mistake that loading this content ends in."""
    file = folder / "mine.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(SpecError) as caught:
        search_spaces.load(file)
    error = caught.value
    assert error.file == str(file)
    assert "\n" not in str(error)
    assert len(str(error)) < 600  # one line that a person reads; no dump of the file
    return error


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


@pytest.mark.parametrize("name", search_spaces.names())
def test_a_shipped_study_can_be_run(name):
    study = search_spaces.load(name)
    assert study.study == name
    assert study.images % study.shard_images == 0
    assert study.published_points
    for point in study.published_points:
        for parameter, value in point.items():
            distribution = study.parsed_space.distributions[parameter]
            assert distribution._contains(distribution.to_internal_repr(value))
        study.spec(study.parsed_space.assemble(point)).sampler()


def test_options_replace_what_the_file_says_and_are_checked_like_it():
    study = search_spaces.load(TINY, {"trials": 9, "workers": None})
    assert (study.trials, study.workers) == (9, 0)
    with pytest.raises(SpecError, match=r"trials: .*given -1"):
        search_spaces.load(TINY, {"trials": -1})


def test_baselines_may_be_all_or_none():
    assert search_spaces.load(TINY, {"baselines": []}).baseline_names == []
    names = search_spaces.load(TINY, {"baselines": "all"}).baseline_names
    assert {"ddim", "heun"} < set(names)


def test_parameters_are_named_by_their_path_and_what_they_share():
    assert list(Space(SPACE).distributions) == [
        "solver.low",
        "solver.tau_k",
        "schedule.num_steps",
        "schedule.eta_max",
        SHARE,
    ]


def test_a_point_becomes_a_spec():
    params = {
        "solver.low": "ipndm-3",
        "solver.tau_k": 0.5,
        "schedule.num_steps": 4,
        "schedule.eta_max": 0.2,
        SHARE: 0.25,
    }
    assert Space(SPACE).assemble(params) == {
        "solver": {"name": "switch", "low": {"name": "ipndm", "order": 3}, "tau_k": 0.5},
        "schedule": {"name": "sdm", "num_steps": 4, "eta_max": 0.2, "eta_min": 0.05},
        "afs": False,
    }


def test_assembling_leaves_the_space_as_it_was():
    space = Space(SPACE)
    before = copy.deepcopy(SPACE)
    params = next(space.corners())
    first = space.assemble(params)
    first["schedule"]["eta_max"] = 99.0
    assert space.assemble(params)["schedule"]["eta_max"] == 0.01
    assert before == SPACE


def test_a_share_never_leaves_its_whole():
    space, draw = Space(SPACE), random.Random(0)
    for _ in range(200):
        drawn = {"solver.low": "euler", "solver.tau_k": 0.5, "schedule.num_steps": 4}
        drawn |= {"schedule.eta_max": draw.uniform(0.01, 0.5), SHARE: draw.choice([0.02, 1.0, draw.uniform(0.02, 1.0)])}
        schedule = space.assemble(drawn)["schedule"]
        assert schedule["eta_min"] <= schedule["eta_max"]
        TrialSpec(benchmark="gmm", **space.assemble(drawn)).sampler()


def test_corners_hold_every_pair_of_ends():
    corners = list(Space(SPACE).corners())
    ends = {
        "solver.low": ("euler", "ipndm-3"),
        "solver.tau_k": (1e-3, 1.0),
        "schedule.num_steps": (2, 5),
        "schedule.eta_max": (0.01, 0.5),
        SHARE: (0.02, 1.0),
    }
    for one, two in itertools.combinations(ends, 2):
        seen = {(corner[one], corner[two]) for corner in corners}
        assert seen == set(itertools.product(ends[one], ends[two]))


def space_of(solver, schedule, **rest):
    return Space({"solver": solver, "schedule": schedule, **rest})


HEUN, EULER = {"name": "heun"}, {"name": "euler"}
STEPS = {"low": 3, "high": 9}


@pytest.mark.parametrize(
    ("space", "fewest"),
    [
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}), 3),
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}, afs=True), 2),
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}, afs={"choices": [False, True]}), 2),
        # Heun: 2N - 1 to zero, 2N to sigma_min.
        (space_of(HEUN, {"name": "edm", "num_steps": STEPS}), 5),
        (space_of(HEUN, {"name": "logsnr", "num_steps": STEPS, "final": "sigma_min"}), 6),
        (space_of(HEUN, {"name": "edm", "num_steps": STEPS, "final": {"choices": ["sigma_min", "zero"]}}), 5),
        (space_of({"choices": {"h": HEUN, "e": EULER}}, {"name": "edm", "num_steps": STEPS}), 3),
        # A switch may never leave its low solver, or leave it at once.
        (space_of({"name": "switch"}, {"name": "sdm", "num_steps": STEPS}), 3),
        (space_of({"name": "switch", "low": HEUN, "high": EULER}, {"name": "sdm", "num_steps": STEPS}), 3),
        (space_of({"name": "switch", "low": HEUN}, {"name": "sdm", "num_steps": STEPS}), 5),
        (space_of(HEUN, {"name": "given", "values": [10.0, 1.0, 0.1]}), 4),
        (space_of(HEUN, {"name": "given", "values": [10.0, 1.0, 0.0]}), 3),
        # The walk itself: nobody knows how long it is.
        (space_of(HEUN, {"name": "sdm"}), None),
    ],
)
def test_the_fewest_evaluations_of_a_space(space, fewest):
    assert space.check("gmm") == fewest


def test_a_budget_that_the_space_just_reaches_is_taken(tmp_path):
    content = changed("space/solver", {"name": "heun"})
    content["published"] = []
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content | {"budgets": [1, 3]}))  # two moves of Heun; 1 is for the baselines
    assert search_spaces.load(file).budgets == [1, 3]
    file.write_text(yaml.safe_dump(content | {"budgets": [1, 2]}))
    with pytest.raises(SpecError, match=r"budgets\[1\].*given 2; allowed: 3 or more"):
        search_spaces.load(file)


def test_a_step_means_whole_numbers_of_a_real_field():
    space = space_of(HEUN, {"name": "edm", "num_steps": 3, "rho": {"low": 1, "high": 9, "step": 2}})
    assert space.check("gmm") == 5
    assert space.distributions["schedule.rho"].step == 2


def test_a_published_setting_is_written_in_values_and_kept_as_shares():
    setting = {
        "solver.low": ["euler", "ipndm-3"],
        "solver.tau_k": 2e-3,
        "schedule.num_steps": [3, 4.0],
        "schedule.eta_min": 0.01,  # before its whole: the order of keys says nothing
        "schedule.eta_max": 0.4,
    }
    space = Space(SPACE)
    points = space.points(setting)
    found = [(point["solver.low"], point["schedule.num_steps"]) for point in points]
    assert found == [("euler", 3), ("euler", 4), ("ipndm-3", 3), ("ipndm-3", 4)]
    for point in points:
        assert point[SHARE] == pytest.approx(0.025, rel=1e-12)
        assert type(point["schedule.num_steps"]) is int
        assert space.assemble(point)["schedule"]["eta_min"] == pytest.approx(0.01, rel=1e-12)


def test_a_share_at_the_end_of_its_range_survives_rounding():
    setting = {"solver.low": "euler", "solver.tau_k": 1.0, "schedule.num_steps": 5}
    for whole in (0.014, 0.028, 0.035, 0.049):
        written = round(0.02 * whole, 8)
        assert written / whole < 0.02  # just outside
        (low,) = Space(SPACE).points(setting | {"schedule.eta_max": whole, "schedule.eta_min": written})
        (high,) = Space(SPACE).points(setting | {"schedule.eta_max": whole, "schedule.eta_min": whole})
        assert (low[SHARE], high[SHARE]) == (0.02, 1.0)


def test_a_share_of_a_fixed_whole():
    space = Space(changed("schedule/eta_max", 0.4, SPACE))
    setting = {"solver.low": "euler", "solver.tau_k": 1.0, "schedule.num_steps": 5, "schedule.eta_min": 0.1}
    (point,) = space.points(setting)
    assert point[SHARE] == pytest.approx(0.25)
    assert space.assemble(point)["schedule"]["eta_min"] == pytest.approx(0.1)


def fingerprint(place="trials", value=6):
    return Study.model_validate(changed(place, value)).fingerprint


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("study", "other"),
        ("budgets", [3, 6]),
        ("images", 400),
        ("shard_images", 40),
        ("first_seed", 1),
        ("floor/schedule/num_steps", 17),
        ("space/schedule/base_steps", 9),
        ("space/solver/tau_k/high", 2.0),
    ],
)
def test_what_changes_a_number_changes_the_fingerprint(place, value):
    assert fingerprint(place, value) != fingerprint()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("trials", 60),
        ("workers", 2),
        ("threads", 2),
        ("optimizer/seed", 5),
        ("baselines", ["ddim"]),
        ("published", []),
    ],
)
def test_what_only_adds_to_a_study_leaves_its_fingerprint(place, value):
    assert fingerprint(place, value) == fingerprint()


def test_the_order_of_keys_leaves_the_fingerprint():
    content = yaml_file.read(TINY)
    turned = dict(reversed(content.items())) | {"space": dict(reversed(content["space"].items()))}
    assert Study.model_validate(turned).fingerprint == fingerprint()
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint())


def test_a_study_may_not_take_the_name_of_a_report(tmp_path):
    error = refused(tmp_path, changed("study", "nfe"))
    assert error.path == "study"
    assert "given 'nfe'" in str(error)
