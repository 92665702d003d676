"""Published settings as points of a space: values by key, and methods by name."""

import json

import pytest
from hypothesis import given, settings

from pipeline.methods import METHODS
from pipeline.registry import SpecError
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from search_spaces import Space
from tests.branches import BRANCHES, CONDITIONAL, branch, points
from tests.study_files import SHARE, SPACE

DEIS = {"solver": "deis", "solver.deis.order": 3, "afs": False}


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


# With labels ----------------------------------------------------------------------------------------------------------


def test_only_what_is_active_beside_its_label_is_given():
    setting = DEIS | {"schedule": ["edm", "gits"], "schedule.edm.num_steps": [4, 6], "schedule.edm.rho": 7}
    setting |= {"schedule.edm.final": "zero", "schedule.gits.coeff": 1.15, "schedule.gits.num_steps": 5}
    edm = {"schedule": "edm", "schedule.edm.rho": 7.0, "schedule.edm.final": "zero"}
    gits = {"schedule": "gits", "schedule.gits.coeff": 1.15, "schedule.gits.num_steps": 5}
    assert BRANCHES.points(setting) == [
        DEIS | edm | {"schedule.edm.num_steps": 4},
        DEIS | edm | {"schedule.edm.num_steps": 6},
        DEIS | gits,
    ]


@settings(deadline=None)
@given(points())
def test_a_point_can_be_written_as_a_setting_and_read_again(params):
    setting = json.loads(json.dumps(BRANCHES.setting(params)))
    assert not any(key.endswith("/index") for key in setting)
    (again,) = BRANCHES.points(setting)
    assert again == params


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"schedule": "gist"}, "schedule", "did you mean 'gits'"),
        ({"schedule": None}, "schedule", "given 'null'; allowed: sdm, gits"),
        ({"schedule": []}, "schedule", "holds no value"),
        ({"schedule.coeff": 1.1}, "schedule.coeff", "did you mean 'schedule.gits.coeff'"),
        ({"schedule.gits.coef": 1.1}, "schedule.gits.coef", "did you mean 'schedule.gits.coeff'"),
        ({"schedule.gits.coeff": 1.4}, "schedule.gits.coeff", "given 1.4; allowed: 1 to 1.3"),
        ({"schedule.gits.num_steps": float("inf")}, "schedule.gits.num_steps", "given inf; allowed: 3 to 9"),
        ({"schedule.gits.num_steps": float("nan")}, "schedule.gits.num_steps", "given nan"),
        ({"schedule.gits.num_steps": 10**400}, "schedule.gits.num_steps", "lies outside"),
        ({"schedule.edm.rho": 7.0}, "schedule.edm.rho", "allowed: beside schedule: edm"),
        (
            {"solver.switch.low.ipndm.order": 2},
            "solver.switch.low.ipndm.order",
            "solver: switch, solver.switch.low: ip",
        ),
        ({"schedule": "edm"}, "schedule.gits.num_steps", "is searched elsewhere only"),
        ({"schedule": ["gits", "vp"]}, "schedule.vp.num_steps", "is required and missing"),
    ],
)
def test_a_wrong_setting_is_told_with_the_nearest_that_is_searched(change, path, says):
    setting = DEIS | {"schedule": "gits", "schedule.gits.num_steps": 4, "schedule.gits.coeff": 1.1}
    assert len(BRANCHES.points(setting)) == 1
    with pytest.raises(SpecError) as refused:
        BRANCHES.points(setting | change)
    assert refused.value.path == path
    assert says in str(refused.value)


def test_an_ordered_value_is_written_as_itself():
    setting = DEIS | {"schedule": "sdm", "schedule.sdm.num_steps": 5, "schedule.sdm.eta_max": 0.2}
    (point,) = BRANCHES.points(setting | {"schedule.sdm.eta_min": 0.06})
    assert (point["schedule.sdm.eta_max/index"], point["schedule.sdm.eta_min/eta_max/index"]) == (2, 1)
    with pytest.raises(SpecError, match=r"given 0\.05; allowed: 0\.02, 0\.06, 0\.2"):
        BRANCHES.points(setting | {"schedule.sdm.eta_min": 0.05})


# Methods by name ------------------------------------------------------------------------------------------------------


def test_a_method_is_found_at_each_nfe_with_every_field_as_its_authors_have_it():
    found = BRANCHES.points({"method": ["deis", "heun"], "nfe": [7, 8, 9]})
    assert [(point["solver"], point["schedule"]) for point in found] == [("deis", "vp")] * 3 + [("heun", "edm")] * 3
    pairs = [METHODS.get(name).pair(nfe) for name in ("deis", "heun") for nfe in (7, 8, 9)]
    for point, (solver, schedule) in zip(found, pairs, strict=True):
        assert BRANCHES.contains(point)
        built = BRANCHES.assemble(point)
        assert SOLVERS.build(built["solver"]) == SOLVERS.build(solver)
        assert SCHEDULES.build(built["schedule"]) == SCHEDULES.build(schedule)
        assert built["afs"] is False


@pytest.mark.parametrize("name", METHODS.names())
def test_a_space_that_is_a_method_holds_it(name):
    nfe = next(nfe for nfe in range(4, 8) if METHODS.get(name).pair(nfe))
    solver, schedule = METHODS.get(name).pair(nfe)
    space = Space({"solver": solver, "schedule": schedule | {"num_steps": {"low": 1, "high": 10}}})
    assert space.points({"method": name, "nfe": nfe}) == [{"schedule.num_steps": schedule["num_steps"]}]


def test_without_nfe_the_budgets_are_meant_that_the_method_can_spend():
    space = Space({"solver": {"name": "dpm_solver_2"}, "schedule": dict(METHODS.get("dpm_solver_2").pair(4)[1])})
    assert METHODS.get("dpm_solver_2").pair(5) is None
    assert space.points({"method": "dpm_solver_2"}, budgets=[4, 5]) == [{}]


def test_a_method_runs_between_the_sigmas_of_the_benchmark():
    tree = CONDITIONAL | {"schedule": {"name": "time_uniform", "num_steps": 4, "rho": 2.0, "final": "sigma_min"}}
    ends = {"sigma_min": 0.01, "sigma_max": 20.0}
    inside = Space(tree | {"schedule": tree["schedule"] | ends})
    setting = {"method": "deis", "nfe": 4}
    assert inside.points(setting, sigma_range=(0.01, 20.0)) == Space(tree).points(setting)
    with pytest.raises(SpecError, match=r"schedule\.sigma_min: is fixed, given 0\.002; allowed: 0\.01"):
        inside.points(setting)
    with pytest.raises(SpecError, match=r"schedule\.sigma_min: is not searched, given 0\.01; allowed: 0\.002"):
        Space(tree).points(setting, sigma_range=(0.01, 20.0))


def test_specs_inside_specs_are_matched_in_every_field():
    switch = {"name": "switch", "low": {"name": "ipndm", "order": 3}, "high": {"name": "heun"}, "tau_k": 0.5}
    pair = (switch, {"name": "vp", "num_steps": 3})
    tree = branch({"name": "vp", "num_steps": 3})
    assert Space(tree).point_of(pair) == {
        "solver": "switch",
        "solver.switch.low": "ipndm",
        "solver.switch.low.ipndm.order": 3,
        "solver.switch.tau_k": 0.5,
        "schedule": "mine",
        "afs": False,
    }
    with pytest.raises(SpecError, match=r"solver\.choices\.switch\.high: is not searched, given .*'euler'"):
        Space(tree).point_of((switch | {"high": {"name": "euler"}}, pair[1]))
    shared = {"name": "sdm", "num_steps": 5, "eta_max": 0.2, "eta_min": 0.06}
    assert BRANCHES.point_of(({"name": "heun"}, shared))["schedule.sdm.eta_min/eta_max/index"] == 1


@pytest.mark.parametrize(
    ("setting", "tree", "path", "says"),
    [
        ({"method": "dies"}, {}, "method", "unknown method, given 'dies'; allowed: "),
        ({"method": 3}, {}, "method", "unknown method, given 3"),
        ({"method": []}, {}, "method", "holds no value"),
        ({"method": "deis", "nfe": []}, {}, "nfe", "holds no value"),
        ({"method": "deis", "nfe": [0]}, {}, "nfe", "given 0; allowed: 1 or more"),
        ({"method": "deis", "nfe": "x"}, {}, "nfe", "given 'x'"),
        ({"method": "deis", "nf": 3}, {}, "nf", "did you mean 'nfe'"),
        ({"method": "dpm_solver_2", "nfe": 3}, {}, "method", "cannot make exactly so many evaluations (3)"),
        (
            {"method": "deis", "nfe": 12},
            {},
            "method",
            "at NFE 12 (schedule.vp.num_steps: lies outside the space, given 12",
        ),
        (
            {"method": "unipc_2", "nfe": 3},
            {},
            "method",
            "(solver.choices: has no such item, given 'unipc'; allowed: sw",
        ),
        (
            {"method": "ipndm", "nfe": 3},
            {"solver": {"name": "deis"}},
            "method",
            "(solver.name: is fixed, given 'ipndm'",
        ),
        (
            {"method": "deis", "nfe": 3},
            {"schedule": {"rho": 7.0, "num_steps": 3, "name": "edm"}},
            "method",
            "(schedule.name: is fixed, given 'time_uniform'; allowed: edm)",
        ),
        ({"method": "deis", "nfe": 3}, {"afs": True}, "method", "(afs: is fixed, given False; allowed: True"),
        ({"method": "heun", "nfe": 7}, {"churn": {"s_churn": 1.0}}, "method", "(churn: is not part of the method"),
        (
            {"method": "deis", "nfe": 3},
            {"solver": {"choices": {"a": {"name": "deis", "order": 1}, "b": {"name": "deis", "order": 2}}}},
            "method",
            "has no such item, given 'deis'; allowed: a, b",
        ),
    ],
)
def test_a_method_that_is_not_in_the_space_is_told_with_what_is_lacking(setting, tree, path, says):
    with pytest.raises(SpecError) as refused:
        Space(CONDITIONAL | tree).points(setting, budgets=[3, 4])
    assert refused.value.path == path
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
