"""The commands about the methods themselves: the loop's options, the check of SDM's bound, how NFE is counted."""

import json
from pathlib import Path

import pytest

from pipeline.card import read_card
from tests.cli.console import done, refused

WALK = ("gmm", "--solver", "euler", "--schedule", "sdm", "--set", "schedule.eta_max=0.05", "--set")
WALK = (*WALK, "schedule.eta_min=0.01", "--set", "schedule.calibration_images=32", "--verify", "--json", "--set")


def test_a_stochastic_card_samples_and_scores(elsewhere):
    churn = '{"s_churn": 40, "s_min": 0.05, "s_max": 50, "s_noise": 1.003}'
    ran = done(
        "plan", "gmm", "--solver", "heun", "--schedule", "edm", "--set", "schedule.num_steps=4", "--churn", churn
    )
    assert "heun · edm 4 · churn 40: 7 NFE" in ran.out
    spec, plan, _ = read_card(Path("card.json"))
    assert spec.churn["s_noise"] == 1.003
    assert plan.streams == (2, 3)  # sigma 80 lies above s_max, 0.002 below s_min
    told = [json.loads(done("evaluate", "card.json", "--images", 40, "--json").out) for _ in range(2)]
    assert told[0]["fid"] == told[1]["fid"]
    assert told[0]["nfe"] == 7
    done("sample", "card.json", "--images", 4, "--out", "mine.png")
    assert (elsewhere / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_denoise_to_zero_is_one_more(elsewhere):
    del elsewhere
    told = json.loads(done("plan", "gmm", "--baseline", "ipndm", "--nfe", 5, "--denoise-to-zero", "--json").out)
    assert told["nfe"] == 6
    assert told["plan"]["sigmas"][-2:] == [0.002, 0.0]
    assert told["method"] == "ipndm-4 · edm 5 to 0"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--churn", "forty"), "--churn: is neither a number nor JSON, given 'forty'"),
        (("--churn", "-1"), "churn.s_churn: is out of range, given -1.0; allowed: 0 or more"),
        (("--set", "churn.s_nosie=1"), "did you mean 's_noise'?"),
        (("--set", "chrun.s_noise=1"), "--set: is no setting"),
        (("--set", "churn.s_noise=1"), "churn.s_churn: is required and missing"),
    ],
)
def test_mistakes_about_the_loops_options(elsewhere, options, line):
    assert line in refused(elsewhere, "plan", "gmm", "--baseline", "heun", "--nfe", 5, *options)


def test_churn_and_a_multistep_solver_are_refused(elsewhere):
    line = refused(elsewhere, "plan", "gmm", "--baseline", "unipc_3", "--nfe", 5, "--churn", 40)
    assert "churn: needs a solver that starts each step afresh, given 'unipc'" in line
    line = refused(elsewhere, "plan", "gmm", "--baseline", "lms", "--nfe", 5, "--denoise-to-zero")
    assert "denoise_to_zero: is for a schedule that stops at sigma_min" in line


def test_verify_shows_which_steps_break_the_published_promise(elsewhere):
    del elsewhere
    told = json.loads(done("plan", *WALK, "schedule.num_steps=null").out)
    assert told == json.loads(Path("card.json").read_text())
    steps = told["verification"]["steps"]
    assert len(steps) == len(told["plan"]["sigmas"]) - 1 == len(told["walk"]["sigma"]) + 1
    # The walk's own record is what the verification measures again.
    assert [s["eta"] for s in steps[:-1]] == pytest.approx(told["walk"]["eta"], rel=1e-9)
    broken = [s for s in steps if s["verdict"] == "broken"]
    assert broken
    assert all(s["error"] > s["allowed"] for s in broken)
    assert steps[-1]["verdict"] == "not verified"
    assert told["verification"]["walk"] == []


def test_verify_finds_no_broken_step_where_the_bound_is_enforced(elsewhere):
    del elsewhere
    told = json.loads(done("plan", *WALK, "schedule.num_steps=null", "--set", "schedule.enforce_bound=true").out)
    steps = told["verification"]["steps"]
    assert {s["verdict"] for s in steps[:-1]} <= {"kept", "inconclusive"}
    assert all(
        eta <= allowed * (1 + 1e-9) for eta, allowed in zip(told["walk"]["eta"], told["walk"]["allowed"], strict=True)
    )


def test_verify_prints_a_row_a_step_and_the_walk_behind_it(elsewhere):
    del elsewhere
    arguments = [argument for argument in WALK if argument != "--json"]
    out = done("plan", *arguments, "schedule.num_steps=5").out
    assert "walk: " in out
    assert "the walk it was placed by: " in out
    assert out.count("broken") + out.count("kept") + out.count("inconclusive") >= 5
    assert "32 images, seeds 1099511627776-1099511627807" in out
    plain = done("plan", "gmm", "--baseline", "ddim", "--nfe", 3, "--verify").out
    assert "fine solve" in plain
    assert "allowed" not in plain


def test_report_nfe_prints_what_is_told_and_what_is_so(elsewhere):
    del elsewhere
    rows = json.loads(done("report", "nfe", "--json").out)
    by_name = {(row["method"], row["setting"]): row for row in rows}
    row = by_name["Heun", "SDM, N = 18"]
    assert (row["published"], row["code"], row["measured"]) == (35, 18, 35)
    out = done("report", "nfe").out
    assert "sampler.py:324" in out
    assert out.count("\n") > len(rows)
