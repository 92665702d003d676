"""Measuring a space: its points, one plan measured once, what others learned, and going on after an interruption."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline import benchmarks
from pipeline.registry import SpecError
from pipeline.replay import build
from pipeline.replay.build import points
from pipeline.trial import memory_of, prepare
from tests.replay_study import GRID, grid, measured


@pytest.fixture(scope="module")
def builder():
    return measured(grid())


# Points ------------------------------------------------------------------------------------------------------------

# A tree of a space: a parameter's values, each with the parameters that are there where it is taken.
TREES = st.recursive(
    st.just(()),
    lambda inner: st.lists(st.lists(inner, min_size=1, max_size=3), max_size=2).map(tuple),
    max_leaves=8,
)


def drawn(tree, suggest, name="p"):
    """The parameters of a point, those inside a choice after it."""
    params = {}
    for i, branches in enumerate(tree):
        key = f"{name}.{i}"
        params[key] = suggest(key, CategoricalDistribution(list(range(len(branches)))))
        params |= drawn(branches[params[key]], suggest, f"{key}.{params[key]}")
    return params


def every(tree, name="p"):
    """All points, by the definition: each way through one parameter with each way through the others."""
    ways = []
    for i, branches in enumerate(tree):
        key = f"{name}.{i}"
        ways.append([{key: at} | point for at, part in enumerate(branches) for point in every(part, f"{key}.{at}")])
    return [{key: at for part in parts for key, at in part.items()} for parts in itertools.product(*ways)]


@given(TREES)
def test_every_point_of_a_conditional_space_once(tree):
    found = list(points(lambda suggest: drawn(tree, suggest)))
    assert found == every(tree)


@given(st.integers(-3, 3), st.integers(0, 9), st.integers(1, 4))
def test_whole_numbers_and_steps_have_all_their_values(low, width, step):
    whole = IntDistribution(low, low + width - width % step, step=step)
    stepped = FloatDistribution(low / 4, (low + width - width % step) / 4, step=step / 4)

    def draw(suggest):
        return {"n": suggest("n", whole), "x": suggest("x", stepped)}

    values = list(range(low, low + width + 1, step))
    assert list(points(draw)) == [{"n": n, "x": pytest.approx(x / 4)} for n in values for x in values]


def test_a_range_without_a_step_has_no_end():
    study = grid(space=GRID["space"] | {"schedule": {"name": "edm", "num_steps": 3, "rho": {"low": 2.0, "high": 9.0}}})
    with pytest.raises(SpecError) as caught:
        next(points(study.draw))
    assert str(caught.value).startswith("space.schedule.rho: has no finite number of values")


def test_too_many_points_are_one_line(monkeypatch):
    monkeypatch.setattr(build, "MOST_POINTS", 3)

    def draw(suggest):
        return {"n": suggest("n", IntDistribution(1, last))}

    last = 3
    assert len(list(points(draw))) == 3
    last = 4
    with pytest.raises(SpecError, match="space: has too many points to be measured; allowed: at most 3"):
        list(points(draw))


# What is measured --------------------------------------------------------------------------------------------------


def test_the_table_has_the_floor_the_baselines_and_every_point(builder):
    specs = list(builder.specs())
    assert len(specs) == 1 + 4 + 48
    assert all(builder.table().find(spec).spec.solver == spec.solver for spec in specs)
    assert builder.table().find(grid().floor_spec()).plan.nfe == 23


def test_equal_plans_are_measured_once_and_are_one(builder):
    found = {}
    for entry in builder.table():
        held = found.setdefault(entry.plan.digest, entry.plan)
        assert held is entry.plan
    assert len(found) < len(builder.table()), "tau_k above every kappa is Euler's method"


def test_lessons_are_what_a_fresh_memory_would_spend(builder):
    gmm = benchmarks.load("gmm")
    for entry in builder.table():
        prepared = prepare(entry.spec, gmm, memory_of(gmm))
        assert sum(lesson.rows for lesson in entry.lessons) == prepared.spent_rows == prepared.setup_rows
        assert sum(lesson.rows / lesson.images for lesson in entry.lessons) == pytest.approx(prepared.setup_nfe)
    keys = {lesson.key for entry in builder.table() for lesson in entry.lessons}
    assert len(keys) < sum(len(entry.lessons) for entry in builder.table()), "two of one walk have one lesson"


def test_what_is_near_the_front_is_confirmed_and_what_is_far_is_not(builder):
    plans = {entry.plan.digest: entry.plan for entry in builder.table()}.values()
    for plan in plans:
        best = min(other.scores[-1].fid for other in plans if other.nfe <= plan.nfe)
        assert (plan.confirmed is not None) == (plan.scores[-1].fid <= 2 * best)
        if plan.confirmed is not None:
            assert plan.confirmed.images == 200
            assert plan.confirmed.fid != plan.scores[-1].fid, "on other seeds"
    assert {plan.confirmed is None for plan in plans} == {True, False}


# Going on ----------------------------------------------------------------------------------------------------------


def held(builder):
    return [
        (entry.spec, entry.plan.digest, entry.plan.teacher, entry.plan.scores, entry.plan.confirmed)
        for entry in builder.table()
    ]


@pytest.mark.parametrize("calls", [3, 18])
def test_what_was_measured_before_an_interruption_is_not_measured_again(builder, tmp_path, monkeypatch, calls):
    asked, honest = [], build.evaluate

    def interrupted(plan, benchmark, seeds, shard_images):
        if len(asked) == calls:
            raise KeyboardInterrupt
        asked.append((plan.digest, seeds.start))
        return honest(plan, benchmark, seeds, shard_images)

    monkeypatch.setattr(build, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(grid(), tmp_path)
    before = list(asked)
    calls = -1
    again = measured(grid(), tmp_path)
    assert len(asked) == len(set(asked)), "each once"
    assert asked[: len(before)] == before
    assert held(again) == held(builder)


def test_other_seeds_or_another_floor_are_measured_anew(tmp_path, monkeypatch):
    few = {"baselines": [], "confirm": None, "space": GRID["space"] | {"solver": {"name": "euler"}}}
    asked, honest = [], build.evaluate

    def counted(plan, *rest):
        asked.append(plan.digest)
        return honest(plan, *rest)

    monkeypatch.setattr(build, "evaluate", counted)
    measured(grid(**few), tmp_path)
    count = len(asked)
    measured(grid(**few), tmp_path)
    assert len(asked) == count
    measured(grid(**few, first_seed=500), tmp_path)
    assert len(asked) == 2 * count
    floor = {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 9}}
    measured(grid(**few, floor=floor), tmp_path)
    assert len(asked) == 3 * count
