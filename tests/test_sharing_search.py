"""A search beside another driver, whose part is read from a script: what it leaves alone, and what it takes up."""

from dataclasses import replace

import pytest

from pipeline import benchmarks
from pipeline.ledger import Ledger
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.sharing import Alone
from tests.spied_search import Heard, Spy, eulers, open_ledger


class Scripted(Alone):
    """Says no as often as `refused` has it, and knows what another driver has brought trials to."""

    several = True

    def __init__(self, ledger, trials, refused=None, brought=None):
        super().__init__(ledger, trials)
        self.refused, self.brought = dict(refused or {}), dict(brought or {})
        self.asked = []

    def take(self, key, record=""):
        name = record or key
        self.asked.append(name)
        left = self.refused.get(name, 0)
        self.refused[name] = left - 1
        return left <= 0

    def reached(self, number):
        key = f"published/{number}"
        return self.brought.get(number) if key in self.asked else None


def search(study, monkeypatch, **script):
    monkeypatch.setattr("pipeline.search.PAUSE_SECONDS", 0.0)
    gmm, spy, heard, ledger = benchmarks.load("gmm"), Spy(), Heard(), open_ledger(None, study)
    sharing = Scripted(ledger, study.trials, **script)
    ends = gmm.sigma_min, gmm.sigma_max
    Search(study, ledger, lambda: spy, MomentScoring(gmm), ends, [heard], sharing=sharing).run()
    return {record.key: record for record in ledger.records()}, spy, sharing


def reached(record):
    return [score.images for score in record.evidence.scores]


@pytest.fixture(scope="module")
def study(small_study):
    return small_study(**eulers(4, 6, baselines=["ddim"]))


def test_a_baseline_that_another_driver_is_at_is_measured_when_that_one_has_left_it(study, monkeypatch):
    alone, _, _ = search(study, monkeypatch)
    key = next(key for key in alone if key.startswith("baseline"))
    records, spy, sharing = search(study, monkeypatch, refused={key: 3})
    assert records.keys() == alone.keys()
    assert records[key].evidence.scores == alone[key].evidence.scores
    assert sharing.asked.count(key) == 4
    assert len(spy.of(key, "prepare")) == 1


def test_a_trial_that_another_driver_has_brought_to_a_rung_goes_on_from_there(study, monkeypatch):
    alone, _, _ = search(study, monkeypatch)
    finished = [
        key for key, record in alone.items() if key.startswith("published/") and reached(record) == [40, 100, 200]
    ]
    assert finished
    key = finished[0]
    whole = alone[key].evidence
    at_100 = replace(whole, scores=whole.scores[:2], spent_rows=whole.spent_rows - 100 * whole.nfe)
    number = int(key.partition("/")[2])
    records, spy, _ = search(study, monkeypatch, refused={key: 1}, brought={number: at_100})
    assert records[key].state == "complete"
    assert records[key].evidence.scores[:2] == whole.scores[:2]
    assert reached(records[key]) == [40, 100, 200]
    goals = [task.seeds.stop for task in spy.of(key, "evaluate")]
    assert goals == sorted(goals)
    assert goals[-1] == 200


def test_what_a_trial_comes_to_between_its_last_rungs_is_told_before_the_next(study, monkeypatch):
    told = []
    monkeypatch.setattr(Ledger, "reach", lambda self, number, evidence: told.append((number, evidence)))
    records, _, _ = search(study, monkeypatch)
    finished = {int(k.partition("/")[2]): r for k, r in records.items() if k.startswith("published/") and r.result}
    assert finished
    assert {number for number, _ in told} >= finished.keys()
    for number, evidence in told:
        assert [score.images for score in evidence.scores] == [40, 100]
        if number in finished:
            assert evidence.scores == finished[number].evidence.scores[:2]
