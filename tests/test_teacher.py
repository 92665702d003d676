"""The teacher: the fine solve of the same noise, kept to the bit, and computed anew where it is not the right one."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline import benchmarks
from pipeline.noise import noise
from pipeline.teacher import Teacher, compare, teach
from pipeline.teaching import TeacherFailedError, teach_pool
from pipeline.trial import NotFiniteError, TrialSpec, evaluate, prepare
from pipeline.worker import Failure
from tests.spied_search import Spy

FLOOR = TrialSpec("gmm", {"name": "heun"}, {"name": "edm", "num_steps": 16}, images=1200, shard_images=20)


@pytest.fixture(scope="module")
def gmm():
    return benchmarks.load("gmm")


def plan(steps, solver="heun", **spec):
    asked = TrialSpec("gmm", {"name": solver}, {"name": "edm", "num_steps": steps}, **spec)
    return prepare(asked, benchmarks.load("gmm")).plan


@pytest.fixture(scope="module")
def taught(gmm):
    return teach(plan(16), gmm, range(7, 47))[0]


def test_a_teacher_holds_what_the_plan_makes_of_these_seeds(gmm):
    fine = plan(16)
    teacher, rows = teach(fine, gmm, range(7, 47))
    assert rows == 40 * len(fine)
    assert teacher.seeds == range(7, 47)
    assert torch.equal(teacher.samples, fine.run(gmm.model.denoiser(), noise(range(7, 47), gmm.shape)).float())
    assert torch.equal(teacher.features, gmm.features(teacher.samples).float())


def test_the_distance_to_itself_is_nothing_and_it_counts_its_rows(gmm, taught):
    distance, rows = compare(plan(16), gmm, taught)
    assert set(distance.features) == set(distance.pixels) == {0.0}
    assert rows == 40 * len(plan(16))


def test_a_distance_is_of_one_image_to_the_same_noise(gmm, taught):
    coarse = plan(4)
    ours = coarse.run(gmm.model.denoiser(), noise(range(7, 47), gmm.shape))
    by_hand = list(map(math.dist, ours.flatten(1).tolist(), taught.samples.flatten(1).tolist()))
    distance, _ = compare(coarse, gmm, taught)
    assert distance.pixels == pytest.approx(by_hand, rel=1e-4)
    # The features of gmm are the samples.
    assert distance.features == pytest.approx(by_hand, rel=1e-4)
    others, _ = teach(plan(16), gmm, range(1007, 1047))
    assert compare(coarse, gmm, others)[0].mean != distance.mean


def test_a_finer_plan_ends_closer(gmm):
    fine, _ = teach(plan(64), gmm, range(7, 47))
    far, near, nearer = (compare(plan(steps, "euler"), gmm, fine)[0].mean for steps in (4, 16, 64))
    assert far > 2 * near > 4 * nearer > 0


def test_fresh_noise_is_the_images_own(gmm):
    """A stochastic plan goes the same way as its own teacher: distance 0 needs every draw to be the same."""
    churned = plan(8, churn={"s_churn": 20.0})
    teacher, _ = teach(churned, gmm, range(20))
    assert compare(churned, gmm, teacher)[0].mean == 0
    assert compare(plan(8), gmm, teacher)[0].mean > 0


def test_a_plan_that_blows_up_is_its_own_fault(gmm, taught):
    huge = prepare(TrialSpec("gmm", {"name": "heun", "alpha": 1e-300}, {"name": "edm", "num_steps": 2}), gmm).plan
    with pytest.raises(NotFiniteError):
        compare(huge, gmm, taught)
    with pytest.raises(NotFiniteError):
        teach(huge, gmm, range(4))


def test_parts_in_any_order_are_the_whole(gmm, taught):
    parts = [teach(plan(16), gmm, seeds)[0] for seeds in (range(27, 47), range(7, 27))]
    merged = Teacher.merge(parts)
    assert merged.seeds == taught.seeds
    torch.testing.assert_close(merged.samples, taught.samples, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.features, taught.features, rtol=1e-5, atol=1e-5)


# Kept ------------------------------------------------------------------------------------------------------------


def same(one, other):
    return one.seeds == other.seeds and one.samples.equal(other.samples) and one.features.equal(other.features)


def test_a_kept_teacher_is_the_same_to_the_bit(tmp_path, taught):
    taught.save(tmp_path / "teacher.safetensors", "mine")
    assert same(Teacher.load(tmp_path / "teacher.safetensors", "mine"), taught)
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.safetensors"]


def torn(file):
    file.write_bytes(file.read_bytes()[:-100])


def empty(file):
    file.write_bytes(b"")


def foreign(file):
    file.write_text("not a tensor at all")


def folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("spoil", [torn, empty, foreign, folder, lambda file: file.unlink()])
def test_what_cannot_be_read_is_no_teacher(tmp_path, taught, spoil):
    file = tmp_path / "teacher.safetensors"
    taught.save(file, "mine")
    spoil(file)
    assert Teacher.load(file, "mine") is None


def test_another_identity_is_no_teacher(tmp_path, taught):
    taught.save(tmp_path / "t", "mine")
    assert Teacher.load(tmp_path / "t", "yours") is None


# Through the pool ------------------------------------------------------------------------------------------------


def teach_spied(file, floor=FLOOR, images=1100, identity="gmm 1", spoil=None):
    pool = Spy(spoil)
    rows = teach_pool(pool, floor, images, file, identity, lambda: None)
    assert rows == pool.rows.total()
    return pool.teachers, rows


def test_a_pool_is_taught_once_and_in_parts(tmp_path):
    file = tmp_path / "teacher.safetensors"
    (teacher,), rows = teach_spied(file)
    assert teacher.seeds == range(1100)
    assert rows == 31 * 1100
    (again,), none = teach_spied(file)
    assert none == 0
    assert same(teacher, again)


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "gmm 2"},
        {"images": 1120},
        {"floor": replace(FLOOR, schedule={"name": "edm", "num_steps": 17})},
    ],
    ids=["benchmark", "images", "floor"],
)
def test_a_teacher_of_something_else_is_computed_anew(tmp_path, changes):
    file = tmp_path / "teacher.safetensors"
    teach_spied(file)
    (teacher,), rows = teach_spied(file, **changes)
    assert rows > 0
    assert len(teacher.samples) == changes.get("images", 1100)
    assert teach_spied(file, **changes)[1] == 0


def test_a_torn_file_is_mended(tmp_path):
    file = tmp_path / "teacher.safetensors"
    (first,), _ = teach_spied(file)
    torn(file)
    (second,), rows = teach_spied(file)
    assert rows == 31 * 1100
    assert same(first, second)
    assert teach_spied(file)[1] == 0


def test_without_a_file_it_is_kept_for_the_run_alone():
    assert teach_spied(None)[1] == teach_spied(None)[1] == 31 * 1100


def test_a_teacher_may_be_smaller_than_a_shard():
    floor = replace(FLOOR, shard_images=600)
    (teacher,), _ = teach_spied(None, floor, images=128)
    assert teacher.seeds == range(128)


@pytest.mark.parametrize("what", ["prepare", "teach"])
def test_a_failed_teacher_leaves_no_file(tmp_path, what):
    file = tmp_path / "teacher.safetensors"
    with pytest.raises(TeacherFailedError, match="the floor, which is the teacher, failed: boom"):
        teach_spied(file, spoil=lambda task, outcome: Failure("boom") if task.what == what else outcome)
    assert not list(tmp_path.iterdir())


def test_the_teacher_has_the_trials_own_noise(gmm):
    """Its first shard has the moments of the floor's."""
    (teacher,), _ = teach_spied(None, images=40)
    (shard,) = evaluate(plan(16), gmm, range(40))
    torch.testing.assert_close(
        teacher.features.double().mean(0), torch.from_numpy(shard.moments.mean), rtol=0, atol=1e-6
    )
