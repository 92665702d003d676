"""The files of a trial's run: what they say, and that their digest follows what they say."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from matplotlib import image

from pipeline.card import read_card
from pipeline.portrait import Portrait
from pipeline.result import TrialResult
from pipeline.run_files import COLUMNS, run_files
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.sdm import Switch
from tests.synthetic_study import climbed, record, small_study

NAN = math.nan


def portrait(nfe, **changes):
    sigmas = (*EDM(nfe).sigmas().tolist(),)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    kappas, etas = ((NAN, *(float(k) for k in range(1, nfe))) for _ in range(2))
    return dataclasses.replace(Portrait(sigmas, kappas, etas, 128, pixels), **changes)


def written(files, folder):
    for name, file in files.items():
        file.write(folder / name)
    return {name: (folder / name).read_bytes() for name in files}


def rows(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_a_scored_trial_has_all_four(tmp_path):
    scored = record("searched/1", 4, 1 / 3, params={"q": 0.1})
    files = written(run_files(scored, portrait(4)), tmp_path)
    assert sorted(files) == ["card.json", "result.json", "samples.png", "steps.csv"]
    assert read_card(tmp_path / "card.json")[1] == scored.result.plan
    held = json.loads(files["result.json"])
    assert TrialResult.from_json(held["result"]) == scored.result
    assert (held["key"], held["params"]) == ("searched/1", {"q": 0.1})
    assert image.imread(tmp_path / "samples.png").shape[:2] == (4 * 66 + 2, 4 * 66 + 2)


def test_the_steps_of_a_switch_are_one_row_an_evaluation(tmp_path):
    solver = {"name": "switch", "switch_at": 1}
    sigmas = EDM(3).sigmas().tolist()
    plan = trace(Switch(switch_at=1), sigmas)
    scored = record("searched/1", 3, 0.3, solver=solver)
    scored = dataclasses.replace(scored, result=dataclasses.replace(scored.result, plan=plan))
    kappas, etas = (NAN, 0.1, 0.2, 0.3), (NAN, 1.0, 2.0, 3.0)
    seen = portrait(4, kappas=kappas, etas=etas)
    found = rows(written(run_files(scored, seen), tmp_path)["steps.csv"])
    assert tuple(found[0]) == COLUMNS
    assert [row["evaluation"] for row in found] == ["1", "2", "3", "4"]
    assert [row["solver"] for row in found] == ["euler", "heun", "heun", "euler"]
    assert [float(row["sigma"]) for row in found] == [sigmas[0], sigmas[1], sigmas[2], sigmas[2]]
    assert [float(row["sigma_next"]) for row in found] == [sigmas[1], sigmas[2], sigmas[2], 0]
    assert [row["kappa"] for row in found] == ["", "0.1", "0.2", "0.3"]
    assert [row["eta"] for row in found] == ["", "1.0", "2.0", "3.0"]


def test_without_a_portrait_or_with_one_that_does_not_fit_nothing_is_made_up(tmp_path):
    scored = record("searched/1", 4, 0.3)
    assert "samples.png" not in run_files(scored)
    for seen in (None, portrait(6)):
        found = rows(written(run_files(scored, seen), tmp_path)["steps.csv"])
        assert [(row["kappa"], row["eta"]) for row in found] == [("", "")] * 4
        assert [row["solver"] for row in found] == ["euler"] * 4
    assert "samples.png" not in run_files(scored, portrait(4, pixels=None))


def test_a_stopped_trial_is_known_by_its_portrait(tmp_path):
    stopped = next(item for item in climbed(small_study(), [3]) if item.key == "searched/1001")
    assert sorted(run_files(stopped)) == ["result.json"]
    files = written(run_files(stopped, portrait(4)), tmp_path)
    assert sorted(files) == ["result.json", "samples.png", "steps.csv"]
    assert [row["solver"] for row in rows(files["steps.csv"])] == [""] * 4
    assert [float(row["sigma_next"]) for row in rows(files["steps.csv"])] == list(portrait(4).sigmas[1:])
    assert json.loads(files["result.json"])["evidence"]["digest"] == stopped.evidence.digest


def test_a_number_that_is_none_is_null_in_json(tmp_path):
    scored = record("searched/1", 4, 0.3, params={"q": NAN})
    scored = dataclasses.replace(scored, constraints={"latency_ms": math.inf})
    files = {name: file for name, file in run_files(scored).items() if name == "result.json"}
    held = json.loads(written(files, tmp_path)["result.json"], parse_constant=pytest.fail)
    assert held["params"]["q"] is None
    assert held["constraints"]["latency_ms"] is None


def test_a_digest_follows_the_content_and_nothing_else():
    scored = record("searched/1", 4, 0.3)
    stored = dataclasses.replace(
        scored, result=TrialResult.from_json(json.loads(json.dumps(scored.result.to_json(), sort_keys=True)))
    )

    def digests(item, seen):
        return {name: file.digest for name, file in run_files(item, seen).items()}

    first = digests(scored, portrait(4))
    assert digests(stored, portrait(4)) == first
    other = portrait(4, pixels=portrait(4).pixels[::-1].copy())
    assert {name for name, digest in digests(scored, other).items() if digest != first[name]} == {"samples.png"}
    bent = portrait(4, kappas=(NAN, 9.0, 9.0, 9.0))
    assert {name for name, digest in digests(scored, bent).items() if digest != first[name]} == {"steps.csv"}
    told = digests(dataclasses.replace(scored, same_as="searched/0"), portrait(4))
    assert {name for name, digest in told.items() if digest != first[name]} == {"result.json"}
