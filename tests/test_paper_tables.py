"""The papers' tables from a store: written, checked to the byte, and honest about what the record lacks."""

import csv
import io

import pytest

import search_spaces
from pipeline.registry import SpecError
from pipeline.tracking import Record
from reports import paper_tables
from reports.layouts import LAYOUTS
from tests.report_rows import EXPERIMENT, HOSTILE
from tests.synthetic_study import climbed, record, small_study

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(scope="module")
def records():
    return climbed(small_study(), [3, 4, 6, 10])


def stored(uri, records, study="small", fingerprint="f00d", experiment=EXPERIMENT):
    held = Record.open(uri, experiment, study, fingerprint)
    for item in records:
        held.log(item)
    held.finish()
    return held


@pytest.fixture(scope="module")
def uri(tmp_path_factory, records):
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    stored(uri, records)
    return uri


@pytest.fixture(scope="module")
def built(uri):
    return paper_tables.build(uri, EXPERIMENT, "small")


def test_every_layout_has_its_three_files_and_the_index_leads_to_them(built):
    files, told = built
    assert set(files) == {"index.md", *(f"{layout.name}.{end}" for layout in LAYOUTS for end in ("md", "csv", "tex"))}
    assert told == []
    for name in files:
        assert name == "index.md" or f"({name})" in files["index.md"]
    assert "Study small: 22 complete" in files["index.md"]
    assert "| euler | edm | 0.3000 ± 0.0020 | 0.1990 ± 0.0020 |" in files["few-steps.md"]


def test_another_copy_of_the_record_gives_the_same_bytes(built, records, tmp_path):
    again = f"sqlite:///{tmp_path}/mlflow.db"
    stored(again, list(reversed(records)))
    assert paper_tables.build(again, EXPERIMENT, "small") == built


def test_every_measured_cell_leads_to_its_run(uri):
    files, _ = paper_tables.build(uri, EXPERIMENT, "small", linked=True)
    links = list(csv.DictReader(io.StringIO(files["links.csv"])))
    measured = [
        item
        for layout in LAYOUTS
        for item in csv.DictReader(io.StringIO(files[f"{layout.name}.csv"]))
        if item["kind"] == "measured"
    ]
    place = ("layout", "measured", "table", "row", "column", "key")
    assert [tuple(item[name] for name in place) for item in links] == [
        tuple(item[name] for name in place) for item in measured
    ]
    client = Record.open(uri, EXPERIMENT, "small", "f00d")._client
    for link in links[:5]:
        experiment, _, run = link["path"].removeprefix("#/experiments/").partition("/runs/")
        held = client.get_run(run)
        assert (held.info.experiment_id, held.data.tags["sigmasearch.key"]) == (experiment, link["key"])
    assert f"]({links[0]['path']})" in files["solver-schedule.md"]


def test_a_folder_is_compared_to_the_byte(built, uri, tmp_path):
    files, _ = built
    paths = paper_tables.write(files, tmp_path)
    assert [path.name for path in paths] == list(files)
    assert paper_tables.differences(files, tmp_path) == []
    few = tmp_path / "few-steps.md"
    few.write_bytes(few.read_bytes().replace(b"0.1990", b"0.1991", 1))
    (tmp_path / "sigmas.tex").unlink()
    (tmp_path / "index.md").write_bytes(files["index.md"].encode() + b" ")
    last = files["index.md"].count("\n") + 1
    line = files["few-steps.md"].split("0.1990")[0].count("\n") + 1
    assert paper_tables.differences(files, tmp_path) == [
        f"{tmp_path}/index.md, line {last}: is not what the record gives",
        f"{few}, line {line}: is not what the record gives",
        f"{tmp_path}/sigmas.tex: is missing",
    ]
    linked, _ = paper_tables.build(uri, EXPERIMENT, "small", linked=True)
    paper_tables.write(linked, tmp_path)
    assert paper_tables.differences(linked, tmp_path) == []
    assert "was made with --links" in paper_tables.differences(files, tmp_path)[0]
    paper_tables.write(files, tmp_path)
    assert paper_tables.differences(files, tmp_path) == []
    assert not (tmp_path / "links.csv").exists()


def test_what_was_deleted_by_hand_or_is_foreign_is_said(built, records, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = stored(uri, records)
    client = study._client
    for run in client.search_runs([study.experiment_id]):
        if run.data.tags.get("sigmasearch.key") in ("searched/9", "searched/10"):
            client.delete_run(run.info.run_id)
    client.create_run(study.experiment_id, run_name="\x1b[2J" + HOSTILE)
    tags = {"mlflow.parentRunId": study.run_id, "sigmasearch.key": "searched/99", "sigmasearch.role": "searched"}
    client.create_run(study.experiment_id, tags=tags | {"sigmasearch.state": "complete"})
    files, told = paper_tables.build(uri, EXPERIMENT, "small")
    assert [line.split(" in no table")[0] for line in told] == [
        "1 runs of this experiment are no trials of the study and are",
        "1 trials have no FID that can be read and are",
        "2 runs were deleted in MLflow and are",
    ]
    assert told[0].endswith(f"in no table: [2J{HOSTILE}.")
    assert "searched/99" in told[1]
    assert "searched/9, searched/10; `sigmasearch sync`" in told[2]
    assert r"50%\_\\{x}\~^&amp;#$ &lt;b&gt;\|\`\*\_" in files["index.md"]
    assert "0.0800 ± 0.0020" in built[0]["few-steps.md"]
    assert "0.0800 ± 0.0020" not in files["few-steps.md"]


def test_a_run_that_is_written_again_was_not_deleted_by_hand(records, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = stored(uri, records[:6])
    client = study._client
    (first,) = client.search_runs([study.experiment_id], "tags.`sigmasearch.key` = 'floor'")
    client.delete_run(first.info.run_id)
    stored(uri, records[:6])
    assert paper_tables.build(uri, EXPERIMENT, "small")[1] == []


def test_of_two_studies_of_one_name_it_is_said_which_is_read(records, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    stored(uri, records)
    stored(uri, [record("baseline/ddim/5", 5, 0.123)], fingerprint="beef")
    with pytest.raises(SpecError, match=r"several studies have this name.*small@beef, small@f00d"):
        paper_tables.build(uri, EXPERIMENT, "small")
    files, told = paper_tables.build(uri, EXPERIMENT, "small@beef")
    assert told[0] == "2 studies of this experiment are called small; these tables are of small@beef."
    assert told[0] in files["index.md"]
    assert "0.1230 ± 0.0020" in files["few-steps.md"]
    assert "0.3000 ± 0.0020" not in files["few-steps.md"]
    assert "0.3000 ± 0.0020" in paper_tables.build(uri, EXPERIMENT, "small@f00d")[0]["few-steps.md"]


def test_a_study_with_nothing_scored_is_refused(records, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    stored(uri, [])
    with pytest.raises(SpecError, match="study: this study has no trial in MLflow yet"):
        paper_tables.build(uri, EXPERIMENT, "small")
    failed = [item for item in records if item.state == "failed"]
    stored(uri, failed)
    with pytest.raises(SpecError, match="study: this study has no scored trial yet"):
        paper_tables.build(uri, EXPERIMENT, "small")
    with pytest.raises(SpecError, match="no such study"):
        paper_tables.build(uri, EXPERIMENT, "smal")


def test_the_shipped_study_measures_its_list_and_searches_nothing():
    study = search_spaces.load("papers")
    points = study.published_points
    assert study.trials == len(points) == 65
    assert study.confirm is None
    assert study.rung_images == [study.images]
    moves = {(point["solver"], point["schedule"], point[f"schedule.{point['schedule']}.num_steps"]) for point in points}
    assert {(a, b, 18) for a in ("euler", "heun", "switch") for b in ("edm", "cos", "sdm")} <= moves
    taus = {point["solver.switch.tau_k"] for point in points if point.get("solver.switch.rule") == "step"}
    assert 2e-4 in taus
    assert len(taus) >= 5
    assert {point.get("solver.switch.rule") for point in points} == {None, "step", "linear", "cosine"}
    assert set(range(3, 11)) <= set(study.budgets)
