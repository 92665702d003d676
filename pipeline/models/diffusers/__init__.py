"""A pipeline of huggingface/diffusers as a denoiser: its network and its noise levels, without its own sampler."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.acceleration import EVERY
from pipeline.models import MODELS
from pipeline.models.classes import drawn_classes
from pipeline.models.diffusers import component, folder, prompt_file
from pipeline.models.diffusers.autoencoder import Autoencoder
from pipeline.models.diffusers.condition import NAMES, UNREAD, Condition, Row
from pipeline.models.diffusers.network_denoiser import NetworkDenoiser
from pipeline.models.diffusers.networks import FORMS, Form
from pipeline.models.diffusers.scaling import Scaling, VarianceExploding, scaling_of
from pipeline.registry import SpecError, require


@MODELS.register("diffusers")
@dataclass(frozen=True)
class DiffusersModel:
    """The network in the pipeline's folder `source`, or in the hub's of that id, at `revision`.

    Images are drawn for a class `label`, null where each has one drawn from its seed, or for prompts, in their order by
    seed: `embeddings` is the path of a file of safetensors with `prompt_embeds`, `pooled_prompt_embeds` and, for
    guidance, `negative_` ones; `prompts` that of a text file, one a line, which the pipeline's own encoders read, with
    `negative_prompt` for guidance. `guidance` is classifier-free (Ho and Salimans, 2022, arXiv 2207.12598), two rows an
    image but at 1; a network that was taught by a guided one is told it, one row. `size`: height and width as the
    network sees them, where not its own. `dtype` is the weights'; the state stays in that of x. `sha256` is that of the
    weights (`folder.checksum`). A pipeline's clipping and thresholding are its sampler's: none here.

    Raises:
        SpecError: it is not here and cannot be fetched, is pickled, damaged, or of a kind that is not understood.
    """

    paths: ClassVar[tuple[str, ...]] = ("embeddings", "prompts")
    paths_or_ids: ClassVar[tuple[str, ...]] = ("source",)
    accelerations: ClassVar[tuple[str, ...]] = EVERY
    shorthand: ClassVar[str] = "source"

    source: str
    revision: str | None = None
    label: int | None = None
    embeddings: str | None = None
    guidance: float = 1.0
    size: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prompts: str | None = None
    negative_prompt: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        require(math.isfinite(self.guidance) and self.guidance >= 1, "guidance", self.guidance, "1 or above")
        require(self.size is None or self.size > 0, "size", self.size, "1 or above")
        if importlib.util.find_spec("diffusers") is None:
            raise SpecError(
                "needs the package diffusers", path="name", given="diffusers", allowed="pip install diffusers"
            )
        if self.prompts is None:
            require(self.negative_prompt is None, "negative_prompt", self.negative_prompt, "null without `prompts`")
        elif self.embeddings is not None:
            raise SpecError("are given twice", path="prompts", given=self.prompts, allowed="null with `embeddings`")
        _ = self._outline, self._files
        if self.sha256 is not None:
            found = folder.checksum(self._folder, self._files, self._sums)
            if found != self.sha256.lower():
                raise SpecError("are other weights than the card names", path="sha256", given=found,
                                allowed=self.sha256)  # fmt: skip

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
        return self.shape if self._autoencoder is None else self._autoencoder.image_shape(self.shape)

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes."""
        return len(self._outline)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the networks' configurations, the scaling, the condition, and the bytes of the weights.

        Where prompts are read here, of them, and of the encoders' files too.
        """
        told: dict[str, Any] = {
            "network": self._form.network,
            "config": component.public(self._config),
            "decoder": None if self._autoencoder is None else component.public(self._autoencoder.config),
            "scaling": self._scaling.to_json(),
            "condition": [self.label, self.guidance, self.size, self.dtype],
        }
        sums = [*self._sums, *folder.sums([Path(self.embeddings)] if self.embeddings else [])]
        if self._texts is not None:
            told["prompts"] = [*self._texts.prompts, self.negative_prompt]
            sums += folder.sums(self._texts.settings)
        return folder.digest(told, sums)

    def denoiser(self, device: str = "cpu") -> NetworkDenoiser:
        """D on `device`, where all images are drawn for one condition; loaded once for each.

        Raises:
            SpecError: each image has a class or a prompt of its own.
        """
        if self._conditions(self._rows(device)) > 1:
            key = "label" if "class_labels" in self._outline[0] else "prompts" if self.prompts else "embeddings"
            raise SpecError("is another for each image: name one", path=key, given=getattr(self, key))
        if device not in self._loaded:
            rows = [{key: value.to(device) for key, value in row.items()} for row in self._rows(device)]
            self._loaded[device] = NetworkDenoiser(
                self._form, self._scaling, self._networks(device), rows, self.guidance
            )
        return self._loaded[device]

    def denoiser_for(self, seeds: range, device: str = "cpu") -> NetworkDenoiser:
        """D for one batch, the images of these seeds in this order.

        Where there are several conditions, an image's class is drawn from its seed (`drawn_classes`), and its prompt is
        that of the place seed mod number of prompts.
        """
        rows = self._rows(device)
        count = self._conditions(rows)
        if count == 1:
            return self.denoiser(device)
        by_class = "class_labels" in rows[0]
        own = drawn_classes(seeds, count) if by_class else [seed % count for seed in seeds]
        places = torch.tensor(own, dtype=torch.int64)
        each = [
            {key: (value if len(value) == 1 else value[places]).to(device) for key, value in row.items()}
            for row in rows
        ]
        return NetworkDenoiser(self._form, self._scaling, self._networks(device), each, self.guidance)

    def decode(self, samples: Tensor) -> Tensor:
        """Samples as images in [-1, 1]: what the pipeline's decoder makes of latents, (B, C, H, W) float32 of any size.

        Pixels are themselves.
        """
        if self._autoencoder is None:
            return samples
        factor, mean, std = self._autoencoder.norms(self.shape[0])
        return self._autoencoder.decode(samples.float() * (std / factor).to(samples.device) + mean.to(samples.device))

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
        return folder.locate(self.source, self.revision, texts=self.prompts is not None)

    @functools.cached_property
    def _index(self) -> dict[str, Any]:
        return folder.read(self._folder / "model_index.json")

    @functools.cached_property
    def _form(self) -> Form:
        name = str(self._index.get("_class_name"))
        if name not in FORMS:
            raise SpecError("is of a kind that is not understood", path="source", given=name, allowed=list(FORMS))
        form = FORMS[name]
        for part, allowed in ((form.component, form.network), *([("vae", "AutoencoderKL")] if form.latent else [])):
            given = self._index.get(part)
            # An old DiT is saved under the name of the class that came before its own.
            if given not in (["diffusers", allowed], ["diffusers", allowed.removeprefix("DiT")]):
                raise SpecError(f"has another {part}", path="source", given=given, allowed=f"diffusers' {allowed}")
        return form

    @property
    def _at(self) -> Path:
        return folder.part(self._folder, self._form.component)

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        return component.configuration(self._at, self._form.component)

    @functools.cached_property
    def _autoencoder(self) -> Autoencoder | None:
        return Autoencoder(folder.part(self._folder, "vae")) if self._form.latent else None

    @functools.cached_property
    def _texts(self) -> prompt_file.Texts | None:
        if self.prompts is None:
            return None
        return prompt_file.Texts.found(self._folder, self._index, Path(self.prompts), self.negative_prompt)

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
        """All weights that are read, the network's first."""
        own = folder.weights(self._at)
        component.check(self._at, self._form.network, self._config, own)
        decoder = [] if self._autoencoder is None else self._autoencoder.files
        return [*own, *decoder, *([] if self._texts is None else self._texts.weights)]

    @functools.cached_property
    def _sums(self) -> list[str]:
        return folder.sums(self._files)

    @functools.cached_property
    def _outline(self) -> list[Row]:
        """The rows, without what prompts are before they are read."""
        if self._autoencoder is not None:
            _ = self._autoencoder.norms(self.shape[0]), self._autoencoder.config
        _ = self.shape, self._scaling
        if self._texts is not None:
            return self._checked(dict.fromkeys(NAMES, UNREAD))
        return self._checked({} if self.embeddings is None else _tensors(Path(self.embeddings)))

    def _checked(self, embeddings: Mapping[str, Tensor]) -> list[Row]:
        key = "embeddings" if self._texts is None else "prompts"
        pixels = 1 if self._autoencoder is None else self._autoencoder.side
        try:
            condition = Condition(self.label, self.guidance, embeddings)
            rows = self._form.rows(self._config, condition, self.shape, pixels)
        except SpecError as error:
            path = key if error.path == "embeddings" else error.path
            raise SpecError(error.message, path=path, given=error.given, allowed=error.allowed) from None
        if any(rows[0][name].shape[1:] != value.shape[1:] for row in rows for name, value in row.items()):
            raise SpecError("are not as long as the negative ones", path=key, given=getattr(self, key))
        counts = {len(value) for row in rows for value in row.values()} - {1}
        if len(counts) > 1:
            raise SpecError("are not of one number of prompts", path=key, given=sorted(counts), allowed="one, or 1")
        return rows

    def _rows(self, device: str) -> list[Row]:
        """What the network is called with for every condition; prompts are read on `device`, and once."""
        return self._outline if self._texts is None else self._checked(self._texts.embeddings(self.dtype, device))

    @staticmethod
    def _conditions(rows: list[Row]) -> int:
        return max((len(value) for row in rows for value in row.values()), default=1)

    @functools.cached_property
    def _loaded(self) -> dict[str, NetworkDenoiser]:
        return {}

    @functools.cached_property
    def _networks(self) -> Any:
        return functools.cache(lambda device: component.load(self._at, self._form.network, self.dtype).to(device))


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        folder.header(file)
        return load_file(file)
    except SpecError as error:
        raise SpecError(error.message, path="embeddings", given=error.given) from None
