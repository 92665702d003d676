"""The class of an image: a function of its seed alone, as its noise is."""

from __future__ import annotations

import functools

import numpy as np

# The stream of a seed that its class is drawn from: the last one, far from those of its noise.
CLASS_STREAM = 2**64 - 1


# A search asks for the same seeds in each trial, and a generator takes longer to make than to draw from.
@functools.lru_cache(maxsize=1024)
def drawn_classes(seeds: range, classes: int) -> tuple[int, ...]:
    """A class for each seed, from 0 to `classes` - 1, each as likely."""
    generators = (np.random.Generator(np.random.Philox(key=seed, counter=CLASS_STREAM << 192)) for seed in seeds)
    return tuple(int(generator.integers(classes)) for generator in generators)
