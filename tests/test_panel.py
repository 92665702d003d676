"""KID and precision/recall are torch-fidelity's numbers, from one pass over the images, whatever was split how."""

import itertools

import numpy as np
import pytest
import torch

from pipeline import store
from pipeline.benchmarks import load
from pipeline.metrics.features import register_torch_fidelity
from pipeline.metrics.kid import Kid
from pipeline.metrics.precision_recall import PrecisionRecall
from pipeline.metrics.scores import METRICS
from pipeline.panel import Bench, Panel
from pipeline.registry import SpecError
from pipeline.result import TrialResult
from pipeline.scoring import finish, portions
from pipeline.shard_store import ShardStore
from pipeline.trial import TrialSpec, draw, evaluate, prepare
from tests.spied_search import Counted

KID = {"name": "kid", "subsets": 8, "subset_size": 60}
SPEC = TrialSpec(
    "digits-kde", {"name": "euler"}, {"name": "edm", "num_steps": 4}, images=240, shard_images=40, first_seed=500
)


@pytest.fixture(scope="module")
def digits():
    return load("digits-kde")


@pytest.fixture(scope="module")
def plan(digits):
    return prepare(SPEC, digits).plan


@pytest.fixture(scope="module")
def both():
    return Panel.of([KID, "precision_recall"])


def evaluated(plan, benchmark, panel, batches=None):
    batches = SPEC.batches() if batches is None else batches
    parts = [evaluate(plan, benchmark, seeds, 40, panel=panel, first_seed=500) for seeds in batches]
    return [shard for part in parts for shard in part]


def scores(panel, shards, benchmark):
    bench = Bench(benchmark)
    return {name: s for portion in portions(panel, shards) for name, s in bench.score(portion).items()}


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_they_are_what_torch_fidelity_calculates_from_the_same_images(digits, plan, both):
    import torch_fidelity

    register_torch_fidelity()
    pixels = digits.images(draw(plan, digits.denoiser(SPEC.batches()[0]), digits.shape, SPEC.batches()[0]))
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(pixels),
        input2=Images(digits.images(digits.model.images())),
        feature_extractor="digits-cnn",
        kid=True,
        kid_subsets=8,
        kid_subset_size=60,
        prc=True,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    ours = scores(both, evaluated(plan, digits, both), digits)
    assert ours["kid"].value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours["kid"].error == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)
    assert (ours["precision"].value, ours["recall"].value) == (theirs["precision"], theirs["recall"])
    assert 0 < ours["recall"].value < 1
    kid = ours["kid"]
    assert (kid.images, kid.reference_images, kid.error_kind) == (240, 1797, "spread")
    assert (kid.reference, kid.extractor) == (digits.reference_hash, digits.extractor.hash)
    assert kid.settings == {"subsets": 8, "subset_size": 60, "seed": 2020}
    assert ours["recall"].error is None


def test_the_network_and_the_extractor_see_each_image_once(digits, plan, both):
    rows = {}
    for panel in (None, both):
        counted = Counted(digits)
        shown = []
        counted.extracted = lambda images, shown=shown: shown.append(len(images)) or digits.extracted(images)
        shards = evaluated(plan, counted, panel)
        rows[panel] = counted.rows, sum(shown), sum(shard.rows for shard in shards)
    assert rows[None] == rows[both] == (240 * 4, 240, 240 * 4)


def test_neither_the_split_nor_the_order_matters(digits, plan):
    panel = Panel.of([KID | {"images": 130}, {"name": "precision_recall", "images": 90}])
    whole = evaluated(plan, digits, panel)
    expected = scores(panel, whole, digits)
    assert [expected[name].images for name in ("kid", "precision", "recall")] == [130, 90, 90]
    assert [len(shard.kept.features) for shard in whole] == [40, 40, 40, 10, 0, 0]
    for sizes in ((40,) * 6, (80, 160), (200, 40)):
        ends = [500, *itertools.accumulate(sizes, initial=500)][1:]
        parts = [range(*pair) for pair in itertools.pairwise(ends)]
        assert scores(panel, evaluated(plan, digits, panel, parts)[::-1], digits) == expected


def test_fids_own_moments_are_as_without(digits, plan, both):
    for with_it, without in zip(evaluated(plan, digits, both), evaluated(plan, digits, None), strict=True):
        assert np.array_equal(with_it.moments.scatter, without.moments.scatter)
        assert without.kept is None


def test_fewer_images_of_the_reference_are_spread_over_all(digits):
    few = torch.cat(list(digits.reference_images(100)))
    everything = torch.cat(list(digits.reference_images()))
    assert digits.reference_count == len(everything) == 1797
    assert torch.equal(few, everything[[i * 1797 // 100 for i in range(100)]])


def test_what_was_kept_is_found_again_to_the_last_bit(tmp_path, digits, plan, both):
    shards = evaluated(plan, digits, both)
    seeds = range(500, 740)
    for held in (ShardStore(tmp_path, "here"), ShardStore()):
        held.keep(plan.digest, shards)
        again = held.take(plan.digest, seeds, 40, both)
        assert scores(both, again, digits) == scores(both, shards, digits)
        assert held.take(plan.digest, seeds, 40) is not None
        assert held.take(plan.digest, seeds, 40, Panel.of([KID | {"images": 100}])) is None, "keeps fewer"
        bare = evaluated(plan, digits, None)
        held.keep(plan.digest, bare)
        assert held.take(plan.digest, seeds, 40, both) is None, "sampled without the panel"
        assert held.take(plan.digest, seeds, 40) is not None


def test_a_result_carries_them_through_json_and_is_as_before_without(digits, plan, both):
    shards = evaluated(plan, digits, both)
    plain = finish(SPEC, prepare(SPEC, digits), shards, digits)
    assert "metrics" not in plain.to_json()
    assert TrialResult.from_json(plain.to_json()) == plain
    told = TrialResult.from_json(
        plain.to_json() | {"metrics": {n: s.to_json() for n, s in scores(both, shards, digits).items()}}
    )
    assert set(told.metrics) == {"kid", "precision", "recall"}
    assert TrialResult.from_json(told.to_json()) == told


def test_kid_of_the_same_distribution_is_none_and_grows_with_distance():
    draws = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 400, 6)))
    metric = Kid(subsets=50)
    same, far = (metric.compare(draws[0], other)["kid"] for other in (draws[1], draws[2] + 0.5))
    assert same.settings["subset_size"] == 200, "half of the fewer, so that subsets differ"
    assert abs(same.value) < 3 * same.error
    assert far.value > 20 * abs(same.value)


def test_precision_is_of_samples_and_recall_of_data():
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(600, 2)))
    narrow, wide = data[:300] * 0.2, data[:300] * 5
    few, many = (PrecisionRecall().compare(part, data) for part in (narrow, wide))
    assert few["precision"].value > 0.9 > 0.5 > few["recall"].value
    assert many["recall"].value > many["precision"].value
    assert few["precision"].error is None


def test_the_record_knows_every_metric_by_name():
    assert set(store.BESIDE) == {name for metric in METRICS.names() for name in METRICS.get(metric).gives}


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (["kidd"], r"\[0\]: unknown metric, given 'kidd'.*did you mean 'kid'"),
        (["kid", {"name": "kid"}], r"\[1\]: is given twice"),
        ([3], r"\[0\]: has the wrong type"),
        ([{"subsets": 3}], r"\[0\].name: a metric needs a name"),
        ([{"name": "kid", "subset": 3}], r"\[0\].subset: unknown key.*did you mean 'subset"),
        ([{"name": "kid", "subsets": 1}], r"\[0\].subsets: is out of range"),
        ([{"name": "kid", "subset_size": 500}], r"\[0\].subset_size: there are too few images.*2 to 240"),
        ([{"name": "kid", "images": 3}], r"\[0\].images: is out of range"),
        ([{"name": "precision_recall", "neighbours": 300}], r"\[0\].neighbours: there are too few images.*1 to 239"),
        ([{"name": "precision_recall", "images": 3, "neighbours": 3}], r"\[0\].neighbours: is out of range"),
    ],
)
def test_mistakes_are_told_with_their_place(digits, metrics, told):
    with pytest.raises(SpecError, match=told) as caught:
        Panel.of(metrics).check(digits, 240)
    assert "\n" not in str(caught.value)


def test_moments_alone_are_refused_and_what_to_give_instead_is_said():
    for metric in ("kid", "precision_recall"):
        with pytest.raises(SpecError, match=r"needs images of the reference, and gmm's has none.*a folder or a zip"):
            Panel.of([metric]).check(load("gmm"), 240)
