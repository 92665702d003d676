"""How a study goes about it: who proposes trials, what they climb, what they may cost, what is confirmed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.registry import SpecError
from pipeline.trial import TrialSpec

TEACHER_IMAGES = 128
RUNGS = (0.1, 0.2, 0.5)  # of the study's images
LEAST_SHARDS = 5  # with fewer, the error of a rung says nothing


class Optimizer(BaseModel):
    """Which of Optuna's samplers proposes trials, its seed, and what it is told of a trial that a rung stopped."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Literal["tpe", "gp", "nsga2", "qmc", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    # Random trials before tpe and gp model anything, beside the published settings, which lie in one corner of the
    # space.
    startup: int = Field(default=10, ge=0)
    stopped: Literal["pruned", "complete", "constraint"] = "complete"


class Rungs(BaseModel):
    """What a trial climbs before it is scored on all images; each rung may stop it.

    `teacher`: images whose distance to the fine solve is the first rung, 0 for none. `images`: the rungs of FID between
    that and the study's own number of images; None for a tenth, a fifth and a half of it. `slack` and `confidence` say
    when a trial is stopped, see `pipeline.pruning.Field`. The defaults are those that replays of digits-kde favour.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    teacher: int | None = Field(default=None, ge=0)
    images: list[int] | None = None
    slack: float = Field(default=1.15, ge=1, allow_inf_nan=False)
    confidence: float = Field(default=0.8, ge=0.5, lt=1)

    def teacher_of(self, images: int) -> int:
        """The images of the teacher's rung in a study of so many."""
        return min(TEACHER_IMAGES, images) if self.teacher is None else self.teacher

    def below(self, images: int, shard_images: int) -> list[int]:
        """The rungs of FID below a study's own images."""
        if self.images is not None:
            return list(self.images)
        wanted = (round(share * images / shard_images) for share in RUNGS)
        return [shards * shard_images for shards in wanted if LEAST_SHARDS <= shards < images // shard_images]

    def check(self, images: int, shard_images: int) -> None:
        """Raise a `SpecError` where the rungs do not grow, or are not made of the study's shards."""
        if self.teacher is not None and (self.teacher == 1 or self.teacher > images):
            allowed = f"0, or 2 to {images}, the study's images"
            raise SpecError("is no rung", path="rungs.teacher", given=self.teacher, allowed=allowed)
        before = 0
        for i, count in enumerate(self.images or []):
            where = f"rungs.images[{i}]"
            if count <= before:
                raise SpecError("does not grow", path=where, given=count, allowed=f"more than {before}")
            if count >= images:
                allowed = f"less than {images}, the study's images, which are the last rung"
                raise SpecError("does not grow", path=where, given=count, allowed=allowed)
            if count < 2 * shard_images or count % shard_images:
                allowed = f"{2 * shard_images} or more, a multiple of shard_images"
                raise SpecError("is not made of whole shards", path=where, given=count, allowed=allowed)
            before = count


class Confirm(BaseModel):
    """The seeds that the front and the best baselines are scored on again; `images` as the study's where not given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    first_seed: int = Field(default=1_000_000, ge=0)
    images: int | None = None

    def check(self, shard_images: int) -> None:
        """Raise a `SpecError` where the images are not made of the study's shards."""
        if self.images is not None and (self.images < 2 * shard_images or self.images % shard_images):
            allowed = f"{2 * shard_images} or more, a multiple of shard_images"
            raise SpecError("is not made of whole shards", path="confirm.images", given=self.images, allowed=allowed)


class Constraints(BaseModel):
    """What a trial may cost beside NFE: set-up NFE, and milliseconds of one worker an image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    setup_nfe: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class Resources(BaseModel):
    """What each worker is given of a machine: processors (as many as its threads where not given) and GPUs, or parts.

    `device`: where its images are sampled; with auto on one of its GPUs, or the CPU where it is given none.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    cpus: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d{1,4})?)$")

    @property
    def place(self) -> str:
        """The device by name."""
        return self.device if self.device != "auto" else "cuda" if self.gpus else "cpu"

    @field_validator("gpus")
    @classmethod
    def _whole(cls, given: float) -> float:
        if given > 1 and given != int(given):
            raise SpecError("above one they are whole", given=given, allowed="0 to 1, or a whole number")
        return given


def check_unseen(searched: TrialSpec, confirmed: TrialSpec) -> None:
    """Raise a `SpecError` where the search sees seeds that the confirmation is to use."""
    ours, theirs = searched.first_seed, confirmed.first_seed
    if ours < theirs + confirmed.images and theirs < ours + searched.images:
        allowed = f"{ours + searched.images} or more"
        if ours >= confirmed.images:
            allowed = f"{ours - confirmed.images} or less, {allowed}"
        raise SpecError("the search sees these seeds", path="confirm.first_seed", given=theirs, allowed=allowed)
