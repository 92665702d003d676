"""In which order those that waited go on, and what is known of each by then."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

from pipeline.evidence import Evidence
from pipeline.finals import Finals
from pipeline.result import TrialRecord
from tests.spied_search import eulers
from tests.synthetic_study import score

POINT = {"schedule.num_steps": 4}


def waiting(number, nfe, fid, same_as=""):
    evidence = Evidence(f"{nfe:x}-{fid}", nfe, scores=(replace(score(fid, 0.01), images=40),), spent_rows=100 * nfe)
    record = TrialRecord(
        f"published/{number}", "published", "pruned", "made", None, params=POINT, same_as=same_as, evidence=evidence,
        waiting=True,
    )  # fmt: skip
    return record, POINT


def finals(small_study, *held, rested=()):
    study = small_study(**eulers(4, rungs={"teacher": 0, "images": [40, 100]}, baselines=[]))
    climb = SimpleNamespace(prepared=lambda key: None, overtaken=lambda *_: None, rested=lambda: list(rested))
    ledger = SimpleNamespace(waiting=lambda: list(held))
    alone = SimpleNamespace(several=False, take=lambda *_: True, ended=lambda _: False, reached=lambda _: None)
    return Finals(study, ledger, climb, itertools.count(1), lambda record: None, alone)


def drained(made):
    return [job.key for job in iter(made.next, None)]


def test_the_cheapest_come_first_and_the_best_of_a_cost_last(small_study):
    """Else each could be ended for one that is hardly worse, which is ended in its turn."""
    told = [(5, 0.2), (4, 0.3), (5, 0.4), (4, 0.1), (5, 0.1)]
    made = finals(small_study, *(waiting(i, *each) for i, each in enumerate(told)))
    goals = made.rounds()
    assert next(goals) == 100
    assert made.rows_left == (4 + 4 + 5 + 5 + 5) * (200 - 40)
    assert drained(made) == [f"published/{number}" for number in (1, 3, 2, 0, 4)]


def test_twins_come_in_the_last_round_behind_their_first(small_study):
    first, twin = waiting(0, 4, 0.3), waiting(1, 4, 0.3, same_as="published/0")
    kept = []
    made = finals(small_study, twin, first, rested=kept)
    rounds = made.rounds()
    next(rounds)
    job = made.next()
    assert (job.key, job.goal, made.next()) == ("published/0", 100, None)
    job.scores.append(score(0.25, 0.001))
    kept.append(job)
    made._climb.rested = lambda: [job]
    assert next(rounds) == 200
    assert drained(made) == ["published/0", "published/1"]
    assert job.goal == 200
