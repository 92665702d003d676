"""How a network is run: in half precision, with its channels last, compiled, as CUDA graphs; and what the state is.

A denoiser D stays what it is: only its network F, a function of tensors, is run otherwise.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pipeline.cuda_graphs import CudaGraphs
from pipeline.denoiser import Denoiser
from pipeline.device import has_float64, out_of_memory
from pipeline.registry import SpecError

Raw = Callable[..., Tensor]
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# What a model may say that its network can be run with, as its `accelerations`.
EVERY = ("autocast", "channels_last", "compile", "cuda_graphs")


@runtime_checkable
class Networked(Protocol):
    """A denoiser around a torch module.

    One whose network computes in the dtype of its first argument, with parameters cast to it, says `follows_dtype`.
    """

    @property
    def network(self) -> nn.Module:
        """The module that has the weights."""
        ...

    def raw(self, network: nn.Module) -> Raw:
        """F of that module, which is this one or its copy: tensors, the images first -> a tensor."""
        ...

    def through(self, raw: Raw) -> Denoiser:
        """The same D with `raw` in the place of F."""
        ...


@runtime_checkable
class Composed(Protocol):
    """A denoiser made of others."""

    def each(self, run: Callable[[Denoiser], Denoiser]) -> Denoiser:
        """The same of what `run` makes of them."""
        ...


@dataclass(frozen=True)
class Acceleration:
    """How a network is run. All of it changes bits but `cuda_graphs`; `autocast` and `state` change more than rounding.

    `autocast`: what the network computes in. D, the state and the coefficients stay in `state`. `cuda_graphs` replays
    what a batch of a shape has launched before, where launching takes longer than computing.
    """

    autocast: Literal["none", "bfloat16", "float16"] = "none"
    state: Literal["float32", "float64"] = "float32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False

    def to_json(self) -> dict[str, Any]:
        """What is asked for beyond the defaults: empty where nothing is, as in every record from before."""
        held = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: value for name, (value, default) in held.items() if value != default}

    @property
    def changing(self) -> dict[str, Any]:
        """What of it changes numbers, and so tells one study from another."""
        return {name: value for name, value in self.to_json().items() if name != "cuda_graphs"}

    @property
    def portable(self) -> dict[str, Any]:
        """What of it changes more than the last bits, and so goes with a card to other machines."""
        return {name: value for name, value in self.to_json().items() if name in ("autocast", "state")}

    @property
    def state_dtype(self) -> torch.dtype:
        """The dtype of `state`."""
        return torch.float64 if self.state == "float64" else torch.float32

    def check(self, model: object, device: str) -> None:
        """Refuse what this model, or this device, cannot do.

        Raises:
            SpecError: its key, and why not.
        """
        able: Sequence[str] = getattr(model, "accelerations", ())
        name = getattr(model, "registry_name", type(model).__name__)
        for key, value in self.to_json().items():
            if key != "state" and key not in able:
                raise SpecError(getattr(model, "unaccelerated", f"{name} is a closed form: no network to run so"),
                                path=key, given=value, allowed=_default(key))  # fmt: skip
        weights = getattr(model, "dtype", "float32")
        if self.autocast != "none" and weights != "float32":
            message = f"the network's weights are {weights} already"
            raise SpecError(message, path="autocast", given=self.autocast, allowed="none, or float32 weights")
        kind = torch.device(device).type
        if self.cuda_graphs and kind != "cuda":
            raise SpecError(f"there are none on {device}", path="cuda_graphs", given=True, allowed="false, or cuda")
        if not has_float64(device):
            if self.state == "float64":
                raise SpecError(f"{device} has no float64", path="state", given="float64", allowed="float32")
            if not able:
                message = f"{name} is a closed form in float64, which {device} does not have"
                raise SpecError(message, path="device", given=device, allowed="cpu or cuda")


AS_IS = Acceleration()


def _default(key: str) -> str:
    return "none" if key == "autocast" else "false"


class Accelerator:
    """Runs networks by one `Acceleration`, and keeps what that took to make: compiled code and captured graphs."""

    def __init__(self, settings: Acceleration) -> None:
        self.settings = settings
        # By the network's identity, which lasts as long as the network is held beside it.
        self._made: dict[int, tuple[nn.Module, Raw]] = {}

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """The same denoiser, its network run so."""
        if not set(self.settings.to_json()) - {"state"}:
            return denoise
        if isinstance(denoise, Composed):
            return denoise.each(self)
        fast = self._through(denoise) if isinstance(denoise, Networked) else self._around(denoise)
        return _Guarded(fast) if self.settings.autocast == "float16" else fast

    def __reduce__(self) -> tuple[Any, ...]:
        return Accelerator, (self.settings,)  # code and graphs are this process's

    def _through(self, denoise: Networked) -> Denoiser:
        network = denoise.network
        if id(network) not in self._made:
            self._made[id(network)] = network, self._raw(denoise, network)
        return denoise.through(self._made[id(network)][1])

    def _around(self, denoise: Denoiser) -> Denoiser:
        """Of a function of somebody's own: all of it in autocast, which touches products and convolutions alone."""
        return _Around(denoise, functools.partial(_autocast, HALVES[self.settings.autocast], denoise))

    def _raw(self, denoise: Networked, network: nn.Module) -> Raw:
        settings = self.settings
        if settings.channels_last:
            # What is calibrated on the CPU goes on with the network as it was.
            held = next((p.device.type for p in network.parameters()), "cpu")
            network = copy.deepcopy(network) if held == "cpu" else network
            network.to(memory_format=torch.channels_last)
        raw = denoise.raw(network)
        if settings.compile:
            raw = _Compiled(raw)
        if settings.autocast != "none":
            follows = getattr(denoise, "follows_dtype", False)
            raw = functools.partial(_in_dtype if follows else _autocast, HALVES[settings.autocast], raw)
        if settings.channels_last:
            raw = functools.partial(_channels_last, raw)
        return CudaGraphs(raw) if settings.cuda_graphs else raw


def _autocast(dtype: torch.dtype, function: Raw, x: Tensor, *rest: Any) -> Tensor:
    # A weight is used once an evaluation, and a graph must not be given a cast that another one has made.
    with torch.autocast(x.device.type, dtype=dtype, cache_enabled=False):
        return function(x, *rest)


def _in_dtype(dtype: torch.dtype, raw: Raw, x: Tensor, *rest: Any) -> Tensor:
    return raw(x.to(dtype), *rest)


def _channels_last(raw: Raw, x: Tensor, *rest: Any) -> Tensor:
    return raw(x.contiguous(memory_format=torch.channels_last), *rest).contiguous()


class _Compiled:
    """`torch.compile` of F; where that cannot be done here it is a mistake of the one who asked for it."""

    def __init__(self, raw: Raw) -> None:
        self._raw: Raw = torch.compile(raw)

    def __call__(self, *given: Any) -> Tensor:
        try:
            return self._raw(*given)
        except RuntimeError as error:
            if out_of_memory(error) or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = " ".join(str(error).split())[:200]
        raise SpecError(f"cannot be done here ({reason})", path="compile", given=True, allowed="false")


class _Around:
    """A denoiser called in another way."""

    def __init__(self, denoise: Denoiser, call: Denoiser) -> None:
        self._call = call
        self.rows_per_image: int = getattr(denoise, "rows_per_image", 1)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self._call(x, sigma).to(x.dtype)


class _Guarded(_Around):
    """D of a network in float16, whose largest number is 65504.

    Raises:
        SpecError: that was not enough: the answer is not finite for an x that is.
    """

    def __init__(self, denoise: Denoiser) -> None:
        super().__init__(denoise, denoise)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        denoised = super().__call__(x, sigma)
        if not denoised.isfinite().all() and x.isfinite().all():
            raise SpecError(f"float16 overflowed at sigma {sigma:g}", path="autocast", given="float16",
                            allowed="bfloat16, whose range is float32's, or none")  # fmt: skip
        return denoised
