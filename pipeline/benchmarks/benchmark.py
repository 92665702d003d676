"""What samples are measured on: a model, the features, the reference; and where, and how, its network is run."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.acceleration import AS_IS, Acceleration, Accelerator
from pipeline.batch_size import BatchSize, FittingDenoiser
from pipeline.benchmarks.cards import Card
from pipeline.denoiser import BatchDenoiser, Denoiser, HostDenoiser
from pipeline.device import chosen
from pipeline.metrics.distances import Reference
from pipeline.metrics.features import Extractor, name_of, quantise
from pipeline.metrics.image_files import ROWS
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import ImageReference, StoredReference
from pipeline.models import Conditional, Model


@runtime_checkable
class HasImages(Protocol):
    """A model that knows its data."""

    def images(self) -> Tensor:
        """The data, float32 in [-1, 1] (N, C, H, W)."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A model of latents, or of pixels that are decoded to themselves."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One image as `decode` gives it: (C, H, W)."""
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Samples as images in data units."""
        ...


@runtime_checkable
class HasMoments(Protocol):
    """A model whose images have a known mean (d,) and covariance (d, d), flattened, float64."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


def rows_per_image(model: Model) -> int:
    """Network rows that an evaluation of an image takes; a model that does not say so is built and asked."""
    told = getattr(model, "rows_per_image", None)
    return int(getattr(model.denoiser("cpu"), "rows_per_image", 1) if told is None else told)


@dataclass(frozen=True)
class Benchmark:
    """A card made real: `model` and `extractor` are built, the reference is computed when it is first asked for.

    `device` is where its images are sampled, `acceleration` how its network is run there. `file` is the reference that
    the card names by a path. `own_model`: the model is the card's, no other in its place.
    """

    spec: Card
    model: Model
    extractor: Extractor
    device: str = "cpu"
    file: StoredReference | ImageReference | None = None
    own_model: bool = True
    acceleration: Acceleration = AS_IS

    @functools.cached_property
    def name(self) -> str:
        """The card's name, with the first digits of the model's hash where it is not the card's own."""
        return self.spec.name if self.own_model else f"{self.spec.name}@{self.model_hash[:8]}"

    @property
    def version(self) -> int:
        """The card's version: results of different versions are not compared."""
        return self.spec.version

    @property
    def card(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return self.spec.model_dump(mode="json", exclude_unset=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        return self.model.shape

    @property
    def sigma_min(self) -> float:
        """The smallest sigma that a schedule uses before 0, in data units."""
        return self.spec.sigma_min

    @property
    def sigma_max(self) -> float:
        """The sigma that sampling starts from, in data units."""
        return self.spec.sigma_max

    @functools.cached_property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes: 2 of a guided network. NFE counts them."""
        return rows_per_image(self.model)

    def placed(self, device: str, acceleration: Acceleration) -> Benchmark:
        """The same, its images sampled on this device (see `pipeline.device.chosen`), its network run so.

        Raises:
            SpecError: there is no such device here, or the network cannot be run so there.
        """
        where = chosen(device, network=self.has_network)
        acceleration.check(self.model, where)
        return replace(self, device=where, acceleration=acceleration)

    @property
    def has_network(self) -> bool:
        """Whether the model is a network, which can be run in several ways, and no closed form."""
        return bool(getattr(self.model, "accelerations", ()))

    @property
    def images_at_once(self) -> int | None:
        """The most images that the device's memory has had room for; None while it has had room for every batch."""
        limits = [size.limit for size in self._sizes.values() if size.limit is not None]
        return min(limits, default=None)

    def denoiser(self, seeds: range, device: str | None = None) -> Denoiser:
        """D(x; sigma) for the images of these seeds, in this order, as they are sampled.

        With `device` it is the bare network's there. It is shown as many images at once as memory has room for.
        """
        model, where = self.model, device or self.device
        run: Callable[[Denoiser], Denoiser] = self._accelerator if device is None else lambda denoise: denoise
        made: Denoiser
        if isinstance(model, Conditional):
            made = BatchDenoiser(lambda part: run(model.denoiser_for(part, where)), seeds, self.rows_per_image)
        else:
            made = run(model.denoiser(where))
        return FittingDenoiser(made, self._sizes["network", where])

    def calibration_denoiser(self, seeds: range) -> Denoiser:
        """D for these seeds as schedules and solvers learn from it: the bare network, for states on the CPU."""
        bare = self.denoiser(seeds, self.calibration_device)
        return bare if self.calibration_device == "cpu" else HostDenoiser(bare, self.calibration_device)

    @property
    def calibration_device(self) -> str:
        """Where a network is asked while it is learned from: where images are sampled.

        On the CPU it may take a thousand times as long; a closed form does not, and is asked there, alike everywhere.
        """
        return self.device if self.has_network else "cpu"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One image as an extractor is shown it: (C, H, W)."""
        return self.model.image_shape if isinstance(self.model, Decodes) else self.model.shape

    def images(self, samples: Tensor) -> Tensor:
        """Samples in data units as extractors are shown them: decoded from latents, quantised where the card says so.

        (B, C, H, W) -> (B, C', H', W').
        """
        return self._fitted("images", self._images, samples)

    def features(self, samples: Tensor) -> Tensor:
        """Features of samples in data units (B, C, H, W) -> (B, d)."""
        return self.extracted(self.images(samples))

    def extracted(self, images: Tensor, extractor: Extractor | None = None) -> Tensor:
        """What the benchmark's extractor, or another one, gives of images as `images` gives them -> (B, d)."""
        other = extractor or self.extractor
        return self._fitted(name_of(other), other, images)

    def _images(self, samples: Tensor) -> Tensor:
        images = self.model.decode(samples) if isinstance(self.model, Decodes) else samples
        return quantise(images) if self.spec.quantise else images

    def _fitted(self, name: str, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """What a function of images gives, of as many at once as memory has room for."""
        size = self._sizes[name, str(batch.device)]
        return size.each(lambda part: function(batch[part]), len(batch), batch.device)

    @functools.cached_property
    def _accelerator(self) -> Accelerator:
        return Accelerator(self.acceleration)

    @functools.cached_property
    def _sizes(self) -> defaultdict[tuple[str, str], BatchSize]:
        """What fits, of each that asks for memory of its own and on each device."""
        return defaultdict(BatchSize)

    @functools.cached_property
    def reference(self) -> Reference:
        """What samples are compared with."""
        if self.file is not None:
            return self.file.reference
        if self.spec.reference == "exact" and isinstance(self.model, HasMoments):
            return Reference(self.model.mean.numpy(), self.model.covariance.numpy())
        if self.spec.reference == "data" and isinstance(self.model, HasImages):
            return Reference.of(Moments.of(self.features(self.model.images())))
        raise AssertionError("checked by load")

    @property
    def reference_count(self) -> int:
        """How many images the reference is made of, where they are at hand; 0 where it is moments alone."""
        if isinstance(self.file, ImageReference):
            return len(self.file.images.names)
        return len(self.model.images()) if self.spec.reference == "data" and isinstance(self.model, HasImages) else 0

    def reference_images(self, count: int | None = None) -> Iterator[Tensor]:
        """Its images in batches on `device`, as extractors are shown them; `count` spread evenly over all of them."""
        if isinstance(self.file, ImageReference):
            files = self.file.images
            yield from (batch.to(self.device) for batch in files.batches(files.chosen(count)))
        elif isinstance(self.model, HasImages):
            held = self.model.images()
            kept = held if count is None else held[[i * len(held) // count for i in range(count)]]
            yield from (self.images(part.to(self.device)) for part in torch.split(kept, ROWS))

    @property
    def reference_hash(self) -> str:
        """SHA-256 of the reference's float64 bytes, 64 hex digits; the first 16 are enough to show."""
        return self.reference.hash

    @property
    def reference_sha256(self) -> str | None:
        """SHA-256 of the file that the card names as its reference, 64 hex digits; None where it names none."""
        return None if self.file is None else self.file.sha256

    @property
    def model_hash(self) -> str:
        """SHA-256 of what decides D, 64 hex digits."""
        return self.model.hash
