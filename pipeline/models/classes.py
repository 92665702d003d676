"""The class of an image where none is given: a function of the image's seed alone, as its noise is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The stream of a seed that its class is drawn from: the last one, far from those of its noise.
CLASS_STREAM = 2**64 - 1


def drawn_classes(seeds: Sequence[int] | range, classes: int) -> list[int]:
    """A class for each seed, uniform and a function of the seed alone, as noise is."""
    generators = (np.random.Generator(np.random.Philox(key=s, counter=CLASS_STREAM << 192)) for s in seeds)
    return [int(generator.integers(classes)) for generator in generators]
