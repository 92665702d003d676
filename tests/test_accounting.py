"""Who counts which evaluations: what is measured, beside what is told."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pipeline.accounting import Convention, conventions, count, show
from pipeline.methods import METHODS

EVERY = conventions()


@pytest.fixture(scope="module")
def counted():
    return {(row.convention.method, row.convention.setting): row for row in map(count, EVERY)}


def test_the_network_sees_what_edm_says(counted):
    assert counted["Heun", "EDM, N = 18"].measured == 35
    assert counted["Heun", "EDM, N = 40"].measured == 79


def test_sdms_code_miscounts_heun_and_2m(counted):
    """Both ways round: 18 for 35 and 34 for 18 (papers.md, section 1d)."""
    heun, multistep = counted["Heun", "SDM, N = 18"], counted["DPM-Solver++(2M)", "SDM, N = 18"]
    assert (heun.convention.published, heun.convention.code, heun.measured) == (35, 18, 35)
    assert (multistep.convention.code, multistep.measured) == (34, 18)
    assert "sampler.py:324" in heun.convention.note
    assert "sampler.py:295" in multistep.convention.note


def test_sdms_switch_costs_a_move_and_one_more_for_each_by_heun(counted):
    row = counted["Euler > Heun, step", "SDM, N = 18, tau_k 2e-4"]
    assert 18 <= row.measured <= 35
    assert row.setup == 18  # one Euler pass


def test_diff_samplers_counts_hold_and_end_at_sigma_min(counted):
    rows = [row for row in counted.values() if row.convention.setting == "diff-sampler, NFE 6"]
    assert len(rows) >= 9
    for row in rows:
        assert row.measured == row.convention.code == 6
        assert row.convention.published in (6, None)
        assert row.end == 0.002
    assert counted["iPNDM + GITS", "diff-sampler, NFE 6"].setup == 60


def test_the_loops_options_count_as_they_should(counted):
    assert counted["iPNDM, AFS", "diff-sampler, 7 moves"].measured == 6
    searched = counted["iPNDM + GITS, AFS", "diff-sampler, 7 moves"]
    assert searched.measured == 6
    assert searched.setup >= 60
    to_zero = counted["iPNDM, denoise to zero", "diff-sampler, 6 moves + 1"]
    assert (to_zero.measured, to_zero.end) == (7, 0)
    guided = next(row for row in counted.values() if row.convention.guided)
    assert guided.measured == 10


def test_every_method_has_a_row(counted):
    held = {(str(row.convention.solver), row.convention.schedule["name"]) for row in counted.values()}
    for method in METHODS:
        solver, schedule = next(filter(None, map(method.pair, (6, 7, 35))))
        told = {str(pair[0]) for pair in map(method.pair, range(1, 40)) if pair}
        assert any((name, schedule["name"]) in held for name in told), f"{method.name} ({solver}) is not counted"


def test_every_row_has_a_source_and_every_difference_a_reason(counted):
    for row in counted.values():
        told = row.convention
        assert told.source
        if any(value not in (None, row.measured) for value in (told.published, told.code)):
            assert told.note, f"{told.method}: differs, but why?"


def test_the_table_fits_a_terminal_and_tells_every_row(counted):
    rows = list(counted.values())
    file = io.StringIO()
    show(rows, Console(file=file, width=80))
    text = file.getvalue()
    assert all(row.convention.method in text for row in rows)
    assert max(map(len, text.splitlines())) <= 80
    sdm = text.split("SDM, N = 18")[1]
    (line,) = (line for line in sdm.splitlines()[:7] if "DPM-Solver++(2M)" in line)
    assert re.search(r"–\s+34\s+18\s", line)
    assert "…" not in text


def test_a_count_that_the_network_does_not_see_is_red(counted):
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True, color_system="standard")
    show([counted["Heun", "SDM, N = 18"]], console)
    text = console.export_text(styles=True)
    assert re.search(r"\x1b\[1;31m *18 *\x1b", text)
    assert not re.search(r"\x1b\[1;31m *35 *\x1b", text)


def test_a_setting_that_differs_is_counted_not_told():
    liar = Convention("Heun", "", {"name": "heun"}, {"name": "edm", "num_steps": 3}, 3, 3, "nobody")
    assert count(liar).measured == 5
