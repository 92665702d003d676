"""What layouts read from the files of runs, which may be anything; and the words for what cannot be read."""

import json

import pytest

from reports.layouts import eta_steps
from tests.layout_rows import card, comparable, files_of, texts, trial

STEPS = b"evaluation,sigma,sigma_next,solver,kappa,eta\n1,80.0,2.5155,euler,,\n2,2.51549,0.0,euler,0.1,3.14159\n"
WALK = {"sigma": [80.0, 9.5], "step": [70.5, 9.498], "secant": [0.1, 0.2], "eta": [0.3, 0.4444444]}
WALK |= {"allowed": [0.4, 0.41], "kept": [True, False]}


def test_eta_stands_beside_its_sigma_for_each_schedule():
    rows = [
        trial("baseline/ddim/2", "euler", "edm", 2, 0.5),
        trial("searched/1", "euler", "sdm", 2, 0.3),
        trial("searched/2", "euler", "sdm", 2, 0.4),
        trial("searched/3", "heun", "sdm", 2, 0.4),
    ]
    group = comparable(*rows, files=files_of({"baseline/ddim/2": {"steps.csv": STEPS}}))
    (table,) = eta_steps.make(group)
    assert table.title == "Euler, 2 evaluations"
    assert table.columns == ("edm sigma", "edm eta", "sdm sigma", "sdm eta")
    assert texts(table) == {("1",): ["80", "", "", ""], ("2",): ["2.515", "3.142", "", ""]}
    assert group.unread == ["steps.csv of searched/1"]


def test_trials_of_one_walk_share_its_table():
    placed = {"eta_max": 0.4, "eta_min": 0.01, "base_steps": 18}
    rows = [trial(f"published/{k}", "heun", "sdm", 5 + k, 0.5, placed=placed) for k in range(2)]
    held = {item["key"]: {"card.json": card([80, 0], WALK)} for item in rows}
    (table,) = eta_steps.make(comparable(*rows, files=files_of(held)))
    assert texts(table) == {
        ("0",): ["80", "70.5", "0.1", "0.3", "0.4", "yes"],
        ("1",): ["9.5", "9.498", "0.2", "0.4444", "0.41", "no"],
    }
    assert "heun (5 NFE), heun (6 NFE), with base_steps 18, eta_min 0.01, eta_max 0.4" in table.notes[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"walk": 3, "plan": []}).encode(),
        json.dumps({"walk": WALK | {"eta": [1]}, "plan": {"sigmas": []}}).encode(),
        json.dumps({"walk": WALK | {"eta": "0.3"}, "plan": {"sigmas": ["a"]}}).encode(),
        json.dumps({"walk": {}, "plan": {"sigmas": {"0": 80}}}).encode(),
    ],
)
def test_a_card_of_any_content_is_no_crash(content):
    from reports.layouts import sigmas

    held = {"published/1": {"card.json": content, "steps.csv": content}}
    row = trial("published/1", "euler", "sdm", 2, 0.5)
    (table,) = sigmas.make(comparable(row, files=files_of(held)))
    assert table.lines[0].cells[-1].empty
    group = comparable(row, files=files_of(held))
    assert eta_steps.make(group) == []
    assert "steps.csv of published/1" in group.unread


def test_a_walk_with_words_for_numbers_shows_dashes():
    walk = WALK | {"eta": [None, "<b>"]}
    row = trial("published/1", "heun", "sdm", 2, 0.5)
    (table,) = eta_steps.make(comparable(row, files=files_of({"published/1": {"card.json": card([80, 0], walk)}})))
    assert [line[3] for line in texts(table).values()] == ["", ""]
