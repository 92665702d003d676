"""Precision and recall: how many samples lie where data do, and how much of the data lies where samples do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.metrics.scores import METRICS, Number
from pipeline.registry import SpecError, require

ROWS = 1000  # distances at a time: to 10,000 others they take 80 MB


@METRICS.register("precision_recall")
@dataclass(frozen=True)
class PrecisionRecall:
    """The improved ones of Kynkaanniemi et al. (2019, arXiv 1904.06991), as torch-fidelity has them, without an error.

    `neighbours`: each image stands for the ball that reaches to its k-th nearest neighbour. Both change with the
    numbers of images, so that only equal numbers compare.
    """

    images: int = 10_000
    neighbours: int = 3
    keeps: ClassVar[Literal["features"]] = "features"
    gives: ClassVar[tuple[str, ...]] = ("precision", "recall")

    def __post_init__(self) -> None:
        require(self.images >= 2, "images", self.images, "2 or more")
        most = self.images - 1
        require(1 <= self.neighbours <= most, "neighbours", self.neighbours, f"1 to {most}: fewer than the images kept")

    def check(self, images: int, reference_images: int) -> None:
        """Refuse more neighbours than there are."""
        fewest, what = min((images, "the trial's images"), (reference_images, "the reference's images"))
        if self.neighbours >= fewest:
            allowed = f"1 to {fewest - 1}: fewer than {what}"
            raise SpecError("there are too few images", path="neighbours", given=self.neighbours, allowed=allowed)

    def compare(self, features: Tensor, reference: Tensor) -> dict[str, Number]:
        """Precision and recall of features (n, d) and (m, d)."""
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

        found = prc_features_to_metric(
            features,
            reference,
            prc_neighborhood=self.neighbours,
            prc_batch_size=ROWS,
            save_cpu_ram=True,
            verbose=False,
        )
        held = {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}
        return {name: Number(value, settings={"neighbours": self.neighbours}) for name, value in held.items()}
