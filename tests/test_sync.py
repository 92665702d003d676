"""`sync` makes MLflow equal to the study, `sync --check` says in what it differs; whatever was done to it by hand."""

import io
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from rich.console import Console

from pipeline import run_study, store
from pipeline.tracking import Record
from reports.record import read
from search_spaces import load
from tests.conftest import SMALL

# As the study of other tests, but of pictures.
CHANGES = {"study": "synced", "benchmark": "digits-kde", "trials": 3, "rungs": {"teacher": 20, "images": [100]}}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study: its file and its run directory."""
    folder = tmp_path_factory.mktemp("synced")
    (folder / "study.yaml").write_text(yaml.safe_dump(SMALL | CHANGES))
    run_study.search(
        str(folder / "study.yaml"),
        trials=None,
        workers=None,
        run_dir=folder / "run",
        console=Console(file=io.StringIO()),
    )
    return folder


@pytest.fixture
def held(done, tmp_path):
    """A copy of it that may be spoilt, but for where the files of its runs are."""
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def uri(folder):
    return f"sqlite:///{folder}/mlflow.db"


def opened(folder):
    study = load(str(folder / "study.yaml"))
    return Record.find(uri(folder), "digits-kde", "synced", study.fingerprint)


def check(folder):
    return run_study.check(str(folder / "study.yaml"), run_dir=folder / "run", console=Console(file=io.StringIO()))


def sync(folder):
    console = Console(file=io.StringIO(), width=200)
    outcome = run_study.sync(str(folder / "study.yaml"), run_dir=folder / "run", console=console)
    return outcome, console.file.getvalue().splitlines()


def artifacts(client, run_id):
    return Path(urlsplit(client.get_run(run_id).info.artifact_uri).path)


def runs(folder):
    record = opened(folder)
    return {run.info.run_id for run in record._client.search_runs([record.experiment_id], max_results=1000)}


def test_a_finished_study_is_equal_and_syncing_it_writes_nothing(held):
    assert check(held) == []
    before = runs(held)
    assert sync(held)[1] == []
    assert runs(held) == before
    record = opened(held)
    for key, child in record.children.items():
        names = {item.path for item in record._client.list_artifacts(child.run_id)}
        complete = {"card.json", "result.json", "samples.png", "steps.csv"}
        assert names == complete if child.status == "FINISHED" else complete - {"card.json"}, key
        assert child.tags[store.STUDY] == "synced"
    confirmed = [child for child in record.children.values() if store.FID_CONFIRMED in child.metrics]
    assert {child.tags[store.ROLE] for child in confirmed} >= {"floor", "baseline"}
    note = record.tags[store.NOTE]
    assert f"get-artifact?path=leaderboard.png&run_uuid={record.run_id}" in note
    assert record.files() >= {"report.html", "leaderboard.png", "front.png", "table.md", "table.csv", "table.tex"}


def test_into_an_empty_store_it_writes_everything_again(held, monkeypatch):
    first = read(uri(held), "digits-kde", "synced")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{held}/other.db")
    assert check(held) == [f"{held}/other.db: there is no MLflow store"]
    assert not (held / "other.db").exists()
    _, told = sync(held)
    assert told == [f"runs written: {len(first)}, new ones among them: {len(first)}"]
    assert check(held) == []
    again = read(f"sqlite:///{held}/other.db", "digits-kde", "synced")
    assert first.drop(columns="run_id").equals(again.drop(columns="run_id"))
    # The store is there, and the experiment, but not this study.
    record = Record.open(f"sqlite:///{held}/third.db", "digits-kde", "another", "f00d")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{held}/third.db")
    assert check(held) == ["digits-kde: no run of the study synced"]
    assert len(list(record._client.search_runs([record.experiment_id]))) == 1


def test_what_was_changed_by_hand_is_named_and_put_right(held):
    record = opened(held)
    client, child = record._client, record.children
    client.log_metric(child["floor"].run_id, "fid", 0.0, step=10**9)
    client.set_tag(child["baseline/ddim/3"].run_id, store.ROLE, "searched")
    client.delete_tag(child["baseline/ddim/7"].run_id, store.FRONT)
    client.set_tag(child["baseline/ddim/7"].run_id, "their.own", "note")
    client.log_param(child["baseline/heun/3"].run_id, "searched.q", "1")
    (artifacts(client, child["baseline/heun/7"].run_id) / "samples.png").unlink()
    client.set_tag(record.run_id, store.NOTE, "mine now")
    (artifacts(client, record.run_id) / "table.md").unlink()
    client.delete_run(child["searched/2"].run_id)
    fid = child["floor"].metrics["fid"]
    assert sorted(check(held)) == sorted(
        [
            f"floor: metric fid is 0.0 instead of {fid}",
            "baseline/ddim/3: tag sigmasearch.role is searched instead of baseline",
            "baseline/ddim/7: tag sigmasearch.front is missing instead of false",
            "baseline/heun/3: param searched.q is left over",
            "baseline/heun/7: file samples.png is missing",
            "searched/2: no run",
            "run of synced: the description is not the record's leaderboard",
            "run of synced: file table.md is missing",
            *(text for text in check(held) if text.startswith("run of synced: metric")),
        ]
    )
    _, told = sync(held)
    assert told == ["runs written: 4, new ones among them: 1", "baseline/heun/7: file samples.png written again"]
    assert check(held) == []
    again = opened(held)
    assert again.run_id == record.run_id
    assert again.children["floor"].metrics["fid"] == fid
    assert again.children["baseline/ddim/7"].tags["their.own"] == "note"


def test_numbers_of_the_study_that_were_changed_by_hand_are_put_right(held):
    record = opened(held)
    record._client.log_metric(record.run_id, "trials", 7)
    assert check(held) == [f"run of synced: metric trials is 7.0 instead of {len(record.children)}"]
    sync(held)
    assert check(held) == []


def test_runs_that_say_to_be_of_the_study_go_and_foreign_ones_stay(held):
    record = opened(held)
    client, experiment = record._client, record.experiment_id
    parent = {store.PARENT: record.run_id}
    foreign = client.create_run(experiment, run_name="somebody's").info.run_id
    inside = client.create_run(experiment, tags=parent, run_name="by hand").info.run_id
    made_up = client.create_run(experiment, tags={**parent, store.KEY: "searched/99"}).info.run_id
    double = client.create_run(experiment, tags={**parent, store.KEY: "floor"}).info.run_id
    own = {store.STUDY: "synced", store.FINGERPRINT: record.tags[store.FINGERPRINT]}
    twin = client.create_run(experiment, tags=own).info.run_id
    under = client.create_run(experiment, tags={store.PARENT: twin, store.KEY: "floor"}).info.run_id
    told = check(held)
    assert f"run {twin}: a second one of this study" in told
    assert f"floor: run {double} says to be this trial too" in told
    assert f"searched/99: no such trial in the study, but run {made_up}" in told
    assert f"run {foreign} (somebody's): a foreign run in the experiment" in told
    assert f"run {inside} (by hand): a foreign run in the experiment" in told

    _, said = sync(held)
    assert set(runs(held)) & {foreign, inside, made_up, double, twin, under} == {foreign, inside}
    assert f"deleted run {twin}, a second one of this study, and the trials under it" in said
    assert f"deleted run {made_up}, which says to be searched/99" in said
    assert f"left alone run {foreign} (somebody's), which is none of ours" in said
    assert sorted(check(held)) == sorted(
        [
            f"run {run} ({name}): a foreign run in the experiment"
            for run, name in ((foreign, "somebody's"), (inside, "by hand"))
        ]
    )


def test_a_study_whose_own_run_was_deleted_is_restored_with_its_trials(held):
    record, before = opened(held), runs(held)
    record._client.delete_run(record.run_id)
    assert check(held) == ["digits-kde: no run of the study synced"]
    assert sync(held)[1] == []
    assert check(held) == []
    assert runs(held) == before


def test_two_studies_of_one_name_are_told_apart(held):
    other = Record.open(uri(held), "digits-kde", "synced", "beefbeefbeefbeef")
    assert check(held) == []
    outcome, _ = sync(held)
    assert set(outcome.frame["study"]) == {"synced"}
    assert len(outcome.frame) == len(opened(held).children)
    with pytest.raises(ValueError, match=r"several studies have this name; name one.*synced@beefbeef") as caught:
        read(uri(held), "digits-kde", "synced")
    assert f"synced@{opened(held).tags[store.FINGERPRINT][:8]}" in str(caught.value)
    assert len(read(uri(held), "digits-kde", "synced@beef")) == 0
    with pytest.raises(ValueError, match=r"no such study in digits-kde.*synced@beefbeef"):
        read(uri(held), "digits-kde", "synced@0000")
    assert other.run_id != opened(held).run_id


def test_whoever_has_no_portraits_takes_none_of_those_that_are_recorded(held):
    """As a driver that shares the study, and sampled other trials."""
    shutil.rmtree(held / "run" / "portraits")
    record = opened(held)
    [floor] = [child for key, child in record.children.items() if key == "floor"]
    steps = (artifacts(record._client, floor.run_id) / "steps.csv").read_text()
    assert check(held) == []
    record._client.set_tag(floor.run_id, store.METHOD, "another")
    _, told = sync(held)
    assert told == ["runs written: 1, new ones among them: 0"]
    assert check(held) == []
    assert (artifacts(record._client, floor.run_id) / "steps.csv").read_text() == steps
    assert "samples.png" in opened(held).children["floor"].tags[store.FILES]


def test_pictures_that_are_gone_are_told_in_one_line(held, monkeypatch):
    lost = next((held / "run" / "portraits").iterdir())
    plan = lost.stem
    shutil.rmtree(held / "run" / "portraits")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{held}/other.db")
    _, told = sync(held)
    [line] = [text for text in told if "sample grid" in text]
    assert line.startswith("trials without a sample grid, which portraits would have: ")
    assert line.endswith("more)")
    assert check(held) == []
    assert plan in set(read(f"sqlite:///{held}/other.db", "digits-kde", "synced")["plan"])
