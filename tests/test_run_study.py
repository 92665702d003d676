"""A whole study through one call: the record follows the truth, whatever MLflow or the user does in between."""

import io
import json

import pytest
import yaml
from rich.console import Console

from pipeline import publisher, run_study, store, summary
from pipeline.ledger import Ledger
from pipeline.registry import SpecError
from pipeline.tracking import Record
from pipeline.worker import Worker
from tests.conftest import SMALL


@pytest.fixture
def study_file(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return str(file)


def search(file, folder, console=None):
    console = console or Console(file=io.StringIO(), width=120)
    return run_study.search(file, trials=None, workers=None, run_dir=folder / "runs" / "small", console=console)


def test_an_outage_of_mlflow_costs_one_warning_and_the_same_command_mends_it(study_file, tmp_path, monkeypatch):
    logged, asked = [], []
    honest = Record.log

    def fails_after_three(self, record, portrait=None, **options):
        if len(logged) == 3:
            raise ConnectionError("connection refused")
        logged.append(record.key)
        return honest(self, record, portrait, **options)

    monkeypatch.setattr(Record, "log", fails_after_three)
    console = Console(file=io.StringIO(), width=120)
    with pytest.raises(publisher.RecordUnavailableError, match=r"connection refused.*all \d+ trials are kept"):
        search(study_file, tmp_path, console)
    assert console.file.getvalue().count("warning: MLflow does not answer") == 1

    monkeypatch.setattr(Record, "log", honest)
    monkeypatch.setattr(Worker, "do", lambda self, task: asked.append(task))
    outcome = search(study_file, tmp_path)
    assert asked == []
    assert outcome.new_trials == 0
    roles = outcome.frame["role"].value_counts().to_dict()
    assert roles.pop("confirmed") > 0
    assert roles == {"floor": 1, "baseline": 4, "published": 2, "searched": 4}
    assert set(outcome.frame["state"]) == {"complete", "pruned"}
    assert "waits" not in "".join(outcome.frame["reason"].fillna(""))


def test_a_record_that_comes_back_is_told_what_it_missed(study_file, tmp_path, monkeypatch):
    """Three calls fail in the middle of the search; the next one, which may try, finds MLflow again."""
    calls, honest = [], Record.log

    def fails_in_between(self, record, portrait=None, **options):
        calls.append(record.key)
        if 4 <= len(calls) <= 6:
            raise ConnectionError("connection refused")
        return honest(self, record, portrait, **options)

    monkeypatch.setattr(publisher.Publisher, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(Record, "log", fails_in_between)
    console = Console(file=io.StringIO(), width=120)
    outcome = search(study_file, tmp_path, console)
    told = console.file.getvalue()
    assert told.count("warning: MLflow does not answer") == 1
    assert "MLflow answers again; 4 trials that it missed are in the record" in told
    assert len(outcome.frame) == len(set(calls))


def test_a_search_begins_without_mlflow_and_sync_makes_its_record_afterwards(study_file, tmp_path, monkeypatch):
    honest = Record.open

    def nobody(*_):
        raise store.StoreUnavailableError("the store cannot be opened (connection refused)", path="MLFLOW_TRACKING_URI")

    monkeypatch.setattr(Record, "open", nobody)
    console, folder = Console(file=io.StringIO(), width=120), tmp_path / "runs" / "small"
    with pytest.raises(publisher.RecordUnavailableError, match=r"all \d+ trials are kept in .*small.*sigmasearch sync"):
        search(study_file, tmp_path, console)
    assert console.file.getvalue().count("warning: MLflow does not answer") == 1
    assert not (tmp_path / "runs" / "mlflow.db").exists()

    monkeypatch.setattr(Record, "open", honest)
    monkeypatch.setattr(Worker, "do", lambda self, task: pytest.fail("sync samples nothing"))
    synced = run_study.sync(study_file, run_dir=folder, console=console)
    again = search(study_file, tmp_path)
    assert again.new_trials == 0
    assert len(synced.frame) == len(again.frame) >= 11
    assert synced.files["table.md"].read_text() == again.files["table.md"].read_text()
    with pytest.raises(SpecError, match="holds no study"):
        run_study.sync(study_file, run_dir=tmp_path / "elsewhere", console=console)
    assert not (tmp_path / "elsewhere").exists()


def test_a_search_stopped_by_the_keyboard_goes_on_where_it_was(study_file, tmp_path, monkeypatch):
    """At the second of those that waited for their last rung."""
    honest, told = Ledger.finish, []

    def stop_after_one(self, number, *what, **more):
        if told:
            raise KeyboardInterrupt
        told.append(number)
        return honest(self, number, *what, **more)

    monkeypatch.setattr(Ledger, "finish", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        search(study_file, tmp_path)
    monkeypatch.setattr(Ledger, "finish", honest)
    outcome = search(study_file, tmp_path)
    roles = outcome.frame["role"].value_counts()
    assert (roles["published"], roles["searched"], roles["baseline"], roles["floor"]) == (2, 4, 4, 1)
    assert set(outcome.frame["state"]) == {"complete", "pruned"}
    assert "waits" not in "".join(outcome.frame["reason"].fillna(""))


def test_the_summary_fits_eighty_columns_and_names_every_file(study_file, tmp_path):
    outcome = search(study_file, tmp_path)
    # As wide as the shipped studies get.
    baselines = outcome.frame["role"] == "baseline"
    outcome.frame.loc[baselines, "method"] = "DPM-Solver++(3M)"
    outcome.frame.loc[baselines, ["fid", "fid_se"]] = [1565.3, 11.2]
    console = Console(file=io.StringIO(), width=80)
    summary.show(outcome, console)
    text = console.file.getvalue()
    table = text[: text.index("floor:")].splitlines()
    assert max(len(line) for line in table) <= 80
    assert "…" not in text
    for path in outcome.files.values():
        assert path.exists()
    for name in ("table.md", "front.png", "report.html", "front"):
        assert str(outcome.files[name]) in text
    front = outcome.front()
    assert list(front["fid"]) == sorted(front["fid"], reverse=True)
    assert all(name.rsplit(" · ", 1)[0] in text for name in front["name"])


def test_a_front_card_says_what_its_plan_scored_on_seeds_that_chose_nothing(study_file, tmp_path):
    outcome = search(study_file, tmp_path)
    confirmed = outcome.frame[outcome.frame["role"].eq("confirmed")].set_index("plan")
    cards = [json.loads(path.read_text()) for path in outcome.files["front"].glob("*.json")]
    assert cards
    for card in cards:
        row = confirmed.loc[card["plan_digest"]]
        assert card["confirmed"]["fid"] == pytest.approx(row["fid"], rel=1e-5)
        assert card["confirmed"]["first_seed"] == row["first_seed"] != card["result"]["first_seed"]
        assert card["confirmed"]["images"] == row["images"]


def test_a_card_that_left_the_front_is_taken_away(study_file, tmp_path):
    outcome = search(study_file, tmp_path)
    stale = outcome.files["front"] / "nfe-99.json"
    stale.write_text("{}")
    again = search(study_file, tmp_path)
    assert not stale.exists()
    assert len(list(again.files["front"].glob("*.json"))) == len(again.front())
