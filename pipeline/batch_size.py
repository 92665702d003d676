"""How many images a network is shown at once: all of a batch, or what memory has room for, found by halving."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser, part_of
from pipeline.device import out_of_memory, release


class BatchSize:
    """The most images at once that memory has had room for; None while it has had room for all.

    It only falls: a worker that has found its size keeps it.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def each(self, function: Callable[[slice], Tensor], count: int, device: str | torch.device) -> Tensor:
        """What `function` gives for images 0 ... count - 1, asked in parts that fit, joined in order -> (count, ...).

        A part that memory has no room for is asked again in halves; what was answered before is kept.

        Raises:
            torch.OutOfMemoryError, MemoryError, RuntimeError: there is no room for one image.
        """
        answers: list[Tensor] = []
        done = 0
        while done < count or not answers:
            size = count - done if self.limit is None else min(self.limit, count - done)
            answer = self._attempt(function, slice(done, done + size), device)
            if answer is None:
                self.limit = (size + 1) // 2
            else:
                answers.append(answer)
                done += size
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    @staticmethod
    def _attempt(function: Callable[[slice], Tensor], part: slice, device: str | torch.device) -> Tensor | None:
        try:
            return function(part)
        except Exception as error:
            if part.stop - part.start <= 1 or not out_of_memory(error):
                raise
        # Out here the error is gone, and with it the frames that held the failed attempt's tensors.
        release(device)
        return None


class FittingDenoiser:
    """D of a batch whose network sees as many images at once as `size` says; the state of all of them stays whole.

    An evaluation is cut rather than the batch, so that no step is taken twice and whoever watches sees every image. A
    failed attempt is no evaluation: a meter around this counts each image once. `size` is shared by all that run out of
    the same memory.
    """

    def __init__(self, denoise: Denoiser, size: BatchSize) -> None:
        self._denoise, self._size = denoise, size
        self._parts: dict[tuple[int, int], Denoiser] = {}
        self.rows_per_image: int = getattr(denoise, "rows_per_image", 1)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        count = len(x)

        def denoised(part: slice) -> Tensor:
            if part.stop - part.start == count:
                return self._denoise(x, sigma)
            return self._of(part)(x[part], sigma)

        return self._size.each(denoised, count, x.device)

    def part(self, start: int, stop: int) -> FittingDenoiser:
        """D for images start ... stop - 1 of the batch."""
        return FittingDenoiser(part_of(self._denoise, start, stop), self._size)

    def _of(self, part: slice) -> Denoiser:
        key = part.start, part.stop
        if key not in self._parts:
            self._parts[key] = part_of(self._denoise, *key)
        return self._parts[key]
