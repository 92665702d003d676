"""Conditional spaces: what a label holds is drawn, checked and told where the label is, and only there."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.registry import SpecError
from pipeline.trial import TrialSpec
from search_spaces import Space
from tests.branches import BRANCHES, branch, points
from tests.study_files import SPACE, STEPS

EDM = {"name": "edm", "num_steps": STEPS}


def test_a_parameter_inside_a_label_has_the_label_in_its_name():
    assert list(BRANCHES.distributions) == [
        "solver",
        "solver.switch.low",
        "solver.switch.low.ipndm.order",
        "solver.switch.tau_k",
        "solver.deis.order",
        "schedule",
        "schedule.sdm.num_steps",
        "schedule.sdm.eta_max/index",
        "schedule.sdm.eta_min/eta_max/index",
        "schedule.gits.num_steps",
        "schedule.gits.coeff",
        "schedule.edm.num_steps",
        "schedule.edm.rho",
        "schedule.edm.final",
        "schedule.vp.num_steps",
        "afs",
    ]
    assert BRANCHES.is_conditional
    assert not Space(SPACE).is_conditional


def test_only_what_is_active_is_drawn_and_a_choice_before_what_is_inside_it():
    held = {"solver": "switch", "solver.switch.low": "ipndm", "schedule": "gits"}
    asked = []

    def suggest(name, distribution):
        assert distribution == BRANCHES.distributions[name]
        asked.append(name)
        return held.get(name, BRANCHES.leaves[name].ends()[-1])

    params = BRANCHES.draw(suggest)
    assert asked == list(params)
    assert params == held | {
        "solver.switch.low.ipndm.order": 3,
        "solver.switch.tau_k": 1.0,
        "schedule.gits.num_steps": 9,
        "schedule.gits.coeff": 1.3,
        "afs": True,
    }
    assert BRANCHES.assemble(params) == {
        "solver": {"name": "switch", "low": {"name": "ipndm", "order": 3}, "tau_k": 1.0},
        "schedule": {"name": "gits", "num_steps": 9, "coeff": 1.3},
        "afs": True,
    }


@settings(deadline=None)
@given(points())
def test_every_point_that_is_drawn_is_in_the_space_and_can_be_built(params):
    assert BRANCHES.contains(params)
    built = BRANCHES.assemble(params)
    sampler = TrialSpec(benchmark="gmm", **built).sampler()
    assert sampler.schedule.num_steps == params[f"schedule.{params['schedule']}.num_steps"]
    if params["schedule"] == "sdm":
        assert sampler.schedule.eta_min <= sampler.schedule.eta_max in (0.01, 0.05, 0.2)


@settings(deadline=None)
@given(points(), st.data())
def test_parameters_that_are_not_active_do_not_matter_and_active_ones_are_needed(params, data):
    others = {name: "anything" for name in BRANCHES.distributions if name not in params}
    assert BRANCHES.assemble(others | params) == BRANCHES.assemble(params)
    lost = data.draw(st.sampled_from(sorted(params)))
    rest = {name: value for name, value in params.items() if name != lost}
    assert not BRANCHES.contains(rest)
    with pytest.raises(SpecError, match="is required and missing") as missing:
        BRANCHES.assemble(rest)
    assert missing.value.path == lost


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("solver", "unipc"),
        ("solver.deis.order", 4),
        ("schedule.sdm.num_steps", 4),
        ("schedule.sdm.num_steps", 6.0),
        ("schedule.sdm.num_steps", True),
        ("schedule.sdm.eta_max/index", 3),
        ("schedule.sdm.eta_max/index", -1),
        ("schedule.sdm.eta_max/index", 0.5),
        ("schedule.sdm.eta_max/index", "0"),
        ("afs", None),
    ],
)
def test_a_parameter_outside_its_range_is_no_point_of_the_space(name, value):
    inside = {"solver": "deis", "solver.deis.order": 2, "schedule": "sdm", "schedule.sdm.num_steps": 6}
    inside |= {"schedule.sdm.eta_max/index": 2, "schedule.sdm.eta_min/eta_max/index": 0, "afs": False}
    assert BRANCHES.contains(inside)
    assert not BRANCHES.contains(inside | {name: value})
    with pytest.raises(SpecError, match="lies outside the space") as refused:
        BRANCHES.assemble(inside | {name: value})
    assert refused.value.path == name


def test_corners_hold_every_pair_of_ends_that_can_be_active_together():
    seen = {frozenset(pair) for corner in BRANCHES.corners() for pair in itertools.combinations(corner.items(), 2)}
    together = set()
    for one, two in itertools.combinations(BRANCHES.leaves.values(), 2):
        needs = [*one.place.needs, *two.place.needs]
        for a, b in itertools.product(one.ends(), two.ends()):
            wanted = {*needs, (one.name, a), (two.name, b)}
            if len(dict(wanted)) == len(wanted):
                together.add(frozenset({(one.name, a), (two.name, b)}))
    assert seen == together
    assert {("solver.switch.low.ipndm.order", 3), ("schedule.gits.coeff", 1.3)} in seen
    assert not any(
        {("schedule", "gits"), ("schedule.edm.rho", 1.0)} <= set(corner.items()) for corner in BRANCHES.corners()
    )


def test_no_corner_comes_twice():
    corners = [tuple(corner.items()) for corner in BRANCHES.corners()]
    assert len(set(corners)) == len(corners)
    assert list(Space({"solver": {"name": "heun"}, "schedule": EDM | {"num_steps": 3}}).corners()) == [{}]


@pytest.mark.parametrize(
    ("tree", "path", "says"),
    [
        (branch({"name": "gits", "num_step": STEPS}), "schedule.choices.mine.num_step", "did you mean 'num_steps'"),
        (branch({"name": "gits", "num_steps": {"low": 0, "high": 9}}), "schedule.choices.mine.num_steps", "given 0"),
        (branch({"name": "gits", "num_steps": {"low": 5, "high": 61}}), "schedule.choices.mine.num_steps", "given 61"),
        (branch({"name": "gist", "num_steps": STEPS}), "schedule.choices.mine.name", "did you mean 'gits'"),
        (branch("edm"), "schedule.choices.mine", "given 'edm'; allowed: {"),
        (branch({"name": "edm", "num_steps": {"hihg": 9, "low": 3}}), "schedule.choices.mine.num_steps.hihg", "'high'"),
        (
            branch({"name": "edm", "num_steps": 3, "rho": {"low": 1, "high": 12}}),
            "schedule.choices.mine.rho",
            "low: 1.0, high: 12.0",
        ),
        (
            branch({"name": "sdm", "num_steps": 3, "eta_max": 0.4, "eta_min": {"share_of": "eta_mx", "values": [1.0]}}),
            "schedule.choices.mine.eta_min.share_of",
            "did you mean 'eta_max'",
        ),
        (branch({"choices": {"a": EDM, "b": EDM | {"rho": "x"}}}), "schedule.choices.mine.choices.b.rho", "given 'x'"),
        (branch(EDM, {"share_of": "x", "low": 0.1, "high": 1.0}), "solver.choices.mine.share_of", "no siblings"),
    ],
)
def test_a_mistake_inside_a_label_is_told_with_the_way_there(tree, path, says):
    with pytest.raises(SpecError) as refused:
        Space(tree).check("gmm")
    assert refused.value.path == path
    assert says in str(refused.value)


def test_two_parameters_of_one_name_are_refused():
    item = {"name": "edm", "num_steps": 3, "a": {"rho": {"low": 1.0, "high": 2.0}}, "a.rho": {"low": 1.0, "high": 2.0}}
    with pytest.raises(SpecError, match="has the name of the parameter at") as refused:
        Space(branch(item))
    assert refused.value.given == "schedule.mine.a.rho"


@pytest.mark.parametrize(("solvers", "fewest"), [(["heun"], 4), (["heun", "euler"], 2)])
def test_the_fewest_evaluations_are_found_across_labels(solvers, fewest):
    # The shorter schedule, the cheaper solver and the first step free are none of them first.
    space = Space(
        {
            "solver": {"choices": {name: {"name": name} for name in solvers}},
            "schedule": {"choices": {"long": EDM | {"num_steps": {"low": 5, "high": 9}}, "short": EDM}},
            "afs": {"choices": [False, True]},
        }
    )
    assert space.check("gmm") == fewest


def test_learned_schedules_count_by_their_own_number_of_steps():
    gits = {"name": "gits", "num_steps": {"low": 2, "high": 9}}
    one_solver = {"solver": {"name": "heun"}, "schedule": {"choices": {"edm": EDM, "gits": gits}}}
    assert Space(one_solver).check("gmm") == 4  # two moves to sigma_min, where edm's three to 0 make five


def test_a_label_whose_walk_is_of_any_length_leaves_the_fewest_open():
    assert Space(branch({"name": "sdm"})).check("gmm") is None
