"""A front measured on another benchmark: what goes over, what is compared, and what is refused."""

import csv
import json
import math
from dataclasses import replace

import pytest

import search_spaces
from pipeline import benchmarks, comparison, transfer_report, trial, worker
from pipeline.comparison import Estimate
from pipeline.result import describe
from pipeline.transfer import Failure, Moved, Pairing, transfer
from pipeline.transfer_table import correlations, judged, standing, to_json
from pipeline.trial import NotFiniteError
from tests import transferred_study as made
from tests.cli.console import contents, done, refused


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study that is over, its file and another benchmark's."""
    folder = tmp_path_factory.mktemp("transfer")
    file, other = made.study_file(folder), made.benchmark_file(folder)
    return folder, file, other


@pytest.fixture(scope="module")
def records(place):
    folder, file, _ = place
    return made.write(file, folder / "run", made.records(search_spaces.load(str(file))))


def moved(place, to=None, **options):
    folder, file, other = place
    asked = {"carried": None, "images": None, "workers": 0, "run_dir": folder / "run", "console": made.console()}
    return transfer(str(file), str(to or other), **asked | options)


@pytest.fixture(scope="module")
def found(place, records):
    return moved(place)


def test_the_front_goes_over_by_rising_nfe_and_what_it_beats_does_not(found, records):
    searched = [r.result for r in records if r.role == "searched"]
    front = [
        r for r in searched
        if not any(o.nfe <= r.nfe and o.score.ranked < r.score.ranked for o in searched)
    ]  # fmt: skip
    assert 1 < len(front) < len(searched)
    assert [each.plan.home.plan.digest for each in found.pairings] == [
        r.plan.digest for r in sorted(front, key=lambda r: r.nfe)
    ]


def test_a_frozen_plan_scores_there_what_it_scores_when_measured_alone(found, place):
    other = benchmarks.load(str(place[2]))
    assert found.carried == "plan"
    for each in found.pairings:
        home, away = each.plan.home, each.plan.away
        assert away.plan == home.plan
        prepared = trial.Prepared(home.plan, home.solver, 0, 0.0, 0.0)
        expected = made.score(replace(home.spec, benchmark=str(place[2])), other, prepared)
        assert away.score == expected.score
        assert away.nfe == home.nfe == len(home.plan)
        assert away.reference_hash == other.reference_hash != home.reference_hash


def test_beside_it_is_the_best_baseline_at_home_within_its_evaluations(found, records):
    baselines = [r for r in records if r.role == "baseline"]
    for each in found.pairings:
        within = [r for r in baselines if r.result.nfe <= each.plan.away.nfe]
        best = min(within, key=lambda r: r.result.score.ranked, default=None)
        assert (each.baseline and each.baseline.record.key) == (best and best.key)
        if best is not None:
            assert each.baseline.away.spec.shards() == each.plan.away.spec.shards()
            assert judged(each)[0] == comparison.verdict(each.plan.away.score, each.baseline.away.score)
            gap = each.baseline.away.fid_corrected - each.plan.away.fid_corrected
            assert judged(each)[1] == pytest.approx(gap)
    assert found.pairings[0].baseline is None, "no baseline makes as few evaluations"
    assert {each.baseline.record.key for each in found.pairings[1:]} == {"baseline/ddim/3", "baseline/ipndm/5"}


def test_a_spec_is_placed_and_decided_again_between_the_others_sigmas(place, records):
    folder = place[0]
    wide = made.benchmark_file(folder, sigma_min=0.01, sigma_max=40.0, model={"stds": [0.05, 0.03]})
    found = moved(place, wide, carried="spec")
    held = benchmarks.load(str(wide))
    for each in (m for pairing in found.pairings for m in (pairing.plan, pairing.baseline) if m is not None):
        asked = each.record.result.spec
        ends = {"sigma_min": 0.01, "sigma_max": 40.0}
        spec = replace(asked, benchmark=str(wide), schedule={**asked.schedule, **ends})
        expected = made.score(spec, held)
        assert each.away.plan == expected.plan
        assert each.away.score == expected.score
        assert (each.away.plan.sigmas[0], each.away.plan.sigmas[-2]) == (40.0, pytest.approx(0.01))
    last = found.pairings[-1]
    assert (last.plan.home.nfe, last.plan.away.nfe) == (6, 7), "the switch falls elsewhere on this benchmark"
    assert last.baseline.record.key == "baseline/ipndm/7", "within the evaluations that it makes there"


def test_sigmas_of_ones_own_stay_as_they_are(place, records):
    folder, file, _ = place
    own = made.score(
        search_spaces.load(str(file)).spec({"solver": {"name": "euler"}, "schedule": {
            "name": "edm", "num_steps": 1, "sigma_max": 20.0}}), benchmarks.load("gmm"),
    )  # fmt: skip
    made.write(file, folder / "own", [made.TrialRecord("", "searched", "complete", "x", own)])
    wide = made.benchmark_file(folder, sigma_min=0.01, sigma_max=40.0)
    (pairing,) = moved(place, wide, carried="spec", run_dir=folder / "own").pairings
    assert pairing.plan.away.plan.sigmas == (20.0, 0.0)


def test_a_confirmation_is_what_home_is_told_by(place, records):
    folder, file, _ = place
    front = max((r for r in records if r.role == "searched"), key=lambda r: -r.result.score.ranked)
    made.write(file, folder / "confirmed", [*records, made.confirmation(front, 0.5)])
    found = moved(place, run_dir=folder / "confirmed")
    (again,) = [each.plan for each in found.pairings if each.plan.home.spec.first_seed == 1_000_000]
    assert again.home.fid == 0.5
    assert again.away.spec.first_seed == 0


def test_equal_plans_are_sampled_once_and_fewer_images_where_asked(place, records, monkeypatch):
    folder, file, _ = place
    searched = [r for r in records if r.role == "searched"]
    same = replace(searched[0], role="baseline", key="baseline/same/2", budget=2, method="SAME")
    made.write(file, folder / "same", [*searched, same])
    sampled = []

    def evaluate(plan, benchmark, seeds, *rest):
        sampled.append((plan.digest, seeds))
        return trial.evaluate(plan, benchmark, seeds, *rest)

    monkeypatch.setattr(worker, "evaluate", evaluate)
    found = moved(place, images=40, run_dir=folder / "same")
    assert len(sampled) == len(set(sampled))
    assert all(seeds == range(40) for _, seeds in sampled)
    first = found.pairings[0]
    assert first.plan.away.score == first.baseline.away.score
    assert judged(first)[0] == "inconclusive"


def test_what_fails_there_is_told_and_the_rest_is_measured(place, records, monkeypatch):
    best = min((r.result for r in records if r.role == "searched"), key=lambda r: r.score.ranked)

    def evaluate(plan, benchmark, seeds, *rest):
        if plan.digest == best.plan.digest:
            raise NotFiniteError("3 of 80 samples are not finite")
        return trial.evaluate(plan, benchmark, seeds, *rest)

    monkeypatch.setattr(worker, "evaluate", evaluate)
    found = moved(place)
    failed = [each for each in standing(found) if isinstance(each.pairing.plan.away, Failure)]
    assert [each.pairing.plan.home.plan.digest for each in failed] == [best.plan.digest]
    assert failed[0].away is None
    assert sorted(each.away for each in standing(found) if each.away) == [*range(1, len(found.pairings))]
    text = transfer_report.markdown(found)
    assert "| failed | – |" in text
    assert "3 of 80 samples are not finite" in text
    told = [row for row in to_json(found)["plans"] if "away_failed" in row]
    assert [row["verdict"] for row in told] == ["nothing to compare"]
    screen = made.console()
    transfer_report.show(found, screen)
    assert "3 of 80 samples are not finite" in screen.file.getvalue()


def scored(found, fids, nfes=None):
    """The transfer with made-up corrected FIDs away, by pairing."""
    pairings = []
    for k, (each, fid) in enumerate(zip(found.pairings, fids, strict=True)):
        away = each.plan.away
        nfe = away.nfe if nfes is None else nfes[k]
        again = replace(away, nfe=nfe, score=Estimate(80, fid, 0.1, fid, away.score.leave_one_out))
        pairings.append(Pairing(replace(each.plan, away=again), None))
    return replace(found, pairings=pairings)


def test_ranks_and_the_front_there(found):
    count = len(found.pairings)
    worse = scored(found, [float(k) for k in range(count)])
    assert [each.away for each in standing(worse)] == [*range(1, count + 1)]
    assert [each.on_front for each in standing(worse)] == [True] + [False] * (count - 1)
    assert [each.home for each in standing(worse)] == [*range(count, 0, -1)]
    equal = scored(found, [1.0] * count, [3.0] * count)
    assert [each.away for each in standing(equal)] == [1] * count
    assert [each.on_front for each in standing(equal)] == [True] + [False] * (count - 1)


def test_rank_correlation_is_spearmans_over_distinct_plans(found):
    many = [each for k in range(5) for each in (remade(found.pairings[0], k),)]
    for away, rho in (([1, 2, 3, 4, 5], 1.0), ([5, 4, 3, 2, 1], -1.0), ([1, 2, 3, 5, 4], 0.9)):
        held = scored(replace(found, pairings=many), [float(fid) for fid in away])
        assert correlations(held)[0] == (pytest.approx(rho), 5)
    few, equal = replace(found, pairings=many[:4]), scored(replace(found, pairings=many), [1.0] * 5)
    assert correlations(few)[0] == (pytest.approx(math.nan, nan_ok=True), 4)
    assert correlations(equal)[0] == (pytest.approx(math.nan, nan_ok=True), 5)


def remade(pairing, k):
    """The same with a plan and a score of its own."""
    home = pairing.plan.home
    plan = replace(home.plan, stages=tuple(replace(stage, sigma=stage.sigma * (1 + k)) for stage in home.plan.stages))
    score = replace(home.score, fid=float(k), corrected=float(k))
    return Pairing(Moved(pairing.plan.record, replace(home, plan=plan, score=score), pairing.plan.away), None)


def test_the_files_say_the_same_and_are_the_same_twice(found, place, tmp_path):
    files = transfer_report.write(found, tmp_path / "a")
    assert [file.name for file in files] == ["transfer.md", "transfer.csv", "transfer.json"]
    again = transfer_report.write(moved(place), tmp_path / "b")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    told = json.loads(files[2].read_text())
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert [row["key"] for row in rows] == [row["key"] for row in told["plans"]]
    for row, plan, each in zip(rows, told["plans"], found.pairings, strict=True):
        assert float(row["away_fid"]) == plan["away_fid"] == each.plan.away.fid
        assert float(row["home_fid_corrected"]) == plan["home_fid_corrected"] == each.plan.home.fid_corrected
        assert row["away_method"] == plan["away_method"] == describe(each.plan.away)
        assert row["baseline_key"] == ("" if plan["baseline"] is None else plan["baseline"]["key"])
        assert f"{each.plan.away.nfe:g}" in files[0].read_text()
    assert (told["images"], told["first_seed"], told["as"]) == (80, 0, "plan")
    assert told["to"]["reference_hash"] == found.away.reference_hash
    assert told["from"]["model_hash"] == found.home.model_hash
    text = files[0].read_text()
    assert "80 images, seeds 0-79" in text
    assert found.away.reference_hash[:16] in text


def test_a_hostile_name_is_shown_as_it_is(found):
    evil = "a | b <script>alert(1)</script>\n| *c*"
    pairing = found.pairings[-1]
    rival = replace(pairing.baseline, record=replace(pairing.baseline.record, method=evil))
    text = transfer_report.markdown(replace(found, pairings=[replace(pairing, baseline=rival)]))
    assert "<script>" not in text
    (row,) = [line for line in text.splitlines() if "script" in line]
    assert "a \\| b &lt;script&gt;alert(1)&lt;/script&gt; \\| \\*c\\*" in row
    hostile = found.away.spec.model_copy(update={"name": "x [a](b) <i> *c*"})
    named = transfer_report.markdown(replace(found, away=replace(found.away, spec=hostile)))
    assert "[a](b)" not in named
    assert "<i>" not in named
    assert named.count("x \\[a\\](b) &lt;i&gt; \\*c\\*") >= 5


def test_the_command_writes_one_folder_and_leaves_the_study_alone(place, records, tmp_path, monkeypatch):
    folder, file, other = place
    monkeypatch.chdir(tmp_path)
    before = contents(folder)
    ran = done("transfer", file, "--to", other, "--run-dir", folder / "run", "--workers", 0, "--out", "told", "--json")
    told = json.loads(ran.out)
    assert [row["verdict"] for row in told["plans"]]
    assert set(contents(tmp_path)) == {"told", "told/transfer.md", "told/transfer.csv", "told/transfer.json"}
    assert contents(folder) == before
    ran = done("transfer", file, "--to", other, "--run-dir", folder / "run", "--images", 40)
    assert "other" in ran.out
    assert (folder / "run" / "transfer" / "other" / "transfer.md").is_file()
    evil = made.benchmark_file(folder, name="../../../evil")
    done("transfer", file, "--to", evil, "--run-dir", folder / "run", "--images", 40)
    assert (folder / "run" / "transfer" / "-evil" / "transfer.md").is_file()


def test_bad_input_is_one_line(place, records, tmp_path, monkeypatch):
    folder, file, other = place
    monkeypatch.chdir(tmp_path)
    run = ("--run-dir", folder / "run")

    def told(*options):
        return refused(tmp_path, "transfer", *options)

    assert "unknown benchmark, given 'digits-kd'" in told(file, "--to", "digits-kd", *run)
    assert "did you mean 'digits-kde'?" in told(file, "--to", "digits-kd", *run)
    assert "--to: is the benchmark that the study searched on" in told(file, "--to", "gmm", *run)
    assert "--as: is no way to go over" in told(file, "--to", other, "--as", "sigmas", *run)
    assert "did you mean 'plan'?" in told(file, "--to", other, "--as", "plans", *run)
    assert "--run-dir: holds no study" in told(file, "--to", other, "--run-dir", tmp_path / "nowhere")
    assert "--images: does not fit" in told(file, "--to", other, "--images", 70, *run)
    assert "--images: does not fit" in told(file, "--to", other, "--images", 20, *run)
    wide = made.benchmark_file(folder, sigma_max=40.0)
    for options in ((), ("--as", "plan")):
        line = told(file, "--to", wide, *run, *options)
        assert "0.002 to 80 and 0.002 to 40" in line
        assert "allowed: spec" in line
    (tmp_path / "taken").write_text("")
    assert "--out: is no folder" in told(file, "--to", other, "--out", "taken", *run)
    renamed = made.study_file(tmp_path, study="another")
    assert "holds another study, tiny" in told(renamed, "--to", other, *run)
    made.write(file, folder / "empty", [])
    assert "has no front yet" in told(file, "--to", other, "--run-dir", folder / "empty")
    (folder / "empty" / "study.json").write_text("{")
    assert "is unreadable" in told(file, "--to", other, "--run-dir", folder / "empty")
    assert "no-such-study" in told("no-such-study", "--to", other)


def test_a_trial_that_exceeds_a_constraint_does_not_go_over(place, records):
    folder, file, _ = place
    searched = [r for r in records if r.role == "searched"]
    best = min(searched, key=lambda r: r.result.score.ranked)
    marked = [replace(r, constraints={"setup_nfe": 1.0}) if r.key == best.key else r for r in searched]
    made.write(file, folder / "limits", marked)
    found = moved(place, images=40, run_dir=folder / "limits")
    digests = {each.plan.home.plan.digest for each in found.pairings}
    assert best.result.plan.digest not in digests
