import dataclasses
import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline import store
from pipeline.evidence import Evidence
from pipeline.registry import SpecError
from pipeline.result import TrialRecord, TrialResult
from pipeline.tracking import Record
from tests.synthetic_study import record, result, score, small_study

# MLflow 3.17 asks SQLAlchemy for a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

EXPERIMENT = "digits-kde"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One store for the module: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def opened(uri, request):
    return Record.open(uri, EXPERIMENT, request.node.name, "f00d")


def children(held, everything=False):
    from mlflow.entities import ViewType

    view = ViewType.ALL if everything else ViewType.ACTIVE_ONLY
    query = f"tags.`{store.PARENT}` = '{held.run_id}'"
    return {run.data.tags[store.KEY]: run for run in held._client.search_runs([held.experiment_id], query, view)}


def artifacts(run):
    return Path(urlsplit(run.info.artifact_uri).path)


def test_a_study_told_twice_is_written_once(uri, opened):
    assert all(opened.log(item) for item in small_study())
    before = children(opened)
    assert len(before) == 16
    assert not any(opened.log(item) for item in small_study())

    again = Record.open(uri, EXPERIMENT, "test_a_study_told_twice_is_written_once", "f00d")
    assert again.run_id == opened.run_id
    assert len(again) == 16
    # What comes back from a storage has been through JSON.
    stored = [
        dataclasses.replace(
            item, result=item.result and TrialResult.from_json(json.loads(json.dumps(item.result.to_json())))
        )
        for item in small_study()
    ]
    assert not any(again.log(item) for item in stored)
    after = children(opened, everything=True)
    assert {key: run.info.run_id for key, run in after.items()} == {key: run.info.run_id for key, run in before.items()}
    metric = next(iter(before.values())).info.run_id
    assert len(opened._client.get_metric_history(metric, "fid")) <= 1


def test_another_fingerprint_is_another_study(uri, opened):
    other = Record.open(uri, EXPERIMENT, "test_another_fingerprint_is_another_study", "beef")
    assert other.run_id != opened.run_id
    assert other.experiment_id == opened.experiment_id


def test_mlflow_holds_the_options_of_the_loop(opened):
    churn = {"s_churn": 40.0, "s_noise": 1.003}
    opened.log(record("searched/4", 5, 0.3, denoise_to_zero=True, churn=churn), started=1e9, ended=1e9 + 5)
    params = children(opened)["searched/4"].data.params
    assert (params["churn.s_churn"], params["churn.s_noise"]) == ("40.0", "1.003")
    assert (params["afs"], params["denoise_to_zero"]) == ("false", "true")


def test_what_mlflow_shows_of_a_trial(opened):
    opened.log(
        record("searched/3", 4, 1 / 3, params={"tau_k": 2e-4}, setup_rows=2176, method="SDM"),
        started=1e9,
        ended=1e9 + 5,
    )
    run = children(opened)["searched/3"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 5000
    assert run.info.run_name == "euler edm 4 · 4 NFE"
    assert run.data.metrics["fid"] == 0.333333
    assert run.data.metrics["nfe"] == 4
    assert run.data.metrics["setup_nfe"] == 17
    assert run.data.metrics["network_rows"] == 32000
    assert run.data.metrics["images_per_s"] == 4000
    assert run.data.params["solver.name"] == "euler"
    assert run.data.params["schedule.num_steps"] == "4"
    assert run.data.params["searched.tau_k"] == "0.0002"
    assert run.data.params["afs"] == "false"
    assert run.data.params["terminal"] == "zero"
    assert run.data.tags["sigmasearch.role"] == "searched"
    assert run.data.tags["sigmasearch.plan"] == result(4, 0.3).plan.digest
    assert run.data.tags["sigmasearch.revision"] == "a1b2c3d4e5f6"


def test_a_pruned_and_a_failed_trial_are_shown_as_such(opened):
    for item in small_study():
        opened.log(item)
    runs = children(opened)
    assert runs["searched/11"].info.status == "KILLED"
    assert runs["searched/11"].data.tags["sigmasearch.reason"] == "behind the front"
    assert runs["searched/12"].info.status == "FAILED"
    assert runs["searched/12"].info.run_name == "SDM · failed"
    assert not runs["searched/12"].data.metrics


def test_a_trial_that_comes_to_a_result_later_replaces_its_entry(opened):
    opened.log(TrialRecord("searched/0", "searched", "pruned", "SDM", params={"q": 0.1}, reason="behind"))
    assert opened.log(record("searched/0", 4, 0.3, method="SDM"))
    assert opened.log(record("searched/0", 4, 0.2, method="SDM"))
    run = children(opened)["searched/0"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["fid"] == 0.2
    assert "searched.q" not in run.data.params


@pytest.mark.parametrize("params", [{}, {"q": 0.1}])
@pytest.mark.parametrize("end", ["scored", "failed", "dominated"])
def test_a_trial_that_waited_is_in_the_end_what_became_of_it(uri, opened, request, params, end):
    half = dataclasses.replace(score(0.4, 0.002), images=4000)
    evidence = Evidence(result(4, 0.3).plan.digest, 4, scores=(half,))
    waits = TrialRecord(
        "searched/0", "searched", "pruned", "SDM", params=params, reason="waits for its last rungs",
        evidence=evidence, waiting=True,
    )  # fmt: skip
    opened.log(waits)
    first = children(opened)["searched/0"]
    assert (first.info.status, first.data.tags[store.STOPPED_AT]) == ("KILLED", "4000")
    assert first.info.run_name == "SDM · 4 NFE · stopped"
    assert (first.data.metrics["fid"], first.data.metrics["fid_at_4000"]) == (0.4, 0.39)
    scored = dataclasses.replace(record("searched/0", 4, 0.3, method="SDM", params=params), evidence=evidence)
    ended, status = {
        "scored": (scored, "FINISHED"),
        "failed": (dataclasses.replace(waits, state="failed", reason="boom", waiting=False), "FAILED"),
        "dominated": (dataclasses.replace(waits, reason="stopped at 4000 images", waiting=False), "KILLED"),
    }[end]
    again = Record.open(uri, EXPERIMENT, request.node.name, "f00d")
    assert again.log(ended)
    run = children(again)["searched/0"]
    assert run.info.status == status
    assert run.data.tags[store.STATE] == ended.state
    assert run.data.tags.get(store.REASON, "") == ended.reason
    assert run.data.tags.get(store.STOPPED_AT) == ("4000" if end == "dominated" else None)
    assert run.data.metrics["fid"] == (0.3 if end == "scored" else 0.4)
    assert run.data.metrics["fid_at_4000"] == 0.39
    history = again._client.get_metric_history(run.info.run_id, "fid")
    assert [(held.step, held.value) for held in history] == [(4000, 0.4), (8000, 0.3)][: 1 + (end == "scored")]
    assert not again.log(ended)


def test_a_run_cut_short_is_written_again(uri, opened):
    opened.log(record("searched/0", 4, 0.3))
    run = children(opened)["searched/0"]
    opened._client.update_run(run.info.run_id, status="RUNNING")  # as it is until the last of it is written
    shutil.rmtree(artifacts(run))
    again = Record.open(uri, EXPERIMENT, "test_a_run_cut_short_is_written_again", "f00d")
    assert again.log(record("searched/0", 4, 0.3))
    assert (artifacts(run) / "card.json").exists()
    assert children(again)["searched/0"].info.run_id == run.info.run_id
    assert not again.log(record("searched/0", 4, 0.3))


def test_the_front_moves(opened):
    for item in small_study():
        opened.log(item)
    assert opened.mark_front(["searched/1", "searched/9"]) > 0
    assert opened.mark_front(["searched/1", "searched/9"]) == 0
    opened.log(record("searched/13", 6, 0.06))
    # One joins, one leaves.
    assert opened.mark_front(["searched/1", "searched/13"]) == 2
    runs = children(opened)
    assert {key for key, run in runs.items() if run.data.tags["sigmasearch.front"] == "true"} == {
        "searched/1",
        "searched/13",
    }
    order = sorted(
        (k for k, r in runs.items() if "fid" in r.data.metrics), key=lambda k: runs[k].data.tags[store.PLACE]
    )
    assert order[:4] == ["searched/1", "searched/13", "floor", "baseline/ipndm/3"]
    with pytest.raises(KeyError, match="searched/99"):
        opened.mark_front(["searched/99"])


def test_the_study_is_described_and_ended(uri, opened, tmp_path):
    for item in small_study():
        opened.log(item)
    (tmp_path / "drawn.png").write_bytes(b"picture")
    (tmp_path / "table.csv").write_text("a,b\n")
    files = {"front.png": tmp_path / "drawn.png", "table.csv": tmp_path / "table.csv"}
    assert opened.attach(files) == ["front.png", "table.csv"]
    assert opened.attach(files) == []
    (tmp_path / "drawn.png").write_bytes(b"another")
    assert opened.attach(files) == ["front.png"]
    opened.describe_study("### front")
    opened.finish()
    client = opened._client
    run = client.get_run(opened.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"] == "### front"
    assert run.data.metrics["trials"] == 16
    assert run.data.metrics["trials_failed"] == 1
    assert run.data.metrics["trials_baseline"] == 8
    assert [item.path for item in client.list_artifacts(opened.run_id)] == ["front.png", "table.csv"]
    assert (artifacts(run) / "front.png").read_bytes() == b"another"

    name = "test_the_study_is_described_and_ended"
    again = Record.open(uri, EXPERIMENT, name, "f00d")
    again.finish()
    assert len(client.get_metric_history(opened.run_id, "trials")) == 1
    again.log(record("searched/20", 4, 0.15))
    assert client.get_run(opened.run_id).info.status == "RUNNING"
    again.finish("KILLED")
    assert client.get_run(opened.run_id).info.status == "KILLED"


def test_the_card_is_an_artifact_that_can_be_read_back(opened, tmp_path):
    opened.log(record("searched/0", 4, 1 / 3))
    run_id = children(opened)["searched/0"].info.run_id
    file = opened._client.download_artifacts(run_id, "card.json", str(tmp_path))
    with open(file, encoding="utf-8") as text:
        assert json.load(text)["result"]["fid"] == 1 / 3


def test_the_leaderboard_is_this_study_sorted_by_place(opened):
    opened.set_leaderboard_view()
    view = json.loads(opened._client.get_experiment(opened.experiment_id).tags["mlflow.sharedViewState.leaderboard"])
    assert opened.run_id in view["searchFilter"]
    assert view["orderByKey"] == "tags.`sigmasearch.place`"
    assert "metrics.`fid`" in view["selectedColumns"]
    assert opened.leaderboard_url("http://127.0.0.1:5000/").endswith("&viewStateShareKey=leaderboard")


def test_names_that_mlflow_would_refuse(uri):
    held = Record.open(uri, EXPERIMENT, "it's a study", "f00d")
    assert Record.open(uri, EXPERIMENT, "it's a study", "f00d").run_id == held.run_id
    assert held.log(record("searched/0", 3, 0.1, params={"a=b?": "x" * 7000}, method="m" * 300))
    with pytest.raises(SpecError, match="study"):
        Record.open(uri, EXPERIMENT, "'\"", "f00d")


def test_a_deleted_experiment_is_said_to_be(uri):
    held = Record.open(uri, "deleted", "study", "f00d")
    held._client.delete_experiment(held.experiment_id)
    with pytest.raises(SpecError, match="experiment: the experiment is deleted"):
        Record.open(uri, "deleted", "study", "f00d")


def test_a_trial_is_told_its_budget_at_once_so_that_marking_the_front_touches_few(opened):
    opened.budgets = (3, 5, 8)
    for item in small_study():
        opened.log(item)
    tags = {key: run.data.tags for key, run in children(opened).items()}
    assert [tags[key].get(store.BUDGET) for key in ("searched/1", "searched/2", "searched/9")] == ["3", "5", "8"]
    assert {held[store.STUDY] for held in tags.values()} == {opened.tags[store.STUDY]}
    assert sorted(held[store.PLACE][0] for held in tags.values()) == ["2", *"4" * 13, *"55"]
    # The one on the front, and the best baseline of each NFE.
    assert opened.mark_front(["searched/1"]) == 5
