"""A pipeline of huggingface/diffusers as a denoiser: its network and its noise levels, without its own sampler."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.models import MODELS
from pipeline.models.diffusers import folder
from pipeline.models.diffusers.condition import Condition, Row, whole
from pipeline.models.diffusers.networks import FORMS, Form
from pipeline.models.diffusers.scaling import Scaling, VarianceExploding, scaling_of
from pipeline.registry import SpecError, require


@MODELS.register("diffusers")
@dataclass(frozen=True)
class DiffusersModel:
    """The network in the pipeline's folder `source`, or in the hub's of that id, at `revision`.

    All images are drawn for one condition: a class `label`, or a prompt's `embeddings`, the path of a file of
    safetensors with `prompt_embeds`, `pooled_prompt_embeds` and, for guidance, `negative_` ones. `guidance` is
    classifier-free (Ho and Salimans, 2022, arXiv 2207.12598), two rows an image but at 1; a network that was taught by
    a guided one is told it, one row. `size`: height and width as the network sees them, where not its own. `dtype` is
    the weights'; the state stays in that of x. A pipeline's clipping and thresholding are its sampler's: none here.

    Raises:
        SpecError: it is not here and cannot be fetched, is pickled, damaged, or of a kind that is not understood.
    """

    paths: ClassVar[tuple[str, ...]] = ("embeddings",)
    paths_or_ids: ClassVar[tuple[str, ...]] = ("source",)

    source: str
    revision: str | None = None
    label: int | None = None
    embeddings: str | None = None
    guidance: float = 1.0
    size: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        require(math.isfinite(self.guidance) and self.guidance >= 1, "guidance", self.guidance, "1 or above")
        require(self.size is None or self.size > 0, "size", self.size, "1 or above")
        if importlib.util.find_spec("diffusers") is None:
            raise SpecError(
                "needs the package diffusers", path="name", given="diffusers", allowed="pip install diffusers"
            )
        _ = self._rows, self._files

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """One image, or latent, as the network sees it: (C, H, W)."""
        try:
            return self._form.shape(self._config, self.size)
        except SpecError as error:
            raise error if error.path == "size" else error.under(self._form.component) from None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """One image as `decode` gives it: (C, H, W)."""
        if not self._form.latent:
            return self.shape
        return whole(self._decoder, "out_channels", 3), self._pixels * self.shape[1], self._pixels * self.shape[2]

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes."""
        return len(self._rows)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the networks' configurations, the scaling, the condition, and the bytes of the weights."""
        told = {
            "network": self._form.network,
            "config": _public(self._config),
            "decoder": _public(self._decoder) if self._form.latent else None,
            "scaling": self._scaling.to_json(),
            "condition": [self.label, self.guidance, self.size, self.dtype],
        }
        return folder.digest(told, [*self._files, *([Path(self.embeddings)] if self.embeddings else [])])

    def denoiser(self, device: str = "cpu") -> NetworkDenoiser:
        """D on `device`; loaded once for each."""
        if device not in self._loaded:
            network = self._load(self._form.component, self._form.network, self.dtype).to(device)
            rows = [{key: value.to(device) for key, value in row.items()} for row in self._rows]
            self._loaded[device] = NetworkDenoiser(self._form, self._scaling, network, rows, self.guidance)
        return self._loaded[device]

    def decode(self, samples: Tensor) -> Tensor:
        """Samples as images in [-1, 1]: what the pipeline's decoder makes of latents, (B, C, H, W) float32 of any size.

        Pixels are themselves.
        """
        if not self._form.latent:
            return samples
        decoder, (factor, mean, std) = self._decoders(str(samples.device)), self._norms
        latents = samples.float() * (std / factor).to(samples.device) + mean.to(samples.device)
        with torch.no_grad():
            images: Tensor = decoder.decode(latents).sample
        return images

    def draw(self, count: int, seed: int) -> Tensor:
        """A network cannot be drawn from exactly."""
        raise NotImplementedError(f"{self.source} models what only its training data know")

    def __getstate__(self) -> Mapping[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # a worker loads its own

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def _folder(self) -> Path:
        return folder.locate(self.source, self.revision)

    @functools.cached_property
    def _form(self) -> Form:
        index = folder.read(self._folder / "model_index.json")
        name = str(index.get("_class_name"))
        if name not in FORMS:
            raise SpecError("is of a kind that is not understood", path="source", given=name, allowed=list(FORMS))
        form = FORMS[name]
        for part, allowed in ((form.component, form.network), *([("vae", "AutoencoderKL")] if form.latent else [])):
            given = index.get(part)
            # An old DiT is saved under the name of the class that came before its own.
            if given not in (["diffusers", allowed], ["diffusers", allowed.removeprefix("DiT")]):
                raise SpecError(f"has another {part}", path="source", given=given, allowed=f"diffusers' {allowed}")
        return form

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        return self._read(self._form.component)

    @functools.cached_property
    def _decoder(self) -> dict[str, Any]:
        return self._read("vae")

    @property
    def _pixels(self) -> int:
        """How many along one side of a latent: the decoder doubles between its blocks."""
        blocks = self._decoder.get("block_out_channels") if self._form.latent else None
        return 2 ** (len(blocks) - 1) if isinstance(blocks, list) and blocks else 1

    @functools.cached_property
    def _norms(self) -> tuple[float, Tensor, Tensor]:
        """What latents were multiplied by, their mean and their deviation before, each (1 or C, 1, 1)."""
        held, channels = self._decoder, self.shape[0]
        mean, std = held.get("latents_mean"), held.get("latents_std")
        if mean is None or std is None:
            mean, std = [0.0], [1.0]
        try:
            factor = float(held.get("scaling_factor", 0.18215))  # diffusers' default: an old decoder does not say it
            shift = float(held.get("shift_factor") or 0)
            norms = torch.tensor([mean, std], dtype=torch.float32)[..., None, None]
            fits = norms.shape[1] in (1, channels) and factor > 0
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise SpecError("has no right scaling of latents", path="vae", given=held.get("scaling_factor"))
        return factor, norms[0] + shift, norms[1]

    @functools.cached_property
    def _scaling(self) -> Scaling:
        at = folder.part(self._folder, "scheduler") / "scheduler_config.json"
        try:
            scaling = scaling_of(folder.read(at))
        except SpecError as error:
            raise error if error.path == "source" else error.under("scheduler") from None
        fourier = self._config.get("time_embedding_type") == "fourier"
        if fourier != isinstance(scaling, VarianceExploding):
            raise SpecError("does not go with its noise levels", path=f"{self._form.component}.time_embedding_type",
                            given=self._config.get("time_embedding_type"),
                            allowed="positional" if fourier else "fourier")  # fmt: skip
        return scaling

    @functools.cached_property
    def _files(self) -> list[Path]:
        parts = [self._form.component, *(["vae"] if self._form.latent else [])]
        return [file for part in parts for file in folder.weights(folder.part(self._folder, part))]

    @functools.cached_property
    def _rows(self) -> list[Row]:
        embeddings = {} if self.embeddings is None else _tensors(Path(self.embeddings))
        _ = self.shape, self._scaling, self._norms if self._form.latent else None
        condition = Condition(self.label, self.guidance, embeddings)
        rows = self._form.rows(self._config, condition, self.shape, self._pixels)
        if any(rows[0][key].shape != value.shape for row in rows for key, value in row.items()):
            raise SpecError("are not as long as the negative ones", path="embeddings", given=self.embeddings)
        return rows

    @functools.cached_property
    def _loaded(self) -> dict[str, NetworkDenoiser]:
        return {}

    @functools.cached_property
    def _decoders(self) -> Any:
        return functools.cache(lambda device: self._load("vae", "AutoencoderKL", "float32").to(device))

    def _read(self, part: str) -> dict[str, Any]:
        config = folder.read(folder.part(self._folder, part) / "config.json")
        if config.get("quantization_config"):
            raise SpecError("is not understood", path=f"{part}.quantization_config", allowed="none")
        return config

    def _load(self, part: str, name: str, dtype: str) -> Any:
        """The component with its weights, all of them: diffusers would make up what a file lacks."""
        at = folder.part(self._folder, part)
        cls = getattr(importlib.import_module("diffusers"), name)
        try:
            network, found = cls.from_pretrained(
                at, torch_dtype=getattr(torch, dtype), use_safetensors=True,
                local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # a stranger's configuration, or weights of other shapes
            text = f"cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            raise SpecError(text, path="source", given=str(at)) from None
        for key in ("missing_keys", "unexpected_keys"):
            if found[key]:
                text = f"{len(found[key])} {key.replace('_', ' ')} in its weights"
                raise SpecError(text, path="source", given=sorted(found[key])[0], allowed="none")
        # Some networks are loaded in the dtype of the file, whatever is asked for.
        return network.to(getattr(torch, dtype)).eval()


class NetworkDenoiser:
    """D(x; sigma) of a network: one row an image, or two where the second is what guidance leads away from."""

    def __init__(self, form: Form, scaling: Scaling, network: Any, rows: list[Row], guidance: float) -> None:
        self.form, self.scaling, self.network, self.rows, self.guidance = form, scaling, network, rows, guidance
        self.rows_per_image = len(rows)

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        count, dtype = len(x), next(self.network.parameters()).dtype
        seen = self.scaling.seen(x, sigma).to(dtype).repeat(len(self.rows), 1, 1, 1)
        times = torch.full((len(seen),), self.scaling.time(sigma), device=x.device)
        row = {key: torch.cat([self._of(one[key], count, dtype) for one in self.rows]) for key in self.rows[0]}
        answer = self.form.answer(self.network, seen, times, row)[:, : x.shape[1]].to(x.dtype)
        if len(self.rows) == 2:
            wanted, none = answer.chunk(2)
            answer = none + self.guidance * (wanted - none)
        return self.scaling.denoised(x, answer, sigma)

    def _of(self, value: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        cast = value.to(dtype) if value.is_floating_point() else value
        return cast.expand(count, *cast.shape[1:])


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        folder.header(file)
        return load_file(file)
    except SpecError as error:
        raise SpecError(error.message, path="embeddings", given=error.given) from None
