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
    assert "heun edm 4 · churn 40: 7 NFE" in ran.out
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
    assert told["method"] == "ipndm-4 edm 5 to 0"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--churn", "forty"), "--churn: is neither a number nor JSON, given 'forty'"),
        (("--churn", "-1"), "churn.s_churn: is out of range, given -1.0; allowed: 0 or more and finite"),
        (("--churn", '{"s_churn": 40, "s_max": Infinity}'), "churn.s_max: is out of range, given inf"),
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


def test_a_search_for_a_free_first_step_needs_one(elsewhere):
    options = ["--solver", "ipndm", "--schedule", "gits", "--set", "schedule.num_steps=4"]
    options += ["--set", "schedule.afs_search=true", "--set", "schedule.warmup=8"]
    assert "schedule.afs_search: places sigmas for an analytical first step" in refused(
        elsewhere, "plan", "gmm", *options
    )
    assert "3 NFE" in done("plan", "gmm", *options, "--afs").out


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        ('{"name": "given", "values": [5, 4.999999999999999, 1, 0]}', "schedule.values: schedule 'given' gives sigmas"),
        ('{"name": "given", "values": [1e200, 1, 0]}', "sigma 0, given 1e+200; allowed: 0 to 1e+30"),
        ('{"name": "vp", "num_steps": 5, "sigma_max": 1e200}', "schedule.sigma_max: is out of range"),
        ('{"name": "cos", "num_steps": 5, "calibration_images": 1000000000}', "allowed: 1 to 100000"),
        ('{"name": "gits", "num_steps": 5, "warmup": 1000000000}', "schedule.warmup: is out of range"),
        ('{"name": "gits", "num_steps": 5, "coeff": 1e300}', "schedule.coeff: is out of range"),
    ],
)
def test_numbers_beyond_reason_are_told_in_one_line(elsewhere, schedule, line):
    assert line in refused(elsewhere, "plan", "gmm", "--solver", "lms", "--schedule", schedule)


def test_verify_needs_two_images(elsewhere):
    gits = ["--schedule", "gits", "--set", "schedule.num_steps=3", "--set", "schedule.warmup=1"]
    line = refused(elsewhere, "plan", "gmm", "--solver", "euler", *gits, "--verify")
    assert "schedule.warmup: is out of range, given 1; allowed: 2 or more with --verify" in line


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("nfe", 3, "nfe: is not the number of the plan's evaluations, given 3; allowed: 4"),
        (
            "benchmark",
            {"name": "digits-kde"},
            "benchmark.name: the card was made for another gmm, given 'digits-kde'; allowed: gmm",
        ),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(elsewhere, key, value, line):
    held = json.loads(done("plan", "gmm", "--baseline", "ddim", "--nfe", 4, "--json").out)
    Path("mine.json").write_text(json.dumps({**held, key: value}))
    assert line in refused(elsewhere, "evaluate", "mine.json")


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
