"""A checkpoint of EDM or EDM2 as a model (Karras et al., 2022, arXiv 2206.00364; 2024, arXiv 2312.02696)."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.acceleration import EVERY, Raw
from pipeline.denoiser import Denoiser
from pipeline.models import MODELS
from pipeline.models.checkpoint_file import CheckpointFile
from pipeline.models.classes import drawn_classes
from pipeline.models.edm_latents import Edm2Decoder
from pipeline.models.guided import GuidedDenoiser
from pipeline.networks.arguments import build, checked
from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.preconditioning import Preconditioner
from pipeline.registry import SpecError, require


@MODELS.register("edm")
@dataclass(frozen=True)
class EdmModel:
    """The network in the checkpoint at `path`: a pickle of NVlabs/edm or edm2, or what `convert` made of one.

    `label` is the class of every image; null for a network without classes, or where each image's class is drawn from
    its seed (`denoiser_for`). `fp16`: whether F runs in float16 on a CUDA device; null is as the network was trained.
    Elsewhere it runs in float32, as published. `sha256` is the file's, checked where it is given. `network`: the `kind`
    and arguments that the checkpoint is expected to be made from. Where they are given, the file may come later: shape
    and classes are known without it.

    `guide` is a second checkpoint, that the first is led away from: D = D_guide + guidance (D_main - D_guide), two rows
    an image. A smaller or less trained one of the same classes is autoguidance (Karras et al., 2024, arXiv 2406.02070),
    one without classes classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598). At 1 it is not asked.

    `decoder` is the folder of diffusers' AutoencoderKL for a network of latents; null where it is of pixels, or where
    latents are to be compared.

    Raises:
        SpecError: no such file, not a checkpoint, not the one of that hash or of that network; no such class; parts
            that do not fit.
    """

    paths: ClassVar[tuple[str, ...]] = ("path", "guide", "decoder")
    shorthand: ClassVar[str] = "path"
    accelerations: ClassVar[tuple[str, ...]] = EVERY

    path: str
    label: int | None = None
    fp16: bool | None = None
    sha256: str | None = None
    guide: str | None = None
    guidance: float = 1.0
    guide_sha256: str | None = None
    decoder: str | None = None
    network: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        require(math.isfinite(self.guidance) and self.guidance >= 1, "guidance", self.guidance, "1 or above")
        if self._is_here:
            _ = self._network  # what is wrong with it is told now
        classes = self.classes
        if self.label is not None:
            require(0 <= self.label < classes, "label", self.label, f"0 to {classes - 1}" if classes else "null")
        self._check_guide()
        if self._latents is not None:
            self._latents.check(self.outline.img_channels)

    @property
    def shape(self) -> tuple[int, ...]:
        """One image, or latent: (C, H, W)."""
        size = self.outline.img_resolution
        return (self.outline.img_channels, size, size)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One image as `decode` gives it: (C, H, W)."""
        return self.shape if self._latents is None else self._latents.image_shape(self.shape)

    @property
    def classes(self) -> int:
        """How many classes the network has; 0 where it has none."""
        return self.outline.label_dim

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes: the guide's is one too, whatever its size."""
        return 1 if self._guide is None else 2

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of kind, arguments and weights of every network, of the class, and of whether float16 may be used."""
        named = f"{self._main.checkpoint.hash} label {self.label} fp16 {self._half}"
        if self._guide is not None:
            named += f" guide {self._guide.checkpoint.hash} guidance {self.guidance!r}"
        if self._latents is not None:
            named += f" decoder {self._latents.hash}"
        return hashlib.sha256(named.encode()).hexdigest()

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """D on `device`, in the dtype of x, for images of the class `label`.

        Raises:
            SpecError: the network has classes and none is named. All zeros is no class to it, and was never trained.
        """
        if self.classes and self.label is None:
            raise SpecError("the network has classes: name one", path="label", allowed=f"0 to {self.classes - 1}")
        return self._denoiser(device, None if self.label is None else [self.label])

    def denoiser_for(self, seeds: range, device: str = "cpu") -> Denoiser:
        """D for one batch, the images of these seeds in this order: each of the class that `drawn_classes` gives it."""
        if not self.classes or self.label is not None:
            return self.denoiser(device)
        return self._denoiser(device, self.drawn_classes(seeds))

    def drawn_classes(self, seeds: range) -> list[int]:
        """A class for each seed, uniform and a function of the seed alone, as noise is."""
        require(self.classes > 0, "label", None, "a network with classes")
        return list(drawn_classes(seeds, self.classes))

    def decode(self, samples: Tensor) -> Tensor:
        """Samples as images in [-1, 1]: what the decoder makes of latents, (B, C, H, W). Pixels are themselves."""
        return samples if self._latents is None else self._latents.decode(samples)

    def round_sigma(self, sigma: float) -> float:
        """The nearest sigma that the network was trained for: its own steps for iDDPM, sigma itself for the others.

        The step at 0 is that of 0 alone: NVlabs/edm generate.py:31 keeps its sigmas above the first one.
        """
        return self._network.nearest_step(sigma)

    def draw(self, count: int, seed: int) -> Tensor:
        """A trained network cannot be drawn from exactly."""
        raise NotImplementedError(f"{self.path} holds a trained network")

    def __getstate__(self) -> Mapping[str, Any]:
        # A worker reads the files itself.
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def _main(self) -> CheckpointFile:
        return CheckpointFile(self.path, self.sha256)

    @functools.cached_property
    def _guide(self) -> CheckpointFile | None:
        if self.guide is None or self.guidance == 1:
            return None
        return CheckpointFile(self.guide, self.guide_sha256, "guide")

    @functools.cached_property
    def _latents(self) -> Edm2Decoder | None:
        return None if self.decoder is None else Edm2Decoder(self.decoder)

    @functools.cached_property
    def _network(self) -> Preconditioner:
        self._check_declared()
        return self._main.network

    @functools.cached_property
    def outline(self) -> Preconditioner:
        """The network without weights: as its checkpoint says, or as declared where that is not here yet."""
        if self.network is None or self._is_here:
            return _outlined(_made_from(self._main.checkpoint))
        return _outlined(self.network)

    @property
    def _is_here(self) -> bool:
        return self.network is None or Path(self.path).expanduser().exists()

    def _check_declared(self) -> None:
        made_from = _made_from(self._main.checkpoint)
        for key, declared in ({} if self.network is None else self.network).items():
            if key not in made_from or made_from[key] != declared:
                raise SpecError(f"{self.path} holds another network", path=f"network.{key}", given=declared,
                                allowed=str(made_from.get(key, "none")))  # fmt: skip

    @property
    def _half(self) -> bool:
        return self._network.use_fp16 if self.fp16 is None else self.fp16

    def _check_guide(self) -> None:
        if self.guide is None:
            require(self.guidance == 1, "guidance", self.guidance, "1, or a `guide` to lead away from")
            require(self.guide_sha256 is None, "guide_sha256", self.guide_sha256, "null without a `guide`")
        if self._guide is None:
            return
        guide = self._guide.network
        shape = (guide.img_channels, guide.img_resolution, guide.img_resolution)
        if shape != self.shape:
            raise SpecError("is of images of another shape", path="guide", given=list(shape), allowed=f"{self.shape}")
        if guide.label_dim not in (0, self.classes):
            allowed = f"0 or {self.classes}" if self.classes else "0"
            raise SpecError("has other classes", path="guide", given=guide.label_dim, allowed=allowed)

    def _denoiser(self, device: str, labels: Sequence[int] | None) -> Denoiser:
        main = EdmDenoiser(self._main.on(device), labels, half=self._half)
        if self._guide is None:
            return main
        guide = self._guide.on(device)
        away = EdmDenoiser(guide, labels if guide.label_dim else None, half=self._half)
        return GuidedDenoiser(main, away, self.guidance)


def _made_from(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"kind": checkpoint.kind, **checked(checkpoint.kind, checkpoint.arguments)}


def _outlined(network: Mapping[str, Any]) -> Preconditioner:
    arguments = {key: value for key, value in network.items() if key != "kind"}
    try:
        return build(str(network.get("kind")), arguments)
    except SpecError as error:
        where = "kind" if error.path == "class" else error.path
        raise SpecError(error.message, given=error.given, allowed=error.allowed, path=f"network.{where}") from None


class EdmDenoiser:
    """D(x; sigma) without gradients: rounded to float32 for the network, and back to the dtype of x.

    `labels`: none, one for every image, or one for each image of the batch. `half` counts on CUDA devices only, and
    where F is run as it is: one that is run in another way is given float32.
    """

    # Parameters are cast to what they meet; the embedding of the noise level and attention's softmax stay in float32.
    follows_dtype: ClassVar[bool] = True

    def __init__(self, network: Preconditioner, labels: Sequence[int] | None = None, *, half: bool = False) -> None:
        self.network, self.labels, self.half = network, None, half
        self._raw: Raw | None = None
        if labels is not None:
            device = next(network.parameters()).device
            self.labels = functional.one_hot(
                torch.tensor(labels, dtype=torch.int64, device=device), network.label_dim
            ).float()

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        if self.labels is not None and len(self.labels) not in (1, len(x)):
            raise ValueError(f"{len(self.labels)} labels for {len(x)} images")
        dtype = torch.float16 if self.half and x.device.type == "cuda" else torch.float32
        return self.denoise(x, sigma, dtype)

    def raw(self, network: nn.Module) -> Raw:
        """F of this preconditioned network: images, c_noise and labels -> a tensor."""
        assert isinstance(network, Preconditioner)
        return network.raw

    def through(self, raw: Raw) -> EdmDenoiser:
        """The same D with `raw` in the place of F."""
        other = copy.copy(self)
        other._raw, other.half = raw, False
        return other

    def denoise(self, x: Tensor, sigma: float, dtype: torch.dtype) -> Tensor:
        """D with the network in this dtype.

        Raises:
            SpecError: float16 was not enough: the answer is not finite for an x that is.
        """
        with torch.no_grad():
            # Filled on the device: a tensor that is made on the host would make it wait.
            at = torch.full((), sigma, dtype=torch.float32, device=x.device)
            denoised: Tensor = self.network(x, at, self.labels, dtype, self._raw)
        if dtype == torch.float16 and not denoised.isfinite().all() and x.isfinite().all():
            raise SpecError(f"float16 overflowed at sigma {sigma:g}", path="fp16", given=True, allowed="false")
        return denoised.to(x.dtype)
