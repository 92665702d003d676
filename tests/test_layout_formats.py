"""The layouts' tables as Markdown, CSV and LaTeX: every cell is there, and no name breaks a format."""

import csv
import io
import itertools
import re

import pytest

from reports.layouts import LAYOUTS, few_steps, sdm_table1, solver_schedule, tau_sweep
from reports.layouts.comparable import comparables
from reports.layouts.render import Filled, latex, links, long_form, markdown
from reports.record import frame_of
from tests.layout_rows import SWITCH, card, files_of, trial
from tests.report_rows import HOSTILE, row

SCRIPT = "<script>alert(1)</script>"


def filled(layout, *rows, files=None):
    return Filled.of(layout.LAYOUT, comparables(frame_of(rows), *([files] if files else [])))


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


ROWS = (
    trial("searched/1", "euler", "edm", 5, 0.3),
    trial("searched/2", "heun", "edm", 5, 0.3004),
    trial("searched/3", "heun", "sdm", 5, 0.5),
    trial("searched/4", "heun", "sdm", 5, 0.6),
    row("confirmed/searched/1", 5, 0.31),
)


def test_markdown_has_the_error_the_marks_and_what_they_mean():
    text = markdown(filled(solver_schedule, *ROWS))
    assert "| euler | **0.3000 ± 0.0020** | – |" in text
    assert "| heun | 0.3004 ± 0.0020 ~ | 0.5000 ± 0.0020 |" in text
    assert "## digits-kde: FID at 8,000 images, seeds 0-7999, ± its leave-one-out standard error (20 groups)" in text
    assert "Bold: lowest." in text
    assert "[^1]" not in text


def test_a_note_is_said_once_a_file():
    more = [trial(f"searched/{k}", name, "edm", 6, 0.3 + k) for k, name in enumerate(("euler", "heun"))]
    text = markdown(filled(solver_schedule, *ROWS, *more))
    assert text.count("### ") == 2
    assert text.count("Bold: lowest.") == text.count("Lowest: of the whole table.") == 1
    tex = latex(filled(solver_schedule, *ROWS, *more))
    assert tex.count("Bold: lowest.") == tex.count(r"\begin{table}") == 2  # each is put into a paper alone


def test_footnotes_lead_to_the_run_of_each_cell():
    text = markdown(filled(solver_schedule, *ROWS), lambda run_id: f"#/experiments/7/runs/{run_id}")
    assert "| euler | **0.3000 ± 0.0020** [^1] | – |" in text
    assert "| heun | 0.3004 ± 0.0020 ~ [^2] | 0.5000 ± 0.0020 [^3] |" in text
    assert "[^3]: [searched/3: trial searched/3](#/experiments/7/runs/run-searched/3)" in text
    assert "[^4]" not in text


def test_links_name_the_run_of_every_cell_that_has_one():
    found = read(links([filled(solver_schedule, *ROWS), filled(few_steps, *ROWS)], lambda run_id: f"#/{run_id}"))
    assert {item["layout"] for item in found} == {"solver-schedule", "few-steps"}
    held = [item for item in found if item["layout"] == "solver-schedule"]
    assert [(item["table"], item["row"], item["column"], item["key"], item["path"]) for item in held] == [
        ("5 evaluations", "euler", "edm", "searched/1", "#/run-searched/1"),
        ("5 evaluations", "heun", "edm", "searched/2", "#/run-searched/2"),
        ("5 evaluations", "heun", "sdm", "searched/3", "#/run-searched/3"),
    ]
    assert held[0]["value"] == "0.3000 ± 0.0020"


def test_the_long_form_has_every_cell_and_its_confirmation():
    found = read(long_form(filled(solver_schedule, *ROWS)))
    assert [item["kind"] for item in found] == ["measured", "empty", "measured", "measured"]
    first, missing, second, third = found
    held = {"fid": "0.3", "fid_se": "0.002", "nfe": "5", "images": "8000", "first_seed": "0", "lowest": "True"}
    held |= {"inconclusive": "False", "trials": "1", "key": "searched/1", "confirmed_fid": "0.31", "row": "euler"}
    assert first | held == first
    assert (missing["shown"], missing["fid"], missing["column"]) == ("–", "", "sdm")
    assert (second["inconclusive"], second["confirmed_fid"]) == ("True", "")
    assert (third["trials"], third["shown"]) == ("2", "0.5000 ± 0.0020")


def test_latex_has_the_error_in_the_last_digits_and_the_nfe_in_brackets():
    rows = [trial(f"searched/{k}", "heun", name, 35, 0.5 + k, moves=18) for k, name in enumerate(("edm", "cos"))]
    tex = latex(filled(sdm_table1, *rows))
    assert r"Heun & \textbf{0.5000(20)}~[35] & 1.5000(20)~[35] & -- \\" in tex
    assert r"\toprule" in tex
    assert r"\caption{SDM's table 1" in tex


def test_a_number_that_is_no_fid_is_shown_in_every_format():
    switch = SWITCH | {"switch_at": 4}
    rows = [trial(f"searched/{k}", switch | {"tau_k": k}, "edm", 31 - k, 0.3 + k, moves=18) for k in (1, 2)]
    held = filled(tau_sweep, *rows)
    assert r"2 & 4 & 29 & 2.3000(20) \\" in latex(held)
    assert "| 2 | 4 | 29 | 2.3000 ± 0.0020 |" in markdown(held)
    found = [(item["column"], item["shown"], item["fid"]) for item in read(long_form(held)) if item["row"] == "2"]
    assert found == [("switch at move", "4", ""), ("NFE", "29", ""), ("FID", "2.3000 ± 0.0020", "2.3")]


def test_published_numbers_carry_their_sources():
    held = {"benchmark": "cifar10-uncond-vp"}
    rows = [trial("searched/1", "euler", "gits", 10, 9.9, **held)]
    text = markdown(filled(few_steps, *rows))
    (line,) = (line for line in text.splitlines() if line.startswith("| euler | gits |"))
    sources = dict(re.findall(r"^- \\\[(\d+)\\\] (.*)$", text, flags=re.MULTILINE))
    printed = re.findall(r"(10\.\d+) \\\[(\d+)\\\]", line)
    assert [(value, sources[n].split(" (")[0]) for value, n in printed] == [
        ("10.37", "Chen et al., 2024, arXiv 2405.11326, Table 1"),
        ("10.09", "Chen et al., 2024, arXiv 2405.11326, Table 3"),
    ]
    found = [item for item in read(long_form(filled(few_steps, *rows))) if item["kind"] == "published"]
    assert {item["benchmark"] for item in found} == {"cifar10-uncond-vp"}
    assert all(item["source"] and item["column"].endswith(" published") for item in found)
    assert r"\begin{table*}" in latex(filled(few_steps, *rows))
    assert re.search(r"& 10\.37~\[\d+\]; 10\.09~\[\d+\]", latex(filled(few_steps, *rows)))


def test_two_measurements_are_two_parts():
    rows = [trial("searched/1", "euler", "edm", 5, 0.3), trial("searched/2", "euler", "edm", 5, 0.3, images=1000)]
    text = markdown(filled(few_steps, *rows))
    assert "FID at 8,000 images, seeds 0-7999" in text
    assert "FID at 1,000 images, seeds 0-999" in text


@pytest.mark.parametrize("name", [HOSTILE, SCRIPT, "a\nb", "=cmd()", r"\input{/etc/passwd}", "x" * 300, "[^1]: a"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_hostile_name_breaks_no_format(layout, name):
    switch = SWITCH | {"high.name": name}
    rows = [
        trial("baseline/a/5", name, name, 5, 0.4, method=name, moves=5, benchmark=name, name=name),
        trial("baseline/b/5", "euler", "edm", 5, 0.4, moves=5, benchmark=name, name=name),
        trial("baseline/c/9", "heun", "edm", 9, 0.4, moves=5, benchmark=name, name=name),
        trial("published/1", switch | {"tau_k": 1, "switch_at": name}, "sdm", 5, 0.4, moves=5, benchmark=name),
        trial("published/2", switch | {"tau_k": 2}, "sdm", 5, 0.3, moves=5, benchmark=name),
        trial("published/3", switch | {"rule": "linear"}, "sdm", 5, 0.3, moves=5, benchmark=name),
    ]
    walk = {column: [1.0] for column in ("sigma", "step", "secant", "eta", "allowed", "kept")}
    steps = f"sigma,eta,solver\n80,1,{name!r}\n".encode()
    files = files_of({item["key"]: {"card.json": card([80, 0], walk), "steps.csv": steps} for item in rows})
    held = Filled.of(layout, comparables(frame_of(rows), files))
    text = markdown(held, lambda run_id: f"#/{run_id}")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables
    for line, rule in itertools.pairwise(tables):
        if rule.startswith("|:--"):
            width = len(cells(line))
        assert len(cells(line)) == width
    assert "<script" not in text
    assert "<b>" not in text
    tex = latex(held)
    assert re.search(r"\\input\{|(?<!\\)[#$&%]\w*passwd", tex) is None
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", tex, flags=re.DOTALL):
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines()}) == 1
    assert {item["benchmark"] for item in read(long_form(held))} == {name}


def test_a_file_that_cannot_be_read_is_named():
    from reports.layouts import sigmas

    text = markdown(filled(sigmas, trial("baseline/a_b/5", "euler", "edm", 5, 0.3)))
    assert r"1 files could not be read from MLflow: card.json of baseline/a\_b/5." in text
