"""Ranks, budgets and confirmations: what a trial's run says because of the others."""

import pytest

from pipeline import store
from pipeline.entry import Entry
from pipeline.marks import marks
from tests.synthetic_study import climbed, record, small_study


@pytest.fixture(scope="module")
def entries():
    return {item.key: Entry.of(item) for item in climbed(small_study(), [3, 4, 6, 10])}


def test_the_leaderboard_begins_with_the_front_and_ends_with_the_stopped(entries):
    found = marks(entries, ["searched/2", "searched/1"])
    order = sorted(found, key=lambda key: found[key].tags[store.PLACE])
    assert order[:3] == ["searched/1", "searched/2", "floor"]
    assert order[3:7] == [f"baseline/ipndm/{nfe}" for nfe in (3, 4, 6, 10)]
    ranks = [entries[key].tags[store.STATE] for key in order]
    assert ranks == sorted(ranks, key=lambda state: state != "complete")
    assert {key for key, mark in found.items() if mark.tags[store.FRONT] == "true"} == {"searched/1", "searched/2"}
    with pytest.raises(KeyError, match="searched/99"):
        marks(entries, ["searched/99"])


def test_a_searched_trial_is_within_the_smallest_budget_that_holds_it(entries):
    found = marks(entries, (), (4, 8))
    told = {key: mark.tags.get(store.BUDGET) for key, mark in found.items()}
    assert (told["searched/1"], told["searched/2"], told["searched/9"]) == ("4", "4", "8")
    assert told["searched/1000"] == "4"  # stopped, but its evaluations are known
    assert told["searched/1009"] is None  # beyond the last
    assert told["searched/12"] is None
    assert told["baseline/ipndm/3"] is None  # its own tag says what it was run for


def test_a_confirmation_is_told_on_what_it_confirms_and_on_equal_plans():
    items = climbed(small_study(), [3, 4, 6, 10])
    twin = record("searched/77", 4, 0.199)
    again = next(item for item in items if item.key == "confirmed/searched/2")
    entries = {item.key: Entry.of(item) for item in (*items, twin)}
    plan = entries["searched/2"].tags[store.PLAN]
    entries["searched/77"].tags[store.PLAN] = plan
    found = marks(entries)
    assert found["searched/2"].metrics == {
        store.FID_CONFIRMED: entries[again.key].metrics["fid"],
        store.FID_CONFIRMED_SE: entries[again.key].metrics["fid_se"],
    }
    assert found["searched/77"].metrics == found["searched/2"].metrics
    assert found[again.key].metrics == {}
    assert found["baseline/ddim/3"].metrics == {}
