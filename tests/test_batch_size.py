"""Memory that runs out: the network is shown fewer images at once, and nothing else changes."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import batch_size
from pipeline.batch_size import BatchSize, FittingDenoiser
from pipeline.benchmarks import load
from pipeline.cluster import InProcessPool, TellingPool
from pipeline.denoiser import BatchDenoiser, Meter
from pipeline.metrics.features import Identity
from pipeline.models.gmm import GaussianMixture
from pipeline.noise import noise
from pipeline.portrait import Sitting
from pipeline.teacher import compare, teach
from pipeline.trial import TrialSpec, evaluate, prepare
from pipeline.worker import Compared, Evaluated, Task, Taught

SPEC = TrialSpec("gmm", {"name": "heun"}, {"name": "edm", "num_steps": 5}, images=40, shard_images=20)
SEEDS = range(40)


def short(count):
    return torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {count} images")


class Limited:
    """A function of images that has room for so many, and says how many it was asked for each time."""

    def __init__(self, room, error=short):
        self.room, self.error, self.asked = room, error, []

    def __call__(self, images):
        self.asked.append(len(images))
        if len(images) > self.room:
            raise self.error(len(images))
        return 2 * images


@pytest.mark.parametrize("room", [1, 2, 3, 7, 16, 99])
@pytest.mark.parametrize("count", [1, 7, 16, 50])
def test_every_image_is_answered_once_and_in_order(room, count):
    images, function, size = torch.arange(count).float(), Limited(room), BatchSize()
    answer = size.each(lambda part: function(images[part]), count, "cpu")
    assert answer.tolist() == (2 * images).tolist()
    answered = [asked for asked in function.asked if asked <= room]
    assert sum(answered) == count
    # Halving: more than half of what there is room for is used.
    assert size.limit is None if count <= room else room / 2 < size.limit + 0.5 <= room + 0.5


def test_the_size_that_was_found_is_kept():
    function, size, images = Limited(10), BatchSize(), torch.zeros(64)
    size.each(lambda part: function(images[part]), 64, "cpu")
    assert size.limit == 8
    function.asked.clear()
    size.each(lambda part: function(images[part]), 64, "cpu")
    assert function.asked == [8] * 8
    assert size.each(lambda part: function(images[part][:5]), 5, "cpu").shape == (5,)
    assert size.limit == 8


def test_what_was_answered_is_kept_where_memory_becomes_less_on_the_way(monkeypatch):
    released = []
    monkeypatch.setattr(batch_size, "release", released.append)
    images, function, size = torch.arange(20.0), Limited(8), BatchSize()

    def neighbour(part):
        function.room = 8 if part.start == 0 else 3  # somebody else takes the rest
        return function(images[part])

    assert size.each(neighbour, 20, "cuda:1").tolist() == (2 * images).tolist()
    assert function.asked == [20, 10, 5, 5, 3, 3, 3, 3, 3]
    assert released == ["cuda:1"] * 3


def test_nothing_of_the_failed_attempt_is_held_while_the_next_is_made():
    held = []

    def function(part):
        alive = [reference() for reference in held if reference() is not None]
        assert not alive, "the tensors of the attempt before are still there"
        made = torch.zeros(part.stop - part.start)
        held.append(weakref.ref(made))
        if len(made) > 2:
            raise short(len(made))
        return torch.zeros(len(made))

    assert BatchSize().each(function, 16, "cpu").shape == (16,)


@pytest.mark.parametrize(
    "error",
    [
        short,
        lambda count: MemoryError(),
        lambda count: RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: "
                                   "you tried to allocate 1 bytes. Error code 12 (Cannot allocate memory)"),
        lambda count: RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, other allocations: 1 KB)"),
        lambda count: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "python", "cpu", "mps", "cublas"],
)  # fmt: skip
def test_memory_runs_out_in_several_words(error):
    function, size = Limited(3, error), BatchSize()
    assert size.each(lambda part: function(torch.zeros(12)[part]), 12, "cpu").shape == (12,)
    assert size.limit == 3


def test_an_error_about_the_capture_of_a_graph_is_memory_where_that_was_why():
    def function(part):
        if part.stop - part.start > 4:
            try:
                raise short(part.stop - part.start)
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        return torch.zeros(part.stop - part.start)

    assert BatchSize().each(function, 8, "cpu").shape == (8,)


def test_other_errors_and_one_image_without_room_are_told():
    size = BatchSize()
    with pytest.raises(RuntimeError, match="shapes"):
        size.each(lambda part: Limited(1, lambda count: RuntimeError("shapes"))(torch.zeros(4)[part]), 4, "cpu")
    assert size.limit is None
    with pytest.raises(torch.OutOfMemoryError):
        size.each(lambda part: Limited(0)(torch.zeros(4)[part]), 4, "cpu")
    assert size.limit == 1


def test_a_part_of_a_batch_is_denoised_for_its_own_seeds():
    asked = []

    def make(seeds):
        def denoise(x, sigma):
            asked.append(seeds)
            if len(x) > 2:
                raise short(len(x))
            return x + torch.tensor([float(seed) for seed in seeds]).reshape(-1, 1, 1, 1)

        return denoise

    meter = Meter(FittingDenoiser(BatchDenoiser(make, range(10, 15), 2), BatchSize()))
    answer = meter(torch.zeros(5, 1, 1, 1), 1.0)
    assert answer.flatten().tolist() == [10, 11, 12, 13, 14]
    assert asked == [range(10, 15), range(10, 13), range(10, 12), range(12, 14), range(14, 15)]
    assert (meter.rows, meter.calls) == (10, 1)
    # A part that a method asks for itself is cut in the same way.
    assert meter.part(1, 4)(torch.zeros(3, 1, 1, 1), 1.0).flatten().tolist() == [11, 12, 13]
    assert meter.rows == 16


# A whole evaluation ----------------------------------------------------------------------------------------------


class Cramped(GaussianMixture):
    """The mixture of gmm on a machine whose memory takes few images at once."""

    room = 7

    def denoiser(self, device="cpu", dtype=torch.float64):
        whole = super().denoiser(device, dtype)

        def denoise(x, sigma):
            if len(x) > self.room:
                raise short(len(x))
            return whole(x, sigma)

        return denoise


class Narrow(Identity):
    """The pixels themselves, of few images at once."""

    room = 3

    def __call__(self, images):
        if len(images) > self.room:
            raise short(len(images))
        return super().__call__(images)


@pytest.fixture(scope="module")
def gmm():
    generator = np.random.default_rng(0)
    mixture = {"weights": [1.0, 2.0], "means": generator.normal(size=(2, 48)), "stds": [0.1, 0.3], "shape": (3, 4, 4)}
    held = load("gmm")
    return replace(held, model=GaussianMixture(**mixture)), replace(held, model=Cramped(**mixture), extractor=Narrow())


@pytest.fixture(scope="module")
def plan(gmm):
    return prepare(SPEC, gmm[0]).plan


def test_a_shard_is_the_same_with_less_memory(gmm, plan):
    roomy, cramped = gmm
    expected, found = (evaluate(plan, each, SEEDS, 20) for each in (roomy, cramped))
    for one, other in zip(expected, found, strict=True):
        assert one.seeds == other.seeds
        np.testing.assert_allclose(other.moments.mean, one.moments.mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(other.moments.scatter, one.moments.scatter, rtol=1e-5, atol=1e-5)
        # A failed attempt is no evaluation: NFE is the plan's.
        assert other.rows == one.rows == 20 * len(plan)
    assert roomy.images_at_once is None
    assert cramped.images_at_once == 3


def test_a_portrait_sees_every_image_once(gmm, plan):
    portraits = []
    for each in gmm:
        sitting = Sitting()
        evaluate(plan, replace(each), SEEDS, 20, sitting)
        portraits.append(sitting.portrait)
    assert portraits[1].sigmas == portraits[0].sigmas
    assert portraits[1].images == 40
    np.testing.assert_allclose(portraits[1].etas, portraits[0].etas, rtol=1e-4)


def test_teacher_and_comparison_fit_too(gmm, plan):
    (teacher, rows), (same, _) = (teach(plan, each, SEEDS) for each in gmm)
    torch.testing.assert_close(same.samples, teacher.samples, rtol=1e-5, atol=1e-5)
    assert rows == 40 * len(plan)
    distance, _ = compare(plan, gmm[1], teacher)
    assert max(distance.features) < 1e-4


def test_what_calibrates_fits_too(gmm):
    spec = replace(SPEC, solver={"name": "switch", "tau_k": 0.01, "calibration_images": 16})
    expected, found = (prepare(spec, replace(each)) for each in gmm)
    assert found.plan.sigmas == expected.plan.sigmas
    assert found.solver == expected.solver
    assert found.setup_rows == expected.setup_rows


def test_a_worker_says_how_many_images_it_has_room_for_and_the_pool_tells_it_once(gmm, plan):
    told = []
    inner = InProcessPool("gmm")
    inner._worker.benchmark = replace(gmm[1])
    pool = TellingPool(inner, told.append)
    answers = []
    for i, what in enumerate(("teach", "evaluate", "evaluate")):
        pool.submit(Task("a", (0, i), SPEC, plan, SEEDS, what))
        answers.append(pool.next(1.0)[1])
    pool.share(answers[0].teacher)
    pool.submit(Task("a", (0, 3), SPEC, plan, SEEDS, "compare"))
    answers.append(pool.next(1.0)[1])
    assert [type(answer) for answer in answers] == [Taught, Evaluated, Evaluated, Compared]
    assert {answer.images_at_once for answer in answers} == {3}
    assert told == ["memory ran out: a worker goes on with 3 images at once; nothing is lost, images are the same"]
    pool.close()


def test_with_room_enough_there_is_nothing_to_say(plan):
    told = []
    pool = TellingPool(InProcessPool("gmm"), told.append)
    pool.submit(Task("a", (0, 0), SPEC, prepare(SPEC, load("gmm")).plan, SEEDS, "evaluate"))
    assert pool.next(1.0)[1].images_at_once is None
    assert pool.next(1.0) is None
    assert not told
    pool.close()


def test_noise_is_the_same_in_float64():
    """What lets the state be either: one draw, rounded once."""
    assert torch.equal(noise(SEEDS, (1, 2, 2)), noise(SEEDS, (1, 2, 2), torch.float64).float())
