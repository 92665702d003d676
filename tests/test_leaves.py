"""The leaves of a space: ordered values, shares, steps, and how wrong ones are told."""

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution, distribution_to_json, json_to_distribution

from pipeline.registry import SpecError
from search_spaces import Space
from tests.study_files import SHARE, SPACE, changed

HEUN = {"name": "heun"}
VALUES = [0.002, 0.01, 0.05, 0.2]


def sdm(**fields):
    return Space({"solver": HEUN, "schedule": {"name": "sdm", "num_steps": 4, **fields}})


def test_ordered_values_are_drawn_by_index_in_their_order():
    space = sdm(eta_max={"values": VALUES}, eta_min=0.001)
    assert space.distributions == {"schedule.eta_max/index": IntDistribution(0, 3)}
    built = [space.assemble({"schedule.eta_max/index": i})["schedule"]["eta_max"] for i in range(4)]
    assert built == VALUES
    assert space.check("gmm") == 7
    assert not space.is_conditional


def test_ordered_values_keep_their_kind():
    space = sdm(base_steps={"values": [8, 18, 40]})
    assert type(space.assemble({"schedule.base_steps/index": 1})["schedule"]["base_steps"]) is int
    assert space.check("gmm") == 7


def test_a_share_of_ordered_values_and_in_ordered_values():
    space = sdm(eta_max={"values": VALUES}, eta_min={"share_of": "eta_max", "values": [0.05, 0.2, 1.0]})
    names = ["schedule.eta_max/index", "schedule.eta_min/eta_max/index"]
    assert list(space.distributions) == names
    for i, whole in enumerate(VALUES):
        for j, share in enumerate((0.05, 0.2, 1.0)):
            schedule = space.assemble(dict(zip(names, (i, j), strict=True)))["schedule"]
            assert schedule["eta_min"] == share * whole
    found = space.points({"schedule.eta_max": 0.01, "schedule.eta_min": [0.002, 0.01]})
    assert found == [{names[0]: 1, names[1]: 1}, {names[0]: 1, names[1]: 2}]


def test_optuna_draws_every_ordered_value_and_reads_the_parameter_back():
    space = sdm(eta_max={"values": VALUES})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {space.assemble(space.draw(study.ask()._suggest))["schedule"]["eta_max"] for _ in range(40)}
    assert drawn == set(VALUES)
    for distribution in space.distributions.values():
        assert json_to_distribution(distribution_to_json(distribution)) == distribution


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, unique=True))
def test_a_value_that_is_written_is_found_again(values):
    values = sorted(values)
    apart = [values[0]]
    for value in values:  # numbers closer than rounding are one
        if value > apart[-1] * (1 + 1e-6):
            apart.append(value)
    space = sdm(eta_max={"values": apart})
    points = space.points({"schedule.eta_max": apart})
    assert [point["schedule.eta_max/index"] for point in points] == list(range(len(apart)))


@pytest.mark.parametrize(
    ("leaf", "path", "says"),
    [
        ({"values": []}, "values", "is no list of numbers, given []"),
        ({"values": None}, "values", "given 'null'; allowed: numbers that rise"),
        ({"values": 0.1}, "values", "given 0.1"),
        ({"values": [0.1, "x"]}, "values[1]", "given 'x'; allowed: a number"),
        ({"values": [0.1, None]}, "values[1]", "given 'null'; allowed: a number"),
        ({"values": [True]}, "values[0]", "given True"),
        ({"values": [0.1, math.inf]}, "values[1]", "given inf"),
        ({"values": [10**400]}, "values[0]", "is no number"),
        ({"values": [0.1, 0.1]}, "values[1]", "do not rise, given 0.1; allowed: more than 0.1"),
        ({"values": [0.2, 0.1]}, "values[1]", "do not rise"),
        ({"values": [0.1], "log": True}, "log", "unknown key, given 'log'; allowed: share_of, values"),
        ({"values": [0.1], "low": 0.1}, "low", "unknown key"),
        ({"values": [0.1], "share_off": "eta_max"}, "share_off", "did you mean 'share_of'"),
        ({"values": [0.1], "share_of": "eta_mx"}, "share_of", "did you mean 'eta_max'"),
        ({"low": 0.1, "high": 10**400}, "high", "is no number"),
        ({"low": 0.1, "high": 1.0, "share_of": "rule"}, "share_of", "given 'rule'"),
    ],
)
def test_a_wrong_leaf_is_told_with_what_is_allowed(leaf, path, says):
    with pytest.raises(SpecError) as refused:
        sdm(eta_max=0.4, rule={"choices": [1.0, 2.0]}, eta_min=leaf)
    assert refused.value.path == f"schedule.eta_min.{path}"
    assert says in str(refused.value)


def test_a_value_that_cannot_be_is_found_before_anything_runs():
    with pytest.raises(SpecError, match=r"schedule\.eta_max: .*given 2\.0|schedule\.eta_min: is above eta_max"):
        sdm(eta_max={"values": [0.001, 2.0]}, eta_min=0.01).check("gmm")


def test_a_step_means_whole_numbers_of_a_real_field():
    space = Space(
        {"solver": HEUN, "schedule": {"name": "edm", "num_steps": 3, "rho": {"low": 1, "high": 9, "step": 2}}}
    )
    assert space.check("gmm") == 5
    assert space.distributions["schedule.rho"].step == 2


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


def test_a_share_of_nothing_is_told_as_such():
    space = sdm(eta_max={"low": 0.0, "high": 1.0}, eta_min={"share_of": "eta_max", "low": 0.1, "high": 1.0})
    with pytest.raises(SpecError, match=r"schedule\.eta_min: .*given 0\.1; allowed: 0 to 0"):
        space.points({"schedule.eta_max": 0.0, "schedule.eta_min": 0.1})
