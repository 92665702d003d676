"""What a study measures beside FID: on its confirmations, alike after a kill, and wherever their FID is shown."""

import json
import math
from dataclasses import replace

import pytest
import yaml

from pipeline import store
from pipeline.benchmarks import FOLDER, load
from pipeline.card import card
from pipeline.child import Child
from pipeline.cluster import InProcessPool
from pipeline.entry import Entry
from pipeline.leaderboard_view import COLUMNS, leaderboard_view
from pipeline.marks import marks
from pipeline.metrics.scores import Score
from pipeline.scoring import MomentScoring
from reports import page, tables
from reports.artifacts import NoArtifacts
from reports.beside import Other, others_of
from tests.cli.console import command, done
from tests.report_rows import HOSTILE, as_recorded
from tests.spied_search import EULERS, Counted, Spy, run
from tests.study_files import changed, refused
from tests.synthetic_study import climbed, small_study

METRICS = [{"name": "kid", "subsets": 4, "images": 60}, "precision_recall"]
DIGITS = {
    "benchmark": "digits-kde", "space": EULERS, "published": [{"schedule.num_steps": [2, 3]}], "trials": 2,
    "images": 80, "shard_images": 20, "baselines": ["ddim"], "budgets": [3], "rungs": None,
    "floor": {"solver": {"name": "euler"}, "schedule": {"name": "edm", "num_steps": 4}},
    "confirm": {"first_seed": 1_000_000},
}  # fmt: skip


class DigitsSpy(Spy):
    """On the digits; its driver is killed when the next answer would be the n-th."""

    def __init__(self, answers=10**6):
        super().__init__()
        InProcessPool.__init__(self, "digits-kde")
        self._worker.benchmark = self._counted = Counted(self._worker.benchmark)
        self.left = answers

    def next(self, timeout):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().next(timeout)


@pytest.fixture(scope="module")
def scoring():
    return MomentScoring(load("digits-kde"))


def searched(folder, small_study, scoring, answers=10**6, **changes):
    study = small_study(**(DIGITS | {"metrics": METRICS} | changes))
    return run(folder, study, pool=DigitsSpy(answers), scoring=scoring)


def metrics_of(ran):
    return {record.key: record.result.metrics for record in ran.records}


def test_confirmations_have_them_and_the_network_is_asked_no_more(small_study, scoring):
    ran, plain = searched(None, small_study, scoring), searched(None, small_study, scoring, metrics=[])
    confirmed = ran.of("confirmed")
    assert len(confirmed) == 3  # DDIM at 3 is the plan of Euler at 3
    for record in confirmed:
        held = record.result.metrics
        assert list(held) == ["kid", "precision", "recall"]
        assert [held[name].images for name in held] == [60, 80, 80]
    assert not any(record.result.metrics for record in ran.records if record.role != "confirmed")
    assert len({record.result.metrics["kid"].value for record in confirmed}) > 1
    assert ran.pool.rows == plain.pool.rows
    assert not any(metrics_of(plain).values())
    for mine, theirs in zip(ran.records, plain.records, strict=True):
        assert (mine.key, mine.result.score) == (theirs.key, theirs.result.score)


@pytest.mark.parametrize(("before_the_end", "not_sampled"), [(1, 0), (5, 1)])
def test_a_study_that_was_killed_ends_with_the_same(tmp_path, small_study, scoring, before_the_end, not_sampled):
    whole = searched(None, small_study, scoring)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, small_study, scoring, 10**6 - whole.pool.left - before_the_end)
    again = searched(tmp_path, small_study, scoring)
    assert metrics_of(again) == metrics_of(whole)
    sampled = [task.key for task in again.pool.tasks if task.what == "evaluate"]
    assert len(sampled) == not_sampled, "what was sampled is kept, with what the metrics need of it"


KID = Score(0.0123456789, 0.00234, "spread", 8000, 1797, "ab" * 32, "cd" * 32, {"subsets": 100, "seed": 2020})
FD = Score(81.25, 0.31, "se", 8000, None, "ef" * 32, "01" * 32, {"corrected": 80.7})
RECALL = Score(0.625, None, "none", 8000, 1797, "ab" * 32, "cd" * 32, {"neighbours": 3})


def study(metrics):
    """The synthetic study, its confirmations with these."""
    return [
        replace(item, result=replace(item.result, metrics=metrics)) if item.role == "confirmed" else item
        for item in climbed(small_study(), [3, 4, 6, 10])
    ]


@pytest.fixture(scope="module")
def records():
    return study({"kid": KID, "recall": RECALL, "fd_dinov2": FD})


def test_the_record_holds_them_and_what_they_rest_on(records):
    entries = {item.key: Entry.of(item) for item in records}
    confirmed = entries["confirmed/floor"]
    told = {"kid": 0.0123457, "kid_spread": 0.00234, "recall": 0.625, "fd_dinov2": 81.25, "fd_dinov2_se": 0.31}
    assert {name: confirmed.metrics.get(name) for name in told} == told
    assert ("kid", 8000) in confirmed.points
    assert json.loads(confirmed.tags[store.OTHERS])["kid"]["extractor"] == "cd" * 32
    assert store.OTHERS not in entries["floor"].tags
    mark = marks(entries, ["searched/1"])["searched/1"]
    assert {name: value for name, value in mark.metrics.items() if not name.startswith("fid")} == {
        "kid_confirmed": 0.0123457, "recall_confirmed": 0.625, "fd_dinov2_confirmed": 81.25,
    }  # fmt: skip


def test_a_metric_of_somebody_else_is_left_alone_and_one_of_ours_is_not(records):
    entry = Entry.of(next(item for item in records if item.key == "searched/1"))
    held = Child("id", "searched/1", entry.status, dict(entry.params), dict(entry.metrics), dict(entry.tags))
    for theirs in ("precision_at_5", "kidney", "recall_confirmed", "kid_confirmed"):
        assert held.differences(entry) == [], theirs
        held.metrics[theirs] = 1.0
    held.metrics["kid"] = 1.0
    assert held.differences(entry) == ["metric kid is left over"]


def test_the_leaderboard_shows_the_columns_that_there_are():
    assert leaderboard_view("id")["columnWidths"] == COLUMNS
    chosen = leaderboard_view("id", ["kid", "recall"])["selectedColumns"]
    assert chosen[-2:] == ["metrics.`kid_confirmed`", "metrics.`recall_confirmed`"]


def test_tables_and_page_print_them_with_errors_counts_and_hashes(records):
    frame = as_recorded(records, ["searched/1"])
    text = tables.markdown(frame)
    assert "#### Beside FID" in text
    row = next(line for line in text.splitlines() if line.startswith("| floor | Heun on edm"))
    assert row == "| floor | Heun on edm | 31 | 0.0123 ± 0.0023 | 0.625 | 81.25 ± 0.31 |"
    for told in ("8,000 images against 1,797 of the reference", "seed 2020, subsets 100", "no standard error",
                 "extractor 0101010101010101", "a reference that does not say how many"):  # fmt: skip
        assert told in text
    shown = page.page(frame, NoArtifacts())
    assert '<th scope="col" class="n">FD-DINOv2</th>' in shown
    assert "0.0123 ± 0.0023" in shown
    assert "| KID | recall | FD-DINOv2 |" in tables.leaderboard(frame)
    head, *rows = tables.csv(frame).splitlines()
    assert head.endswith("confirmed_kid,confirmed_kid_error,confirmed_recall,confirmed_recall_error,"
                         "confirmed_fd_dinov2,confirmed_fd_dinov2_error")  # fmt: skip
    assert rows[0].endswith(",0.0123457,0.00234,0.625,,81.25,0.31")


def test_without_them_nothing_is_said(records):
    frame = as_recorded(study({}), ["searched/1"])
    for text in (tables.markdown(frame), tables.csv(frame), tables.leaderboard(frame), page.page(frame, NoArtifacts())):
        for word in ("KID", "kid", "DINOv2", "Beside FID", "recall"):
            assert word not in text


def test_the_card_of_a_front_plan_has_those_of_its_confirmation(records):
    held = {item.key: item.result for item in records}
    made = card(held["searched/1"], held["confirmed/searched/1"])
    assert Score.from_json(made["confirmed"]["metrics"]["kid"]) == KID
    assert "metrics" not in made["result"]
    plain = card(held["searched/1"], replace(held["confirmed/searched/1"], metrics={}))
    assert "metrics" not in plain["confirmed"]


def test_numbers_are_rounded_by_their_errors():
    told = {
        (0.0123456, 0.00234): "0.0123 ± 0.0023",
        (3513.2, 757.4): "3510 ± 760",
        (-0.0001, 0.002): "-0.0001 ± 0.0020",
        (0.625, None): "0.625",
        (81.0, 0.0): "81",
    }
    for (value, error), text in told.items():
        assert Other(value, error, "").text == text


WRONG = [
    *("", "{", "[]", "3", None, "[" * 10**5, '{"kid": 3}', '{"kid": {"value": "x"}}'),
    json.dumps({"kid": KID.to_json() | {"error": math.nan}}),
    json.dumps({"kid": KID.to_json() | {"error_kind": "other"}}),
    json.dumps({"kid": KID.to_json() | {"settings": 3}}),
]


@pytest.mark.parametrize("tag", WRONG, ids=range(len(WRONG)))
def test_a_tag_that_was_changed_by_hand_is_no_number(tag):
    assert others_of(tag) == {}


def test_a_hostile_tag_is_text(records):
    told = {"kid": KID.to_json() | {"extractor": "<script>", "settings": {HOSTILE: HOSTILE}}}
    frame = as_recorded(records, ["searched/1"])
    frame["beside"] = [json.dumps(told) if role == "confirmed" else "" for role in frame["role"]]
    for text in (page.page(frame, NoArtifacts()), tables.markdown(frame)):
        assert "<script>," not in text
        assert "<b>|" not in text


def on_digits(**changes):
    return changed("benchmark", "digits-kde") | {"images": 200, "shard_images": 20} | changes


@pytest.mark.parametrize(
    ("changes", "place", "told"),
    [
        ({"metrics": "kid"}, "metrics", "is no list of metrics"),
        ({"metrics": ["kjd"]}, "metrics[0]", "did you mean 'kid'"),
        ({"metrics": ["kid", "kid"]}, "metrics[1]", "is given twice"),
        ({"metrics": [{"name": "kid", "subset": 3}]}, "metrics[0].subset", "did you mean 'subset"),
        ({"metrics": ["kid"], "confirm": "none"}, "metrics", "are measured on what is confirmed"),
        ({"metrics": ["kid"], "benchmark": "gmm"}, "metrics[0]", "needs images of the reference"),
        ({"metrics": [{"name": "kid", "subset_size": 201}]}, "metrics[0].subset_size", "2 to 200, the trial's images"),
        ({"metrics": [{"name": "fd_dinov2", "weights": "no.pth"}]}, "metrics[0].weights", "fetch https://"),
    ],
)
def test_a_study_that_cannot_measure_them_is_refused_at_its_start(tmp_path, changes, place, told):
    error = refused(tmp_path, on_digits(**changes))
    assert error.path == place
    assert told in str(error)


def test_an_npz_of_moments_is_no_reference_for_them(tmp_path):
    done("reference", "digits", "--features", "digits-cnn", "--out", tmp_path / "digits.npz")
    content = yaml.safe_load((FOLDER / "digits-kde.yaml").read_text()) | {"reference": "digits.npz"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    error = refused(tmp_path, on_digits(benchmark=str(tmp_path / "card.yaml"), metrics=["kid"]))
    assert error.path == "metrics[0]"
    assert error.given == "digits.npz"
    assert "a folder or a zip of images" in str(error)


def test_a_card_is_measured_at_any_time(tmp_path):
    file = tmp_path / "card.json"
    done("plan", "digits-kde", "--baseline", "ddim", "--nfe", "2", "--out", file)
    few = ("evaluate", file, "--images", "80", "--shard-images", "20", "--first-seed", "7")
    named = json.dumps([{"name": "kid", "subsets": 3}, "precision_recall"])
    told = json.loads(done(*few, "--metrics", named, "--json").out)
    assert list(told["metrics"]) == ["kid", "precision", "recall"]
    assert told["metrics"]["kid"]["settings"] == {"subsets": 3, "subset_size": 40, "seed": 2020}
    plain = json.loads(done(*few, "--json").out)
    assert "metrics" not in plain
    assert plain["fid"] == told["fid"]
    shown = done(*few, "--metrics", "precision_recall").out
    assert f"recall {told['metrics']['recall']['value']:.4g}, 80 images against 1797" in shown
    for given, line in (("kidd", "did you mean 'kid'"), ("[", "is no JSON"), ("kid,", r"unknown metric, given ''")):
        from_cli = command(*few, "--metrics", given)
        assert (from_cli.status, from_cli.err.count("\n")) == (2, 1)
        assert line in from_cli.err
        assert "--metrics" in from_cli.err
