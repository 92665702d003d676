import csv as csv_module
import io
import re

import pandas as pd
import pytest

from reports import tables
from reports.numbers import concise, floor_sentence, signed, with_error
from reports.record import frame_of
from reports.standings import standings
from tests.report_rows import HOSTILE, as_recorded, row
from tests.synthetic_study import OPTIMISM, climbed, small_study

BUDGETS = (3, 4, 6, 10)


@pytest.fixture(scope="module")
def frame():
    return as_recorded(climbed(small_study(), BUDGETS))


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables_of(text):
    """Each table as its rows by their first cell."""
    found, inside = [], False
    for line in text.splitlines():
        if line[:1] == "|" and not inside:
            found.append({})
        inside = line[:1] == "|"
        if inside:
            first, *rest = cells(line)
            found[-1][first] = rest
    return found


def test_the_table_of_the_small_study(frame):
    rows = tables_of(tables.markdown(frame))[0]
    assert rows["method"] == ["set-up NFE", "3", "4", "6", "10"]
    assert rows["DDIM"] == ["0", "0.9000 ± 0.0020", "0.7000 ± 0.0020", "0.4000 ± 0.0020", "0.2000 ± 0.0020"]
    assert rows["published settings"] == ["17", "–", "–", "0.3000 ± 0.0020 (5)", "0.3000 ± 0.0020 (5)"]
    assert rows["iPNDM · 4"][2:] == ["0.2000 ± 0.0020 ~", "0.1000 ± 0.0020", "**0.0710 ± 0.0020**"]
    lowest = ["**0.3000 ± 0.0020**", "**0.1990 ± 0.0020** ~", "**0.0800 ± 0.0020**"]
    assert rows["searched"] == ["17", *lowest, "0.0800 ± 0.0020 (6)"]
    assert rows["floor: Heun on edm (31 NFE)"] == ["0", *["0.0700 ± 0.0020"] * 4]
    assert "best baseline is" not in rows


def test_where_no_searched_trial_stands_the_report_says_so():
    held = [row("floor", 31, 0.07, role="floor"), row("baseline/ddim/5", 5, 0.3, role="baseline")]
    told = tables.markdown(frame_of([*held, row("searched/1", 5, 0.1, feasible="false")]), [5])
    assert "no searched trial was scored on all images and keeps every constraint" in told
    assert "best of 0 trials" not in told
    assert "teacher" not in told
    assert "exceed a constraint, and so neither lead nor are on the front: 1." in told
    assert "`searched` is the best of 1 trials" in tables.markdown(frame_of([*held, row("searched/1", 5, 0.1)]), [5])


def test_the_verdicts_of_the_small_study(frame):
    rows = tables_of(tables.markdown(frame))[1]
    assert rows["6"] == [
        *("iPNDM · 4", "0.1000 ± 0.0020", "0.1030 ± 0.0020"),
        # Equal ones: the first by key.
        *("euler edm 6 · 6 NFE [searched/9]", "6", "17", "0.0800 ± 0.0020", "0.0840 ± 0.0022"),
        *("0.00100 ± 0.00042", "0.01900 ± 0.00042", "better"),
    ]
    assert [rows[str(budget)][-1] for budget in BUDGETS] == ["better", "inconclusive", "better", "worse"]
    assert {rows[str(budget)][8] for budget in BUDGETS} == {f"{OPTIMISM:.5f} ± 0.00042"}


def test_a_line_under_each_table_says_which_number_it_shows(frame):
    lines = tables.markdown(frame).splitlines()
    ends = [k for k, line in enumerate(lines) if line[:1] == "|" and lines[k + 1][:1] != "|"]
    main, told = (lines[end + 2] for end in ends[:2])
    for line in (main, told):
        assert line.startswith("FID at 8,000 images, seeds 0-7999, ± its leave-one-out standard error (20 groups)")
    assert "Confirmed: FID at 8,000 images, seeds 1000000-1007999, which chose nothing (20 groups)." in told
    assert "bias-corrected FIDs, paired on the same shards, ± the half-width of its 95 % interval" in told
    assert "Floor: 0.0700 ± 0.0020, confirmed 0.0730 ± 0.0020." in told
    text = "\n".join(lines)
    for held in ("feedc0de12345678", "a1b2c3d4e5f6", "sigma = 0."):
        assert held in text


def test_what_is_not_confirmed_says_so():
    text = tables.markdown(as_recorded(small_study()))
    rows = tables_of(text)[1]
    assert rows["3"][-1] == "better (unconfirmed)"
    assert rows["3"][2] == rows["3"][7] == rows["3"][8] == "–"
    assert "Nothing is confirmed yet." in text
    assert "nothing confirms it yet" in text


def test_where_the_best_baseline_is_at_the_floor_nothing_is_ranked():
    found = frame_of(
        [
            row("floor", 31, 0.07),
            row("baseline/a/5", 5, 0.2),
            row("baseline/a/9", 9, 0.0705),
            row("searched/1", 5, 0.1),
            row("searched/2", 9, 0.06),
        ]
    )
    text = tables.markdown(found)
    main, told = tables_of(text)
    assert main["best baseline is"] == ["", "", "at the floor"]
    assert main["searched"] == ["0", "**0.1000 ± 0.0020**", "0.0600 ± 0.0020"]
    assert told["9"][-1] == "inconclusive; at the floor (unconfirmed)"
    sentence = "From 9 evaluations on the best baseline cannot be told from the fine solve: nothing is ranked there."
    assert sentence in text
    tex = tables.latex(found)
    assert sentence in tex
    assert "at the floor" in tex.split(r"\begin{table*}")[0]
    assert tex.count(r"\textbf") == 1
    marked = {
        (r["budget"], r["method"])
        for r in csv_module.DictReader(io.StringIO(tables.csv(found)))
        if r["at_floor"] == "True"
    }
    assert marked == {("9", "a"), ("9", "searched")}


def test_the_floor_is_named_where_it_is_met_and_not_beyond():
    rows = [row("floor", 31, 0.07), row("baseline/a/5", 5, 0.07), row("baseline/a/9", 9, 0.06)]
    again = [row("confirmed/baseline/a/9", 9, 0.2), row("confirmed/floor", 31, 0.07)]
    (found,) = standings(frame_of([*rows, *again]))
    assert floor_sentence(found).startswith("At 5 evaluations the best")
    (nowhere,) = standings(frame_of([row("floor", 31, 0.01), *rows[1:]]))
    assert floor_sentence(nowhere) == ""


def test_the_long_form_holds_every_number(frame):
    rows = list(csv_module.DictReader(io.StringIO(tables.csv(frame))))
    (won,) = (r for r in rows if r["role"] == "searched" and r["budget"] == "6")
    held = {
        "key": "searched/9",
        "winner": "True",
        "inconclusive": "False",
        "nfe": "6",
        "images": "8000",
        "last_seed": "7999",
        "fid_corrected": "0.07",
        "fid_infinity": "0.069",
        "spent_rows": str(48_000 + 2176),
        "confirmed_fid": "0.084",
        "confirmed_fid_se": "0.0022",
        "confirmed_fid_corrected": "0.074",
        "confirmed_images": "8000",
        "confirmed_first_seed": "1000000",
        "confirmed_spent_rows": "48000",
        "optimism": "0.001",
        "gap": "0.019",
        "paired": "True",
        "confirmed": "True",
        "verdict": "better",
        "fid_at_8000": "0.07",
    }
    assert won | held == won
    assert float(won["fid_at_800"]) > float(won["fid_at_2400"]) > 0
    assert float(won["teacher_distance"]) == pytest.approx(10 * float(won["teacher_distance_pixels"]), rel=1e-4)
    assert {r["budget"] for r in rows if r["role"] == "floor"} == {""}
    assert {r["role"] for r in rows} == {"floor", "baseline", "published", "searched"}
    assert {r["verdict"] for r in rows if r["role"] == "baseline"} == {""}


def test_same_record_same_bytes(frame, tmp_path):
    again = as_recorded(reversed(climbed(small_study(), BUDGETS)))
    first, second = tables.write(frame, tmp_path / "a"), tables.write(again, tmp_path / "b")
    assert [path.name for path in first] == ["table.md", "table.csv", "table.tex"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert tables.leaderboard(frame) == tables.leaderboard(again)


def test_the_leaderboard_has_the_confirmed_numbers(frame):
    (rows,) = tables_of(tables.leaderboard(frame).replace("| front | ", "| ").replace("| baseline | ", "| "))
    assert rows["euler edm 6 · 6 NFE"] == ["6", "17", "0.0800 ± 0.0020", "0.0840 ± 0.0022"]
    assert rows["floor"] == ["Heun on edm", "31", "0", "0.0700 ± 0.0020", "0.0730 ± 0.0020"]


def test_latex_has_the_verdicts_too(frame):
    tex = tables.latex(frame)
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    line = next(line for line in tex.splitlines() if line.startswith("10 & "))
    assert r"0.0710(20) & 0.0740(20) & searched/9 & 6 & 17 & 0.0800(20) & 0.0840(22)" in line
    assert line.endswith(r"& worse \\")
    for line in tex.splitlines():
        if line.endswith(r" \\"):
            assert line.count(" & ") in (5, 11)


def test_different_measurements_are_different_tables():
    frame = frame_of([row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.3), row("searched/3", 5, 0.01, images=1000)])
    text = tables.markdown(frame)
    assert "FID at 8,000 images, seeds 0-7999" in text
    assert "FID at 1,000 images, seeds 0-999" in text


def test_trials_that_exceed_a_constraint_are_counted_and_do_not_lead():
    rows = [row("searched/1", 5, 0.1, feasible="false"), row("searched/2", 5, 0.3)]
    text = tables.markdown(frame_of(rows))
    assert tables_of(text)[0]["searched"] == ["0", "**0.3000 ± 0.0020**"]
    assert "neither lead nor are on the front: 1." in text


def test_a_hostile_method_name_breaks_no_format():
    rows = [row("baseline/a/5", 5, 0.4, method=HOSTILE), row("searched/1", 5, 0.3, name="<script>alert(1)</script>")]
    frame = frame_of([*rows, row("confirmed/baseline/a/5", 5, 0.4, method=HOSTILE)])
    tex = tables.latex(frame)
    escaped = (
        r"50\%\_\textbackslash{}\{x\}\textasciitilde{}\textasciicircum{}\&\#\$ "
        r"\textless{}b\textgreater{}\textbar{}`*\_"
    )
    line = next(line for line in tex.splitlines() if line.startswith("50"))
    assert line.startswith(escaped + " & 0 & ")
    assert line.endswith(r" \\")
    assert f"5 & {escaped} & " in tex
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    text = tables.markdown(frame)
    widths = {len(cells(line)) for line in text.splitlines() if line[:1] == "|"}
    assert widths == {3, 12}  # method, set-up and one budget; the verdicts
    assert "<b>" not in text
    assert "<script>" not in text
    assert next(csv_module.DictReader(io.StringIO(tables.csv(frame))))["method"] == HOSTILE


def test_nothing_scored_is_no_crash():
    frame = frame_of([row("searched/1", 5, float("nan"), state="failed")])
    assert tables.markdown(frame) == "Runs: 1 failed.\n"
    assert tables.csv(frame).count("\n") == 1
    assert tables.latex(frame) == ""
    assert tables.leaderboard(frame_of([])) == "No trials.\n"


@pytest.mark.parametrize(
    "keys", [["searched/1"], ["baseline/a/5"], ["floor"], ["searched/1", "floor"], ["searched/1", "baseline/b/5"]]
)
def test_a_part_of_a_study_is_printed(keys):
    frame = frame_of([row(key, 5, 0.3) for key in keys])
    assert "FID at 8,000" in tables.markdown(frame)
    assert "tabular" in tables.latex(frame)
    assert len(tables.csv(frame).splitlines()) > 1


@pytest.mark.parametrize(
    ("fid", "se", "text"),
    [
        (0.09123, 0.00131, "0.0912 ± 0.0013"),
        (12.345, 1.234, "12.3 ± 1.2"),
        (345.6, 78.9, "346 ± 79"),
        (-1e-6, 0.001, "0.0000 ± 0.0010"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.4, 1e-9, "0.400000 ± 0.000000"),
    ],
)
def test_numbers_to_the_digits_their_error_allows(fid, se, text):
    assert " ± ".join(with_error(fid, se)) == text


@pytest.mark.parametrize(
    ("gap", "error", "text"),
    [
        (-0.0123, 0.0045, "-0.0123 ± 0.0045"),
        (0.0123, 0.0045, "0.0123 ± 0.0045"),
        (-1e-9, 0.0045, "0.0000 ± 0.0045"),
        (0.1, float("nan"), "0.1 ± ?"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_differences_keep_their_sign(gap, error, text):
    assert signed(gap, error) == text


def test_brackets_hold_the_error_of_the_last_digits():
    assert concise(pd.Series(row("searched/1", 3, 0.09123, 0.00131))) == "0.0912(13)"
    assert concise(pd.Series(row("searched/1", 3, 12.345, 1.234))) == "12.3(1.2)"
    assert concise(pd.Series(row("searched/1", 3, 0.5, float("nan")))) == "0.5(?)"
