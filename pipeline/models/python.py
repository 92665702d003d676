"""A model of the user's own: a Python function that is named in a card, and gives back a network."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.models import MODELS
from pipeline.registry import SpecError

FORM = "package.module:function"


@MODELS.register("python")
@dataclass(frozen=True)
class PythonModel:
    """What `function`, as "package.module:function", returns when it is called with a device.

    It has `shape`, (C, H, W), and `denoise(x, sigma)`: D(x; sigma) of x = x0 + sigma n, data in [-1, 1], (B, C, H, W)
    and a float -> (B, C, H, W). Where the reference is its data it has `images()`: float32 in [-1, 1] (N, C, H, W).
    The module is looked for where Python looks, and in the current folder. Naming it in a card runs it.

    Raises:
        SpecError: there is no such function, or what it returns lacks something.
    """

    function: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", self.function):
            raise SpecError("names no function", path="function", given=self.function, allowed=FORM)
        _ = self.shape
        self._denoise(self._model)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        given = getattr(self._model, "shape", None)
        sizes = tuple(given) if isinstance(given, tuple | list) else ()
        if len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise self._lacks("shape", given, "(C, H, W)")
        return sizes

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the module's source, of the weights of every torch module in the object, and of its own `hash`.

        What it reads besides, from files or the net, is the user's to name in `hash`.
        """
        source = Path(sys.modules[self._function.__module__].__file__ or "")
        digest = hashlib.sha256(f"python {self.function} ".encode() + source.read_bytes())
        for name, tensor in sorted(_weights(self._model)):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        digest.update(str(getattr(self._model, "hash", "")).encode())
        return digest.hexdigest()

    def images(self) -> Tensor:
        """The data, float32 in [-1, 1] (N, C, H, W).

        Raises:
            SpecError: the object has none, or of another shape.
        """
        if not callable(getattr(self._model, "images", None)):
            raise self._lacks("images", None, "images() -> (N, C, H, W), for `reference: data`")
        images = self._model.images()
        if not isinstance(images, Tensor) or images.shape[1:] != self.shape or len(images) < 2:
            given = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise self._lacks("images", given, f"a tensor (N, {', '.join(map(str, self.shape))})")
        return images.detach().cpu().float()

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes, as the object says; 1 where it does not."""
        return int(getattr(self._model, "rows_per_image", 1))

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """Its `denoise`, without gradients, on `device`."""
        model = self._on(device)
        return self._checked(self._denoise(model), model)

    def denoiser_for(self, seeds: range, device: str = "cpu") -> Denoiser:
        """What its `denoise_for` gives for the images of these seeds, where it has one; else as for all."""
        model = self._on(device)
        made = getattr(model, "denoise_for", None)
        if made is None:
            return self.denoiser(device)
        own = made(seeds) if callable(made) else None
        if not callable(own):
            raise self._lacks("denoise_for", own, "denoise_for(seeds) -> denoise(x, sigma)")
        return self._checked(own, model)

    def _on(self, device: str) -> Any:
        return self._model if device == "cpu" else self._function(device)

    def _checked(self, own: Denoiser, model: Any) -> Denoiser:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            with torch.no_grad():
                denoised = own(x, sigma)
            if denoised.shape != x.shape:
                raise ValueError(f"{self.function}: denoise gave {tuple(denoised.shape)} for {tuple(x.shape)}")
            return denoised.to(x.dtype)

        # A guided one says how often it shows its network an image, and is counted so.
        denoise.rows_per_image = getattr(model, "rows_per_image", 1)  # type: ignore[attr-defined]  # as of a meter
        return denoise

    def draw(self, count: int, seed: int) -> Tensor:
        """A network of somebody's cannot be drawn from exactly."""
        raise NotImplementedError(f"{self.function} models what only it knows")

    def __getstate__(self) -> Mapping[str, Any]:
        return {"function": self.function}  # a worker calls the function itself

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        object.__setattr__(self, "function", state["function"])

    @functools.cached_property
    def _function(self) -> Any:
        module, _, name = self.function.partition(":")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise SpecError(f"cannot be imported ({error})", path="function", given=self.function) from None
            message = f"there is no module {error.name} here, nor where Python looks"
            raise SpecError(message, path="function", given=self.function, allowed=FORM) from None
        except AttributeError:
            held = [key for key, value in vars(sys.modules[module]).items() if callable(value) and key[0] != "_"]
            raise SpecError(f"is not in {module}", path="function", given=name, allowed=held) from None
        except Exception as error:  # the user's own code
            text = f"cannot be imported ({type(error).__name__}: {error})"
            raise SpecError(text, path="function", given=self.function) from None

    @functools.cached_property
    def _model(self) -> Any:
        try:
            return self._function("cpu")
        except SpecError:
            raise
        except Exception as error:  # the user's own code
            text = f"failed when it was called with 'cpu' ({type(error).__name__}: {error})"
            raise SpecError(text, path="function", given=self.function) from None

    def _denoise(self, model: Any) -> Denoiser:
        found: Denoiser | None = getattr(model, "denoise", None)
        if not callable(found):
            raise self._lacks("denoise", found, "denoise(x, sigma) -> (B, C, H, W)")
        return found

    def _lacks(self, name: str, given: object, allowed: str) -> SpecError:
        return SpecError(f"what {self.function} returns has no right {name}", path="function", given=given,
                         allowed=allowed)  # fmt: skip


def _weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an object that is a torch module, or holds some."""
    held = {"": model} if isinstance(model, torch.nn.Module) else getattr(model, "__dict__", {})
    for name, value in held.items():
        if isinstance(value, torch.nn.Module):
            for key, tensor in value.state_dict().items():
                yield f"{name}.{key}", tensor
        elif isinstance(value, Tensor):
            yield name, value
