"""The papers' tables filled from records by hand: which trial comes into which cell."""

import pytest

from reports.layouts import LAYOUTS, few_steps, mixing_rules, sdm_table1, sigmas, solver_schedule, tau_sweep
from reports.layouts.methods import schedule_words, solver_words
from tests.layout_rows import SWITCH, card, comparable, files_of, texts, trial


def words(solver, **more):
    (row,) = comparable(trial("searched/1", solver, "edm", 5, 0.3, **more)).rows.to_dict("records")
    return row["solver"]


@pytest.mark.parametrize(
    ("solver", "params", "told"),
    [
        ("heun", {}, "heun"),
        ({"name": "unipc", "order": 3, "variant": "bh2"}, {}, "unipc-3"),
        (SWITCH | {"tau_k": 0.1, "switch_at": 3}, {}, "euler>heun step"),
        ({"name": "switch", "rule": "linear"}, {}, "euler>heun linear"),
        (
            {"name": "switch", "low.name": "ipndm", "low.order": 3, "high.name": "unipc", "high.order": 2},
            {},
            "ipndm-3>unipc-2 step",
        ),
        ("euler", {"afs": "true", "denoise_to_zero": "false"}, "euler afs"),
        ("euler", {"denoise_to_zero": "true", "churn.s_churn": "40"}, "euler to 0 churn"),
        ({}, {}, "?"),
    ],
)
def test_a_solver_is_named_by_its_spec(solver, params, told):
    assert words(solver, params=params) == told


def test_a_typed_name_decides_nothing():
    group = comparable(
        trial("baseline/mine/5", "euler", "edm", 5, 0.5, method="Best solver ever", name="heun"),
        trial("searched/1", "euler", "edm", 5, 0.3, method="heun"),
        trial("published/1", "heun", "edm", 5, 0.4),
    )
    (table,) = solver_schedule.make(group)
    assert texts(table) == {("euler",): ["0.3*"], ("heun",): ["0.4"]}
    assert table.lines[0].cells[0].of == 2
    assert solver_words(group.rows.iloc[0]) == "euler"
    assert schedule_words(group.rows.iloc[0]) == "edm"


def test_solver_by_schedule_has_a_table_for_each_nfe_and_a_dash_for_what_was_not_measured():
    group = comparable(
        trial("searched/1", "euler", "edm", 5, 0.3),
        trial("searched/2", "heun", "sdm", 5, 0.3004),
        trial("searched/3", "heun", "edm", 5, 0.5),
        trial("searched/4", "heun", "edm", 6, 0.2),
        trial("floor", "heun", "edm", 79, 0.01),
    )
    five, six = solver_schedule.make(group)
    assert (five.title, five.columns) == ("5 evaluations", ("edm", "sdm"))
    assert texts(five) == {("euler",): ["0.3*", ""], ("heun",): ["0.5", "0.3004~"]}
    assert [cell.empty for cell in five.lines[0].cells] == [False, True]
    assert texts(six) == {("heun",): ["0.2"]}  # alone: nothing to be lowest of
    assert any("Floor: 0.0100 ± 0.0020" in note for note in five.notes)


def test_at_the_floor_nothing_is_ranked():
    rows = [trial("searched/1", "euler", "edm", 5, 0.0705), trial("searched/2", "heun", "edm", 5, 0.5)]
    (table,) = solver_schedule.make(comparable(*rows, trial("floor", "heun", "edm", 79, 0.07)))
    assert texts(table) == {("euler",): ["0.0705"], ("heun",): ["0.5"]}
    (table,) = solver_schedule.make(comparable(*rows))
    assert texts(table) == {("euler",): ["0.0705*"], ("heun",): ["0.5"]}


def test_below_the_floor_nothing_is_ranked_either():
    rows = [trial("searched/1", "euler", "edm", 5, 0.05), trial("searched/2", "heun", "edm", 5, 0.5)]
    (table,) = solver_schedule.make(comparable(*rows, trial("floor", "heun", "edm", 79, 0.07)))
    assert texts(table) == {("euler",): ["0.05"], ("heun",): ["0.5"]}


def test_equal_plans_are_the_lowest_together():
    rows = [trial(f"searched/{k}", name, "edm", 5, 0.3, plan="p") for k, name in enumerate(("euler", "heun"))]
    (table,) = solver_schedule.make(comparable(*rows))
    assert texts(table) == {("euler",): ["0.3*"], ("heun",): ["0.3*"]}


def test_few_steps_has_published_numbers_beside_a_published_benchmark():
    rows = [
        trial("searched/1", {"name": "ipndm", "order": 4}, "gits", 5, 8.5, benchmark="cifar10-uncond-vp"),
        trial("searched/2", "euler", "edm", 11, 9.0, benchmark="cifar10-uncond-vp"),
    ]
    (table,) = few_steps.make(comparable(*rows))
    assert table.columns[:4] == ("3", "3 published", "4", "4 published")
    held = texts(table)
    assert held["ipndm-4", "gits"][4:6] == ["8.5", "[8.38]"]
    assert held["euler", "edm"][:2] == ["", "[93.36]"]
    assert held["dpm_solver_pp-3", "logsnr"][5] == "[24.97][25.14]"
    assert held["adasde", "(not stated)"][5] == "[4.18]"
    assert any("Table 1" in name for name in table.sources)
    (table,) = few_steps.make(comparable(trial("searched/1", "euler", "edm", 5, 8.5)))
    assert table.columns == tuple(map(str, range(3, 11)))
    assert few_steps.make(comparable(trial("searched/1", "euler", "edm", 11, 8.5))) == []


def test_solver_by_schedule_has_a_column_for_numbers_without_a_schedule():
    (table,) = solver_schedule.make(comparable(trial("searched/1", "heun", "edm", 9, 18, benchmark="imagenet-64")))
    assert table.columns[:3] == ("(not stated) published", "edm", "edm published")
    held = texts(table)
    assert held["heun",][:3] == ["[16.76]", "18", ""]
    assert held["ipndm-4",][2] == "[5.91]"


def test_sdms_table_compares_schedules_at_as_many_moves():
    adaptive = SWITCH | {"switch_at": 4}
    rows = [
        trial("searched/1", "euler", "edm", 18, 0.5, moves=18),
        trial("searched/2", "euler", "sdm", 18, 0.4, moves=18),
        trial("searched/3", "heun", "cos", 35, 0.3, moves=18),
        trial("searched/4", adaptive | {"tau_k": 0.1}, "sdm", 31, 0.2, moves=18),
        trial("searched/5", adaptive | {"tau_k": 0.2}, "sdm", 30, 0.19, moves=18),
        trial("searched/6", "euler", "edm", 6, 0.8, moves=6, terminal="sigma_min"),
        trial("searched/7", "euler", "logsnr", 18, 0.1, moves=18),
        trial("searched/9", "euler", "sdm", 17, 0.01, moves=18, terminal="sigma_min"),
        trial("searched/8", SWITCH | {"rule": "linear"}, "sdm", 34, 0.1, moves=18),
    ]
    (table,) = sdm_table1.make(comparable(*rows))
    assert table.title == "18 moves, the last to 0"
    assert texts(table) == {
        ("Euler",): ["0.5(18)", "", "0.4(18)*"],
        ("Heun",): ["", "0.3(35)", ""],
        ("adaptive (Euler, then Heun)",): ["", "", "0.19(30)"],
    }


def test_sdms_table_has_the_printed_numbers_of_as_many_moves():
    held = {"benchmark": "cifar10-uncond-vp"}
    (table,) = sdm_table1.make(comparable(trial("searched/1", "heun", "edm", 35, 2.1, moves=18, **held)))
    assert table.columns == ("edm", "edm published", "cos", "sdm", "sdm published")
    assert texts(table) == {
        ("Euler",): ["", "", "", "", ""],
        ("Heun",): ["2.1(35)", "[1.97 (35)][1.96 (35)]", "", "", "[2.00 (35)]"],
        ("adaptive (Euler, then Heun)",): ["", "", "", "", "[1.93 (31)]"],
    }


def test_what_is_printed_of_moves_to_0_is_not_beside_what_ends_before():
    held = {"benchmark": "cifar10-uncond-vp", "moves": 18, "terminal": "sigma_min"}
    rows = [trial(f"searched/{name}", "heun", name, 36, 2.1, **held) for name in ("edm", "sdm")]
    short, whole = sdm_table1.make(comparable(*rows))
    assert (short.title, short.columns) == ("18 moves, ending at sigma_min", ("edm", "cos", "sdm"))
    assert whole.title == "18 moves, the last to 0"
    assert all(cell.row is None for line in whole.lines for cell in line.cells)


def test_a_sweep_is_of_settings_that_differ_in_tau_k_alone():
    def at(key, tau, nfe, fid, moves=18, **more):
        return trial(key, SWITCH | {"tau_k": tau, "switch_at": 40 - nfe} | more, "sdm", nfe, fid, moves=moves)

    rows = [at("searched/1", 1.0, 30, 0.5), at("searched/2", 2e-4, 31, 0.2), at("searched/3", 0.01, 33, 0.2001)]
    others = [at("searched/4", 0.01, 20, 0.1, moves=12), at("searched/5", 0.5, 20, 0.1, rule="linear")]
    (table,) = tau_sweep.make(comparable(*rows, *others))
    assert table.title == "euler>heun on sdm 18"
    assert texts(table) == {
        ("0.0002",): ["9", "31", "0.2*"],
        ("0.01",): ["7", "33", "0.2001~"],
        ("1",): ["10", "30", "0.5"],
    }
    assert tau_sweep.make(comparable(rows[0])) == []
    published = [item | {"benchmark": "cifar10-uncond-vp"} for item in rows]
    (table,) = tau_sweep.make(comparable(*published))
    assert [line[-1] for line in texts(table).values()] == ["[1.93]", "", ""]


def test_the_ablation_of_the_rule_keeps_all_else_equal():
    rows = [
        trial("searched/1", SWITCH | {"tau_k": 0.1}, "edm", 31, 0.3, moves=18),
        trial("searched/2", SWITCH | {"tau_k": 0.2}, "edm", 29, 0.2, moves=18),
        trial("searched/3", SWITCH | {"rule": "linear", "tau_k": 0.1}, "edm", 34, 0.4, moves=18),
        trial("searched/4", SWITCH | {"rule": "cosine", "tau_k": 0.1}, "edm", 14, 0.1, moves=8),
        trial("searched/5", SWITCH | {"rule": "cosine", "high.name": "unipc"}, "edm", 18, 0.1, moves=18),
    ]
    (table,) = mixing_rules.make(comparable(*rows))
    assert texts(table) == {
        ("step",): ["0.2", "29", "0.2*"],
        ("linear",): ["", "34", "0.4"],
        ("cosine",): ["", "", ""],
    }
    assert all(cell.empty for cell in table.lines[2].cells)


def test_the_listing_has_the_sigmas_of_what_leads():
    rows = [
        trial("baseline/ddim/2", "euler", "edm", 2, 0.5),
        trial("searched/1", "heun", "sdm", 3, 0.3, front=True),
        trial("searched/2", "heun", "sdm", 3, 0.4),
        trial("searched/3", "euler", "edm", 2, 0.5, front=True, plan="baseline/ddim/2"),
        trial("published/1", "euler", "cos", 5, 0.5),
    ]
    held = {"baseline/ddim/2": card([80, 2.51549, 0.0]), "searched/1": card([80.0, 0.002])}
    group = comparable(*rows, files=files_of({key: {"card.json": text} for key, text in held.items()}))
    (table,) = sigmas.make(group)
    assert texts(table) == {
        ("euler", "cos", "5"): [""],
        ("euler", "edm", "2"): ["80, 2.515, 0"],
        ("heun", "sdm", "3"): ["80, 0.002"],
    }
    assert group.unread == ["card.json of published/1"]


def test_the_listing_has_the_published_sigmas():
    rows = trial("baseline/g/6", {"name": "ipndm", "order": 4}, "gits", 6, 5, moves=6, benchmark="cifar10-uncond-vp")
    (table,) = sigmas.make(comparable(rows))
    assert texts(table)["ipndm-4", "gits", "6"] == ["[80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002]", ""]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_of_a_record_with_nothing_for_it_is_no_crash(layout):
    group = comparable(trial("floor", "heun", "edm", 79, 0.07), trial("failed/1", {}, "?", 3, 0.1, role="searched"))
    for table in layout.make(group):
        for line in table.lines:
            assert len(line.cells) == len(table.columns)
    assert layout.make(comparable(trial("floor", "heun", "edm", 79, 0.07))) == []
