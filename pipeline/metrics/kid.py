"""KID: how far features of samples are from those of data by a polynomial kernel, without FID's bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.metrics.scores import METRICS, Number
from pipeline.registry import SpecError, require


@METRICS.register("kid")
@dataclass(frozen=True)
class Kid:
    """The squared MMD of Binkowski et al. (2018, arXiv 1801.01401), kernel (x . y / d + 1)^3, as torch-fidelity has it.

    The mean over `subsets` pairs of random subsets, drawn by `seed`; its error is their standard deviation: the spread
    of a KID of `subset_size` images, not the standard error of the mean. `subset_size` None: 1000, or half of the
    images where there are fewer than 2000 of either.
    """

    images: int = 10_000
    subsets: int = 100
    subset_size: int | None = None
    seed: int = 2020  # torch-fidelity's own
    keeps: ClassVar[Literal["features"]] = "features"
    gives: ClassVar[tuple[str, ...]] = ("kid",)

    def __post_init__(self) -> None:
        require(self.images >= 4, "images", self.images, "4 or more")
        require(self.subsets >= 2, "subsets", self.subsets, "2 or more")
        require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        size = self.subset_size
        require(size is None or 2 <= size <= self.images, "subset_size", size, f"2 to {self.images}, the images kept")

    def check(self, images: int, reference_images: int) -> None:
        """Refuse subsets of more images than there are."""
        fewest, what = min((images, "the trial's images"), (reference_images, "the reference's images"))
        if self._size(images, reference_images) > fewest or fewest < 4:
            given = fewest if self.subset_size is None else self.subset_size
            allowed = f"2 to {fewest}, {what}" if fewest >= 4 else f"4 or more of {what}"
            raise SpecError("there are too few images", path="subset_size", given=given, allowed=allowed)

    def compare(self, features: Tensor, reference: Tensor) -> dict[str, Number]:
        """KID of features (n, d) and (m, d)."""
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

        size = self._size(len(features), len(reference))
        found = kid_features_to_metric(
            features,
            reference,
            kid_subsets=self.subsets,
            kid_subset_size=size,
            rng_seed=self.seed,
            verbose=False,
        )
        settings = {"subsets": self.subsets, "subset_size": size, "seed": self.seed}
        return {"kid": Number(found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD], "spread", settings)}

    def _size(self, images: int, reference_images: int) -> int:
        return self.subset_size or min(1000, images // 2, reference_images // 2)
