"""The study file: what is searched, on which benchmark, with which images, beside which baselines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from pipeline import benchmarks
from pipeline.acceleration import AS_IS, Acceleration
from pipeline.benchmarks import Card
from pipeline.methods import METHODS
from pipeline.metrics.scores import METRICS
from pipeline.panel import Panel
from pipeline.registry import SpecError, build_dataclass
from pipeline.trial import TrialSpec
from search_spaces.protocol import Confirm, Constraints, Optimizer, Resources, Rungs, check_unseen
from search_spaces.space import Space

# `sigmasearch report NAME` would not know which is meant.
RESERVED = ("nfe", "tables", "geometry")


class Pair(BaseModel):
    """A solver and a schedule, as specs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    solver: dict[str, Any]
    schedule: dict[str, Any]


class Study(BaseModel):
    """A study file's content. What `identity` holds may not change under a run directory; the rest may."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)  # it names a folder
    benchmark: str
    model: str | None = None  # in place of the card's: `benchmark` says so from then on, and with it the identity
    budgets: list[int] = Field(min_length=1)
    trials: int = Field(ge=0)
    images: int = Field(ge=2)
    shard_images: int = Field(ge=1)
    first_seed: int = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=0)
    threads: int = Field(default=1, ge=1)
    resources: Resources = Resources()
    network: Acceleration = AS_IS
    optimizer: Optimizer = Optimizer()
    rungs: Rungs | None = Rungs()  # None: every trial is scored on all images
    confirm: Confirm | None = Confirm()  # None: nothing is confirmed
    constraints: Constraints = Constraints()
    metrics: list[Any] = []  # beside FID, of what is confirmed
    baselines: list[str] | Literal["all"] = "all"
    floor: Pair
    space: dict[str, Any]
    published: list[dict[str, Any]] = []

    _space: Space = PrivateAttr()
    _points: list[dict[str, Any]] = PrivateAttr()
    _rows_per_image: int = PrivateAttr()
    _panel: Panel | None = PrivateAttr()

    @field_validator("study")
    @classmethod
    def _free(cls, study: str) -> str:
        if study in RESERVED:
            raise SpecError("is the name of a report of its own (`sigmasearch report`)", given=study, allowed="another")
        return study

    @field_validator("network", mode="before")
    @classmethod
    def _run(cls, network: object) -> object:
        if not isinstance(network, Mapping):
            allowed = f"a mapping with {', '.join(field.name for field in fields(Acceleration))}"
            raise SpecError("has the wrong type", given="null" if network is None else network, allowed=allowed)
        return build_dataclass(Acceleration, network)

    @field_validator("rungs", "confirm", mode="before")
    @classmethod
    def _none(cls, given: object) -> object:
        return None if given == "none" else given

    @field_validator("metrics", mode="before")
    @classmethod
    def _listed(cls, metrics: object) -> object:
        if not isinstance(metrics, list):
            given = "null" if metrics is None else metrics
            raise SpecError("is no list of metrics", given=given, allowed=METRICS.names())
        return metrics

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: list[int]) -> list[int]:
        if budgets != sorted(set(budgets)) or budgets[0] < 1:
            raise SpecError("do not rise", given=budgets, allowed="whole numbers from 1 up, each above the one before")
        return budgets

    @field_validator("baselines", mode="before")
    @classmethod
    def _named(cls, baselines: object) -> object:
        if baselines == "all":
            return baselines
        if not isinstance(baselines, list):
            given = "null" if baselines is None else baselines
            raise SpecError("is no list of methods", given=given, allowed=["all", *METHODS.names()])
        for i, name in enumerate(baselines):
            if name not in METHODS.names():
                raise SpecError("unknown method", path=f"[{i}]", given=name, allowed=METHODS.names())
            if name in baselines[:i]:
                raise SpecError("is given twice", path=f"[{i}]", given=name)
        return baselines

    @model_validator(mode="after")
    def _parsed(self) -> Study:
        """Check every name and range that the file uses; `mistake` takes the SpecError out of pydantic's wrapping."""
        try:
            self.benchmark = benchmarks.with_model(self.benchmark, self.model)
        except SpecError as error:
            raise error.under("model") from None
        named, _ = benchmarks.parted(self.benchmark)
        is_card = named.endswith((".yaml", ".yml"))
        if not is_card and named not in benchmarks.names():
            raise SpecError("unknown benchmark", path="benchmark", given=named, allowed=benchmarks.names())
        if is_card and not Path(named).is_file():
            raise SpecError("no such benchmark card", path="benchmark", given=named)
        try:
            self.floor_spec().sampler()
        except SpecError as error:
            raise error.under("floor" if not error.path.startswith("shard_images") else "") from None
        if self.rungs is not None:
            self.rungs.check(self.images, self.shard_images)
        if self.confirm is not None:
            self.confirm.check(self.shard_images)
        confirmed = self.confirm_spec(self.floor.model_dump())
        if confirmed is not None:
            check_unseen(self.floor_spec(), confirmed)
        try:
            self._space = Space(self.space)
            fewest = self._space.check(self.benchmark)
        except SpecError as error:
            raise error.under("space") from None
        benchmark, model = benchmarks.card_of(self.benchmark), benchmarks.model_of(self.benchmark)
        self._rows_per_image = benchmarks.rows_per_image(model)
        try:
            self.network.check(model, self.resources.place)
        except SpecError as error:
            raise error.under("resources" if error.path == "device" else "network") from None
        if fewest is not None and self.budgets[-1] < fewest * self._rows_per_image:
            # A lower budget may be there for the baselines alone; below the last one every trial would be pruned.
            raise SpecError(
                "no point of the space makes so few evaluations",
                path=f"budgets[{len(self.budgets) - 1}]",
                given=self.budgets[-1],
                allowed=f"{fewest * self._rows_per_image} or more, or fewer moves in the space",
            )
        ends = benchmark.sigma_min, benchmark.sigma_max
        self._panel = self._checked_panel(benchmark, confirmed)
        self._points = []
        for i, setting in enumerate(self.published):
            try:
                self._points += self._space.points(setting, self.budgets, ends, self._rows_per_image)
            except SpecError as error:
                raise error.under(f"published[{i}]") from None
        return self

    def _checked_panel(self, card: Card, confirmed: TrialSpec | None) -> Panel | None:
        """The metrics beside FID, where there are some: they are of the confirmations' images.

        Whether the reference is one for them shows where its files are here.
        """
        if not self.metrics:
            return None
        if confirmed is None:
            message = "are measured on what is confirmed, and nothing is"
            raise SpecError(message, path="metrics", given=self.metrics, allowed="confirm: {first_seed: ...}")
        try:
            panel = Panel.of(self.metrics)
            if not benchmarks.missing(card, benchmarks.find(self.benchmark).folder):
                panel.check(benchmarks.load(self.benchmark), confirmed.images)
        except SpecError as error:
            raise SpecError(
                error.message, given=error.given, allowed=error.allowed, path=f"metrics{error.path}"
            ) from None
        return panel

    @property
    def panel(self) -> Panel | None:
        """The metrics beside FID that confirmations are measured by; None where there are none."""
        return self._panel

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes, which NFE counts: 2 of a guided network."""
        return self._rows_per_image

    @property
    def teacher_images(self) -> int:
        """How many images the teacher's rung takes; 0 where there is none."""
        return 0 if self.rungs is None else self.rungs.teacher_of(self.images)

    @property
    def rung_images(self) -> list[int]:
        """The rungs of FID, growing; the last is all of the study's images."""
        return [*([] if self.rungs is None else self.rungs.below(self.images, self.shard_images)), self.images]

    @property
    def waiting_images(self) -> int:
        """The rung where searched trials wait for the end of the search.

        It is the last one of at most a quarter of all images, or the first one where all have more.
        """
        first, *others = self.rung_images
        return max([first, *(rung for rung in others if 4 * rung <= self.images)])

    @property
    def baseline_names(self) -> list[str]:
        """The baselines to measure, by registry name."""
        return METHODS.names() if self.baselines == "all" else list(self.baselines)

    @property
    def parsed_space(self) -> Space:
        """The space as distributions."""
        return self._space

    def draw(self, suggest: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
        """The parameters of a point of the space, each as `suggest` draws it."""
        return self._space.draw(suggest)

    @property
    def published_points(self) -> list[dict[str, Any]]:
        """The published settings as parameter points, in the file's order."""
        return self._points

    def spec(self, pair: Mapping[str, Any]) -> TrialSpec:
        """A trial of this study: its benchmark and images with the given solver, schedule and afs."""
        return TrialSpec(
            benchmark=self.benchmark,
            images=self.images,
            first_seed=self.first_seed,
            shard_images=self.shard_images,
            **pair,
        )

    def floor_spec(self) -> TrialSpec:
        """The fine solve, on the trials' own images: no sampler's FID can be expected to lie below it."""
        return self.spec(self.floor.model_dump())

    def confirm_spec(self, pair: Mapping[str, Any]) -> TrialSpec | None:
        """The same on seeds that the search never sees; None where nothing is confirmed.

        Raises:
            SpecError: seeds or images that do not fit.
        """
        if self.confirm is None:
            return None
        try:
            return TrialSpec(
                benchmark=self.benchmark,
                images=self.images if self.confirm.images is None else self.confirm.images,
                first_seed=self.confirm.first_seed,
                shard_images=self.shard_images,
                **pair,
            )
        except SpecError as error:
            raise error.under("confirm") from None

    def identity(self) -> dict[str, Any]:
        """What makes two studies the same one: results under one identity may be compared and continued."""
        keys = (
            "study",
            "benchmark",
            "budgets",
            "images",
            "shard_images",
            "first_seed",
            "floor",
            "space",
            "constraints",
        )
        rungs: Any = "none"
        if self.rungs is not None:
            rungs = {"teacher": self.teacher_images, "images": self.rung_images}
            rungs |= {"slack": self.rungs.slack, "confidence": self.rungs.confidence}
        # Studies from before there was a choice are what they were.
        network = {"network": self.network.changing} if self.network.changing else {}
        return {key: self.model_dump()[key] for key in keys} | {"rungs": rungs} | network

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
