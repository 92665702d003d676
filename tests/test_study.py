"""Studies: the shipped ones, what options replace, and what makes two of them the same."""

import re

import pytest
import yaml

import search_spaces
from pipeline import yaml_file
from pipeline.registry import SpecError
from search_spaces import Study
from tests.study_files import TINY, changed


@pytest.mark.parametrize("name", search_spaces.names())
def test_a_shipped_study_can_be_run(name):
    study = search_spaces.load(name)
    assert study.study == name
    assert study.images % study.shard_images == 0
    assert study.published_points or name == "digits-grid", "a grid holds what it holds"
    for point in study.published_points:
        for parameter, value in point.items():
            distribution = study.parsed_space.distributions[parameter]
            assert distribution._contains(distribution.to_internal_repr(value))
        study.spec(study.parsed_space.assemble(point)).sampler()


def test_options_replace_what_the_file_says_and_are_checked_like_it():
    study = search_spaces.load(TINY, {"trials": 9, "workers": None})
    assert (study.trials, study.workers) == (9, 0)
    with pytest.raises(SpecError, match=r"trials: .*given -1"):
        search_spaces.load(TINY, {"trials": -1})


def test_baselines_may_be_all_or_none():
    assert search_spaces.load(TINY, {"baselines": []}).baseline_names == []
    names = search_spaces.load(TINY, {"baselines": "all"}).baseline_names
    assert {"ddim", "heun"} < set(names)


def test_a_budget_that_the_space_just_reaches_is_taken(tmp_path):
    content = changed("space/solver", {"name": "heun"})
    content["published"] = []
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content | {"budgets": [1, 3]}))  # two moves of Heun; 1 is for the baselines
    assert search_spaces.load(file).budgets == [1, 3]
    file.write_text(yaml.safe_dump(content | {"budgets": [1, 2]}))
    with pytest.raises(SpecError, match=r"budgets\[1\].*given 2; allowed: 3 or more"):
        search_spaces.load(file)


def fingerprint(place="trials", value=6):
    return Study.model_validate(changed(place, value)).fingerprint


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("study", "other"),
        ("budgets", [3, 6]),
        ("images", 400),
        ("shard_images", 40),
        ("first_seed", 1),
        ("floor/schedule/num_steps", 17),
        ("space/schedule/base_steps", 9),
        ("space/solver/tau_k/high", 2.0),
    ],
)
def test_what_changes_a_number_changes_the_fingerprint(place, value):
    assert fingerprint(place, value) != fingerprint()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("trials", 60),
        ("workers", 2),
        ("threads", 2),
        ("optimizer/seed", 5),
        ("baselines", ["ddim"]),
        ("published", []),
    ],
)
def test_what_only_adds_to_a_study_leaves_its_fingerprint(place, value):
    assert fingerprint(place, value) == fingerprint()


def test_the_order_of_keys_leaves_the_fingerprint():
    content = yaml_file.read(TINY)
    turned = dict(reversed(content.items())) | {"space": dict(reversed(content["space"].items()))}
    assert Study.model_validate(turned).fingerprint == fingerprint()
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint())
