"""How a study goes about it: what its file may say, what stands where it says nothing, and every refusal in a line."""

import pytest
import yaml

import search_spaces
from pipeline.registry import SpecError
from search_spaces.protocol import Confirm, Rungs
from tests.conftest import SMALL


@pytest.fixture
def load(tmp_path):
    def read(**changes):
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(SMALL | changes))
        return search_spaces.load(file)

    return read


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        # The small study has 200 images in shards of 20.
        ({"rungs": {"images": [40, 40]}}, "rungs.images[1]: does not grow, given 40; allowed: more than 40"),
        ({"rungs": {"images": [100, 40]}}, "rungs.images[1]: does not grow, given 40; allowed: more than 100"),
        ({"rungs": {"images": [0]}}, "rungs.images[0]: does not grow, given 0; allowed: more than 0"),
        ({"rungs": {"images": [40, 200]}}, "rungs.images[1]: does not grow, given 200; allowed: less than 200"),
        ({"rungs": {"images": [50]}}, "rungs.images[0]: is not made of whole shards, given 50; allowed: 40 or more, a"),
        ({"rungs": {"images": [20]}}, "rungs.images[0]: is not made of whole shards, given 20; allowed: 40 or more, a"),
        ({"rungs": {"images": ["40"]}}, "rungs.images[0]"),
        ({"rungs": {"images": 40}}, "rungs.images"),
        ({"rungs": {"teacher": 201}}, "rungs.teacher: is no rung, given 201; allowed: 0, or 2 to 200"),
        ({"rungs": {"teacher": 1}}, "rungs.teacher: is no rung, given 1; allowed: 0, or 2 to 200"),
        ({"rungs": {"teacher": -1}}, "rungs.teacher"),
        ({"rungs": {"slack": 0.99}}, "rungs.slack"),
        ({"rungs": {"slack": float("inf")}}, "rungs.slack"),
        ({"rungs": {"confidence": 0.4}}, "rungs.confidence"),
        ({"rungs": {"confidence": 1.0}}, "rungs.confidence"),
        ({"rungs": {"imagse": [40]}}, "did you mean 'images'"),
        ({"rungs": "nine"}, "rungs"),
        ({"confirm": {"first_seed": 100}}, "the search sees these seeds, given 100; allowed: 200 or more"),
        ({"confirm": {"first_seed": 0}}, "the search sees these seeds, given 0; allowed: 200 or more"),
        ({"confirm": {"first_seed": 199, "images": 40}}, "confirm.first_seed: the search sees these seeds"),
        (
            {"first_seed": 1000, "confirm": {"first_seed": 961, "images": 40}},
            "confirm.first_seed: the search sees these seeds, given 961; allowed: 960 or less, 1200 or more",
        ),
        ({"confirm": {"first_seed": -1}}, "confirm.first_seed"),
        ({"confirm": {"images": 50}}, "confirm.images: is not made of whole shards, given 50; allowed: 40 or more"),
        ({"confirm": {"images": 20}}, "confirm.images"),
        ({"confirm": {"image": 40}}, "did you mean 'images'"),
        ({"confirm": {"first_seed": 2**40}}, "confirm.first_seed: is out of range"),
        ({"constraints": {"setup_nfe": -1.0}}, "constraints.setup_nfe"),
        ({"constraints": {"latency_ms": 0.0}}, "constraints.latency_ms"),
        ({"constraints": {"latency": 5.0}}, "did you mean 'latency_ms'"),
        ({"optimizer": {"name": "bayes"}}, "optimizer.name"),
        ({"optimizer": {"name": "nsga"}}, "did you mean 'nsga2'"),
        ({"optimizer": {"stopped": "prune"}}, "did you mean 'pruned'"),
        ({"optimizer": {"startup": -1}}, "optimizer.startup"),
        ({"optimizer": {"seeds": 1}}, "did you mean 'seed'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_where_and_what_is_allowed(load, changes, line):
    with pytest.raises(SpecError) as caught:
        load(**changes)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.file.endswith("mine.yaml")
    assert caught.value.path


@pytest.mark.parametrize(
    "changes",
    [
        {"rungs": {"images": [40, 180], "teacher": 200}},
        {"rungs": {"images": [], "teacher": 0}},
        {"confirm": {"first_seed": 200}},
        {"first_seed": 1000, "confirm": {"first_seed": 960, "images": 40}},
        {"confirm": {"images": 40}},
        {"constraints": {"setup_nfe": 0.0, "latency_ms": 0.1}},
    ],
)
def test_what_just_fits_is_taken(load, changes):
    for key, value in changes.items():
        held = load(**changes).model_dump()[key]
        assert held == value or {name: held[name] for name in value} == value


def test_what_stands_where_the_file_says_nothing(load):
    study = load(images=8000, shard_images=400)
    assert study.rung_images == [4000, 8000], "a tenth and a fifth are two and four shards: their error says nothing"
    assert study.teacher_images == 128
    assert (study.rungs.slack, study.rungs.confidence, study.optimizer.stopped) == (1.15, 0.8, "complete")
    assert load(images=8000, shard_images=100).rung_images == [800, 1600, 4000, 8000]
    assert load(images=100, shard_images=20).teacher_images == 100
    assert load(images=100, shard_images=20).rung_images == [100]
    confirmed = study.confirm_spec(study.floor.model_dump())
    assert (confirmed.first_seed, confirmed.images, confirmed.shard_images) == (1_000_000, 8000, 400)


def test_rungs_and_confirmation_can_be_done_without(load):
    study = load(rungs="none", confirm="none")
    assert (study.teacher_images, study.rung_images) == (0, [200])
    assert study.confirm_spec(study.floor.model_dump()) is None


def test_rungs_as_given_are_the_studys(load):
    study = load(rungs={"teacher": 64, "images": [40, 120]})
    assert (study.teacher_images, study.rung_images) == (64, [40, 120, 200])


@pytest.mark.parametrize("images", [5, 200, 8000, 50_000])
def test_the_default_rungs_are_always_good_ones(images):
    for shards in (5, 10, 17, 50, 100):
        size = max(1, images // shards)
        total = size * shards
        rungs = Rungs(images=Rungs().below(total, size))
        rungs.check(total, size)
        assert all(rung >= 5 * size for rung in rungs.images)


def test_confirmation_beyond_the_seeds_of_any_study_is_the_default():
    assert Confirm().first_seed >= 10 * 50_000
