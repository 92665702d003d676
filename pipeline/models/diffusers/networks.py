"""The networks of diffusers' pipelines: what each is called with, for each condition."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.models.diffusers.condition import (
    Condition,
    Config,
    Row,
    label,
    no_embeddings,
    no_guidance,
    no_label,
    one_of,
    plain,
    pooled,
    prompt,
    signs,
    square,
    whole,
)  # fmt: skip
from pipeline.registry import SpecError


class Form(Protocol):
    """One kind of network, and how its pipeline calls it."""

    component: str
    network: str
    latent: bool

    def shape(self, config: Config, size: int | None) -> tuple[int, int, int]:
        """One image as the network sees it: (C, H, W).

        Raises:
            SpecError: a network that this is not the form of.
        """
        ...

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        """The conditions; where guided, what stands for none after them. `factor`: pixels along one of a latent.

        Raises:
            SpecError: the condition is not one for this network.
        """
        ...

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        """The network's prediction, (B, C, H, W). `row` holds a row for each image here."""
        ...


class UNet:
    """UNet2DModel, of pixels, with a class label or without."""

    component = "unet"
    network = "UNet2DModel"
    latent = False

    def shape(self, config: Config, size: int | None) -> tuple[int, int, int]:
        plain(config, class_embed_type=None)
        one_of(config, "time_embedding_type", ("positional", "fourier"), "positional")
        shape = square(config, size)
        blocks = config.get("down_block_types")
        halved = 2 ** (len(blocks) - 1) if isinstance(blocks, list) else 1
        if shape[1] % halved:
            raise SpecError("does not fit the network", path="size", given=shape[1], allowed=f"a multiple of {halved}")
        return shape

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        no_guidance(condition)
        no_embeddings(condition)
        classes = config.get("num_class_embeds")
        if classes is None and condition.label is None:
            return [{}]
        return [{"class_labels": label(condition, classes)}]

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        found: Tensor = network(seen, times, **row).sample
        return found


class DiT:
    """DiTTransformer2DModel, of latents, by class. Peebles and Xie, 2023, arXiv 2212.09748."""

    component = "transformer"
    network = "DiTTransformer2DModel"
    latent = True

    def shape(self, config: Config, size: int | None) -> tuple[int, int, int]:
        if size not in (None, config.get("sample_size")):
            raise SpecError("is the network's own alone", path="size", given=size, allowed="null")
        return square(config, None)

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        no_embeddings(condition)
        classes = whole(config, "num_embeds_ada_norm", 1000)
        rows = [{"class_labels": label(condition, classes)}]
        # The class after the last stands for none: what training put in the place of dropped labels.
        return [*rows, {"class_labels": torch.tensor([classes])}] if condition.guided else rows

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        found: Tensor = network(seen, timestep=times, **row).sample
        return found


class StableDiffusion:
    """UNet2DConditionModel, of latents, by a prompt's embeddings. Rombach et al., 2022, arXiv 2112.10752."""

    component = "unet"
    network = "UNet2DConditionModel"
    latent = True
    addition: str | None = None

    def shape(self, config: Config, size: int | None) -> tuple[int, int, int]:
        plain(config, class_embed_type=None, encoder_hid_dim_type=None, time_cond_proj_dim=None,
               addition_embed_type=self.addition)  # fmt: skip
        one_of(config, "time_embedding_type", ("positional",), "positional")
        return square(config, size)

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        no_label(condition)
        width = whole(config, "cross_attention_dim", 1280)
        return [{"encoder_hidden_states": prompt(condition, sign, width)} for sign in signs(condition)]

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        found: Tensor = network(seen, times, **row).sample
        return found


class StableDiffusionXL(StableDiffusion):
    """The same with a pooled embedding, and told the size of the picture. Podell et al., 2023, arXiv 2307.01952."""

    addition = "text_time"

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        # Height and width as drawn, cut at neither side, as wanted: the pipeline's own defaults.
        height, width = factor * shape[1], factor * shape[2]
        times = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        six = 6 * whole(config, "addition_time_embed_dim")
        wide = whole(config, "projection_class_embeddings_input_dim") - six
        return [
            row | {"text_embeds": pooled(condition, sign, wide), "time_ids": times}
            for row, sign in zip(super().rows(config, condition, shape, factor), signs(condition), strict=True)
        ]

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        added = {key: row[key] for key in ("text_embeds", "time_ids")}
        found: Tensor = network(seen, times, row["encoder_hidden_states"], added_cond_kwargs=added).sample
        return found


class StableDiffusion3:
    """SD3Transformer2DModel, of latents, by a prompt's embeddings. Esser et al., 2024, arXiv 2403.03206."""

    component = "transformer"
    network = "SD3Transformer2DModel"
    latent = True

    def shape(self, config: Config, size: int | None) -> tuple[int, int, int]:
        shape = square(config, size)
        patch, most = whole(config, "patch_size", 2), whole(config, "pos_embed_max_size", 96)
        if shape[1] % patch or shape[1] > patch * most:
            allowed = f"a multiple of {patch} up to {patch * most}"
            raise SpecError("does not fit the network", path="size", given=shape[1], allowed=allowed)
        return shape

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        no_label(condition)
        width, wide = whole(config, "joint_attention_dim", 4096), whole(config, "pooled_projection_dim", 2048)
        return [
            {
                "encoder_hidden_states": prompt(condition, sign, width),
                "pooled_projections": pooled(condition, sign, wide),
            }
            for sign in signs(condition)
        ]

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        found: Tensor = network(hidden_states=seen, timestep=times, **row).sample
        return found


class Flux:
    """FluxTransformer2DModel, of latents in patches of two by two, by a prompt's embeddings.

    Where it was taught by a guided one it is told the guidance: one row an image, whatever it is.
    """

    component = "transformer"
    network = "FluxTransformer2DModel"
    latent = True

    def shape(self, config: Config, size: int | None) -> tuple[int, int, int]:
        if size is None or size % 2:
            raise SpecError("is not said by the network", path="size", given=size, allowed="an even number, 128 e.g.")
        channels = whole(config, "in_channels", 64)
        if channels % 4 or whole(config, "patch_size", 1) != 1 or config.get("out_channels") not in (None, channels):
            raise SpecError("is not of this form", path="source", given=channels, allowed="a multiple of 4")
        return channels // 4, size, size

    def rows(self, config: Config, condition: Condition, shape: tuple[int, int, int], factor: int) -> list[Row]:
        no_label(condition)
        width, wide = whole(config, "joint_attention_dim", 4096), whole(config, "pooled_projection_dim", 768)
        row = {
            "encoder_hidden_states": prompt(condition, "", width),
            "pooled_projections": pooled(condition, "", wide),
        }
        if not config.get("guidance_embeds"):
            no_guidance(condition)
            return [row]
        return [row | {"guidance": torch.tensor([condition.guidance])}]

    def answer(self, network: Any, seen: Tensor, times: Tensor, row: Row) -> Tensor:
        count, channels, height, width = seen.shape
        patches = seen.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        places = torch.zeros(height // 2, width // 2, 3, device=seen.device, dtype=seen.dtype)
        places[..., 1] = torch.arange(height // 2, device=seen.device)[:, None]
        places[..., 2] = torch.arange(width // 2, device=seen.device)
        words = torch.zeros(row["encoder_hidden_states"].shape[1], 3, device=seen.device, dtype=seen.dtype)
        # Its own embedding multiplies by this again.
        answer = network(hidden_states=patches.reshape(count, -1, 4 * channels), timestep=times / 1000,
                         img_ids=places.flatten(0, 1), txt_ids=words, **row).sample  # fmt: skip
        halves = answer.reshape(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        found: Tensor = halves.reshape(seen.shape)
        return found


FORMS: dict[str, Form] = {
    "DDIMPipeline": UNet(),
    "DDPMPipeline": UNet(),
    "DiTPipeline": DiT(),
    "FluxPipeline": Flux(),
    "PNDMPipeline": UNet(),
    "ScoreSdeVePipeline": UNet(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
}
