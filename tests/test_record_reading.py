import json
import subprocess
import sys

import pandas as pd
import pytest

from pipeline import store
from pipeline.comparison import verdict
from pipeline.registry import SpecError
from pipeline.tracking import Record
from reports import tables
from reports.record import (
    complete,
    confirmations,
    estimate,
    find_experiment,
    frame_of,
    groups,
    natural,
    read,
    rung_columns,
    same_images,
)
from tests.report_rows import EXPERIMENT, as_recorded, row
from tests.synthetic_study import climbed, record, small_study

# MLflow 3.17 asks SQLAlchemy for a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

FRONT = ["searched/1", "searched/2", "searched/9"]


@pytest.fixture(scope="module")
def records():
    return climbed(small_study(), [3, 4, 6, 10])


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def frame(uri, records):
    study = Record.open(uri, EXPERIMENT, "small", "f00d")
    for item in records:
        study.log(item)
    study.mark_front(FRONT)
    return read(uri, EXPERIMENT)


def test_the_record_gives_the_numbers_back(frame):
    held = frame.set_index("key").loc["searched/2"]
    assert held["fid"] == 0.199
    assert held["fid_se"] == 0.002
    assert held["fid_corrected"] == 0.189
    assert held["fid_infinity"] == 0.188
    assert held["nfe"] == 4
    assert held["setup_nfe"] == 17
    assert held["setup_rows"] == 2176
    assert held["spent_rows"] == 4 * 8000 + 2176
    assert held["images"] == 8000
    assert held["first_seed"] == 0
    assert held["reference"] == "feedc0de12345678"
    assert held["revision"] == "a1b2c3d4e5f6"
    assert held["benchmark_version"] == "1"
    assert held["terminal"] == "zero"
    assert held["params.searched.eta_max"] == "0.2"
    assert held["params.solver.name"] == "euler"
    assert frame.set_index("key").loc["baseline/ddim/6", "budget"] == 6
    assert frame["state"].value_counts().to_dict() == {"complete": 22, "pruned": 13, "failed": 1}
    assert set(frame[frame["front"]]["key"]) == set(FRONT)
    assert frame["feasible"].all()


def test_the_estimate_of_a_row_is_that_of_the_trial(frame, records):
    rows = frame.set_index("key", drop=False)
    scored = [item for item in records if item.result is not None]
    for item in scored:
        held = estimate(rows.loc[item.key])
        assert held.images == item.result.score.images
        assert held.leave_one_out == pytest.approx(item.result.score.leave_one_out, rel=1e-9)
        for name in ("fid", "se", "corrected"):
            assert getattr(held, name) == pytest.approx(getattr(item.result.score, name), rel=1e-5)


def test_a_confirmation_names_what_it_confirms_and_a_stopped_trial_its_rung(frame):
    rows = frame.set_index("key")
    assert rows.loc["confirmed/searched/2", "confirms"] == "searched/2"
    assert rows.loc["confirmed/searched/2", "first_seed"] == 1_000_000
    stopped = rows[rows["state"].eq("pruned") & rows["nfe"].notna()]
    assert stopped["stopped_at"].value_counts().to_dict() == {"teacher": 4, "800": 4, "2400": 4}
    assert stopped["fid"].isna().all()
    assert stopped["teacher_distance"].notna().all()
    assert stopped["fid_at_800"].notna().sum() == 8
    assert rung_columns(frame) == ["fid_at_800", "fid_at_2400", "fid_at_8000"]


def test_rows_without_a_store_are_those_of_the_store(frame, records):
    """What the other tests of the reports stand on."""
    made = as_recorded(records, FRONT)
    pd.testing.assert_frame_equal(made.drop(columns="run_id"), frame.drop(columns="run_id"), check_like=True)


def test_a_record_from_before_the_rungs_still_reads(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = Record.open(uri, EXPERIMENT, "old", "f00d")
    for key, nfe, fid in (("floor", 31, 0.07), ("baseline/ddim/5", 5, 0.4), ("searched/1", 5, 0.1)):
        study.log(record(key, nfe, fid))
    for run in study._client.search_runs([study.experiment_id]):
        if store.LEAVE_ONE_OUT in run.data.tags:
            study._client.delete_tag(run.info.run_id, store.LEAVE_ONE_OUT)
    held = read(uri, EXPERIMENT)
    assert list(held["leave_one_out"]) == [(), (), ()]
    assert list(held["feasible"]) == [True, True, True]
    assert estimate(held.iloc[0]).fid == 0.4
    text = tables.markdown(held)
    assert "0.4000 ± 0.0020" in text
    assert "inconclusive (unconfirmed)" in text
    assert "at the floor" not in text
    assert "Rank check" not in text


@pytest.mark.parametrize("held", ["", "[1, 2", "7", '["a"]', "[1, null]", "[1, NaN]", None, float("nan")])
def test_leave_one_out_values_that_cannot_be_read_are_none(held):
    frame = frame_of([row("searched/1", 5, 0.3, leave_one_out=held)])
    assert frame["leave_one_out"].iloc[0] == ()
    ours = estimate(frame.iloc[0])
    assert verdict(ours, ours) == "inconclusive"


def test_leave_one_out_values_are_read_as_text_or_as_numbers():
    values = (0.1, 0.2, 0.3)
    frame = frame_of([row("searched/1", 5, 0.3, leave_one_out=held) for held in (values, json.dumps(values))])
    assert list(frame["leave_one_out"]) == [values, values]


@pytest.mark.parametrize("name", ["images", "first_seed", "shard_images", "reference", "benchmark_version"])
def test_rows_are_paired_where_every_condition_is_the_same(name):
    frame = frame_of([row("searched/1", 5, 0.3), row("searched/2", 5, 0.2), row("searched/3", 5, 0.2, **{name: 7})])
    assert same_images(frame.iloc[0], frame.iloc[1])
    assert not same_images(frame.iloc[0], frame.iloc[2])


def test_a_confirmation_is_found_by_its_key_or_by_an_equal_plan_and_is_no_table_of_its_own():
    rows = [
        row("baseline/a/5", 5, 0.4, plan="p"),
        row("baseline/b/5", 5, 0.4, plan="q"),
        row("searched/1", 5, 0.4, plan="p"),
        row("searched/2", 5, 0.3, plan="r"),
        row("confirmed/baseline/a/5", 5, 0.41, plan="p"),
        row("confirmed/baseline/b/5", 5, 0.42, plan="p"),
        row("confirmed/searched/2", 5, 0.31, plan="r", reference="another"),
    ]
    frame = frame_of(rows)
    (group,) = groups(frame)
    assert set(group["role"]) == {"baseline", "searched"}
    found = {key: item["key"] for key, item in confirmations(frame, group).items()}
    assert found == {
        "baseline/a/5": "confirmed/baseline/a/5",
        "baseline/b/5": "confirmed/baseline/b/5",
        "searched/1": "confirmed/baseline/a/5",
    }


def test_a_foreign_run_and_a_broken_one_are_listed_and_count_for_nothing(uri):
    name = "with-foreign-runs"
    study = Record.open(uri, name, "small", "f00d")
    for item in small_study():
        study.log(item)
    clean = read(uri, name)
    client = study._client
    client.create_run(study.experiment_id, run_name="somebody's")
    inside = client.create_run(study.experiment_id, tags={"mlflow.parentRunId": study.run_id}, run_name="by hand")
    client.log_metric(inside.info.run_id, "fid", 0.0)
    tags = {"mlflow.parentRunId": study.run_id, "sigmasearch.key": "searched/99", "sigmasearch.role": "searched"}
    client.create_run(study.experiment_id, tags=tags | {"sigmasearch.state": "complete"})
    cut = client.create_run(study.experiment_id, tags={**tags, "sigmasearch.key": "searched/98"})
    client.log_metric(cut.info.run_id, "fid", float("nan"))

    held = read(uri, name)
    counts = {"complete": 14, "foreign": 2, "broken": 2, "pruned": 1, "failed": 1}
    assert held["state"].value_counts().to_dict() == counts
    assert "1 failed, 2 broken, 2 foreign" in tables.markdown(held)
    assert tables.csv(held) == tables.csv(clean)
    assert tables.latex(held) == tables.latex(clean)

    other = Record.open(uri, name, "larger", "beef")
    other.log(record("searched/0", 3, 0.01))
    with pytest.raises(SpecError, match=r"study: the experiment holds several studies.*larger, small"):
        read(uri, name)
    assert list(read(uri, name, "larger")["state"]) == ["foreign", "complete"]
    assert tables.csv(read(uri, name, "small")) == tables.csv(clean)


def test_a_study_is_found_by_its_name(uri, frame):
    Record.open(uri, "another", "alone", "f00d")
    Record.open(uri, "another", "small", "f00d")
    assert find_experiment(uri, "alone") == "another"
    with pytest.raises(SpecError, match=r"several experiments.*allowed: another, digits-kde"):
        find_experiment(uri, "small")
    with pytest.raises(SpecError, match="did you mean 'alone'"):
        find_experiment(uri, "along")


def test_what_is_not_there_is_said_with_the_nearest_name(uri, frame, tmp_path):
    with pytest.raises(SpecError, match="did you mean 'digits-kde'"):
        read(uri, "digit-kde")
    with pytest.raises(SpecError, match=r"study: no such study in digits-kde.*did you mean 'small'"):
        read(uri, EXPERIMENT, "smal")
    with pytest.raises(SpecError, match="holds no study"):
        read(uri, "Default")
    with pytest.raises(SpecError, match="there is no MLflow store here yet"):
        read(f"sqlite:///{tmp_path}/none.db", EXPERIMENT)
    assert list(tmp_path.iterdir()) == []


def test_complete_keeps_the_roles_asked_for(frame):
    assert len(complete(frame)) == 22
    assert len(complete(frame, "searched", "published")) == 5


def test_keys_sort_as_people_count():
    assert sorted(["searched/10", "floor", "searched/9", "baseline/a/3"], key=natural) == [
        "baseline/a/3",
        "floor",
        "searched/9",
        "searched/10",
    ]


def test_reports_need_neither_torch_nor_ray_nor_optuna():
    code = (
        "import sys, reports.record, reports.tables, reports.figures, reports.page\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'optuna', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
