"""The standings of the screen: who counts for which row, and at which budgets."""

from dataclasses import replace

import pytest

from pipeline.progress import Standings
from tests.synthetic_study import record


def standings(*records):
    return Standings((4, 8), records).rows()


def test_each_side_shows_its_best_within_each_budget():
    rows = standings(
        record("floor", 99, 0.1),
        record("baseline/ddim/4", 4, 0.9),
        record("baseline/heun/7", 7, 0.95),
        record("published/0", 3, 0.8),
        record("searched/1", 8, 0.5),
        record("searched/2", 8, 0.6),
        record("searched/3", 9, 0.2),
    )
    assert rows == [
        ["searched", "0.80", "0.50"],
        ["baselines", "0.90", "0.90"],
        ["fine solve", "0.10", "0.10"],
    ]


@pytest.mark.parametrize("of", ["floor", "baseline/ddim/4", "searched/0"])
def test_a_confirmation_moves_no_row(of):
    """Its seeds are others, and so is its luck."""
    held = [record("floor", 99, 0.3), record("baseline/ddim/4", 4, 0.9), record("searched/0", 4, 0.8)]
    again = replace(record(of, 4, 0.01), key=f"confirmed/{of}", role="confirmed", confirms=of)
    assert standings(*held, again) == standings(*held)


def test_who_has_no_score_moves_no_row():
    waits = replace(record("searched/0", 4, 0.1), result=None, state="pruned", waiting=True)
    assert standings(waits) == [["searched", "–", "–"], ["baselines", "–", "–"], ["fine solve", "–", "–"]]
