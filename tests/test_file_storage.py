"""The storage of one driver: the file holds what Optuna's own storage would have put there, whole or not at all."""

import os
import subprocess
import sys
from unittest import mock

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from pipeline.evidence import Evidence
from pipeline.file_storage import FileStorage, together
from pipeline.ledger import Ledger
from pipeline.pruning import Stop

WIDTH, KIND = FloatDistribution(0.0, 1.0), CategoricalDistribution(["a", "b"])


def opened(folder):
    storage = FileStorage(folder / "study.db")
    return storage, optuna.create_study(
        study_name="s", storage=storage, directions=["minimize"] * 2, load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )  # fmt: skip


def in_file(folder):
    """The trials as Optuna's own storage reads them."""
    storage = RDBStorage(f"sqlite:///{folder / 'study.db'}")
    try:
        return storage.get_all_trials(storage.get_study_id_from_name("s"))
    finally:
        storage.engine.dispose()


def content(trials):
    names = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "_trial_id")
    return [{name: getattr(trial, name) for name in names} for trial in trials]


def asked(study):
    trial = study.ask()
    trial.suggest_float("width", 0.0, 1.0)
    trial.suggest_categorical("kind", ["a", "b"])
    return trial


def test_what_it_says_is_what_optuna_reads_from_the_file(tmp_path):
    storage, study = opened(tmp_path)
    study.enqueue_trial({"width": 0.25}, user_attrs={"role": "published"})
    done, pruned, failed, running, added = (asked(study) for _ in range(5))
    assert done.params["width"] == 0.25
    done.set_user_attr("evidence", {"scores": (1.0, 2.5), "digest": "é"})
    done.set_user_attr("evidence", {"scores": (3.0,), "none": None})
    done.set_constraint("setup_nfe", -1.5)
    study.tell(done, [0.5, 4])
    study.tell(pruned, state=TrialState.PRUNED)
    study.tell(failed, state=TrialState.FAIL)
    running.set_user_attr("note", [1, 2])
    study.tell(added, [0.125, 9])
    study.add_trial(create_trial(values=[1.0, 2.0], params={"width": 0.5}, distributions={"width": WIDTH},
                                 user_attrs={"from": ("elsewhere",)}))  # fmt: skip
    known = content(study.get_trials(deepcopy=False))
    assert known == content(in_file(tmp_path))
    assert known == content(opened(tmp_path)[1].get_trials(deepcopy=False))
    assert known[0]["user_attrs"]["evidence"] == {"scores": [3.0], "none": None}
    assert content([storage.get_trial(running._trial_id)]) == known[3:4]


def test_inside_a_block_the_file_holds_nothing_of_it_and_afterwards_all(tmp_path):
    storage, study = opened(tmp_path)
    with storage.together():
        trial = asked(study)
        trial.set_user_attr("evidence", 1)
        with storage.together():
            study.tell(trial, [1.0, 2.0])
        assert study.get_trials(deepcopy=False)[0].state == TrialState.COMPLETE
        assert in_file(tmp_path) == []
    assert content(in_file(tmp_path)) == content(study.get_trials(deepcopy=False))
    assert in_file(tmp_path)[0].user_attrs == {"evidence": 1}


def test_after_an_error_it_knows_only_what_the_file_holds(tmp_path):
    storage, study = opened(tmp_path)
    first = asked(study)

    def fails():
        with storage.together():
            first.set_user_attr("evidence", 1)
            asked(study)
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fails()
    assert content(study.get_trials(deepcopy=False)) == content(in_file(tmp_path))
    assert [trial.user_attrs for trial in in_file(tmp_path)] == [{}]
    assert asked(study).number == 1
    study.tell(first, [1.0, 2.0])
    assert content(study.get_trials(deepcopy=False)) == content(in_file(tmp_path))


def test_a_part_that_optuna_took_back_takes_the_whole_with_it(tmp_path):
    storage, study = opened(tmp_path)

    def half():
        with storage.together():
            asked(study)
            storage._rdb.scoped_session().rollback()

    with pytest.raises(optuna.exceptions.StorageInternalError):
        half()
    assert in_file(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
from tests.test_file_storage import asked, opened
storage, study = opened(Path(sys.argv[1]))
study.tell(asked(study), [1.0, 2.0])
with storage.together():
    trial = asked(study)
    study.tell(trial, [3.0, 4.0])
    trial = asked(study)
    storage._rdb.scoped_session().flush()
    os.kill(os.getpid(), 9)
"""


def test_of_a_block_that_is_killed_nothing_is_left(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=os.getcwd(), capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert [trial.values for trial in in_file(tmp_path)] == [[1.0, 2.0]]
    _, study = opened(tmp_path)
    assert asked(study).number == 1


def test_a_list_that_was_handed_out_stays_as_it_was(tmp_path):
    _, study = opened(tmp_path)
    trial = asked(study)
    before = study.get_trials(deepcopy=False)
    trial.set_user_attr("evidence", 1)
    study.tell(trial, [1.0, 2.0])
    assert [(held.state, held.user_attrs) for held in before] == [(TrialState.RUNNING, {})]


def test_what_is_over_is_not_changed(tmp_path):
    _, study = opened(tmp_path)
    trial = asked(study)
    study.tell(trial, [1.0, 2.0])
    before = content(in_file(tmp_path))
    for change in (
        lambda: trial.set_user_attr("evidence", 1),
        lambda: trial.set_constraint("setup_nfe", 1.0),
        lambda: trial.suggest_float("more", 0.0, 1.0),
    ):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            change()
    assert content(in_file(tmp_path)) == before == content(study.get_trials(deepcopy=False))


@pytest.mark.parametrize("again", [False, True])
def test_a_parameter_is_of_one_kind_throughout_a_study(tmp_path, again):
    _, study = opened(tmp_path)
    asked(study)
    study = opened(tmp_path)[1] if again else study
    with pytest.raises(ValueError, match="distribution"):
        study.ask({"width": KIND})


def test_of_a_trial_each_step_is_one_commit(tmp_path):
    ledger = Ledger(tmp_path, "s", lambda suggest: {"x": suggest("x", WIDTH), "y": suggest("y", WIDTH)}, "tpe", 0, 2)
    evidence, limits = Evidence("00ff", 4), {"setup_nfe": -1.0, "latency_ms": -0.5}
    with mock.patch.object(FileStorage, "_commit", wraps=FileStorage._commit) as commits:
        steps = []

        def step(value):
            steps.append(commits.call_count)
            return value

        trial, _ = step(ledger.ask())
        step(ledger.note(trial, evidence))
        step(ledger.tell_waiting(trial, evidence, limits, 1.0, "made"))
        trial, _ = step(ledger.ask())
        step(ledger.tell_stopped(trial, Stop("other", "behind", 0.5), evidence, limits, None, "made", "searched/0"))
        trial, _ = step(ledger.ask())
        step(ledger.tell_off(trial, "no"))
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_any_storage_can_be_written_together():
    storage = optuna.storages.InMemoryStorage()
    with together(storage):
        optuna.create_study(storage=storage).ask()
    assert len(storage.get_all_studies()) == 1
