"""The constructor arguments that a checkpoint records: checked before anything is made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.networks.preconditioning import PRECONDITIONERS, Preconditioner
from pipeline.registry import SpecError
from pipeline.yaml_file import mistake

# A published network has at most four levels of at most nine blocks and 768 channels: what is far from that is no
# checkpoint, and would only fill the memory.
_Multiple = Annotated[int, Field(ge=1, le=16)]
_Channels = Annotated[int, Field(ge=4, le=1024)]
_Inputs = Annotated[int, Field(ge=0, le=100_000)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(ge=0, le=1)]
_Levels = Annotated[list[_Multiple], Field(min_length=1, max_length=8)]
_Filter = Annotated[list[_Positive], Field(min_length=2, max_length=8)]
_Side = Literal["standard", "skip", "residual"]


class _Common(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    img_resolution: Annotated[int, Field(ge=1, le=1024)]
    img_channels: Annotated[int, Field(ge=1, le=64)]
    label_dim: _Inputs = 0
    dropout: _Rate = 0.0
    num_blocks: Annotated[int, Field(ge=1, le=16)] = 3
    model_channels: _Channels = 192
    channel_mult: _Levels = [1, 2, 3, 4]


class _First(_Common):
    use_fp16: bool = False
    augment_dim: _Inputs = 0
    channel_mult_emb: _Multiple = 4
    label_dropout: _Rate = 0.0


class _Song(_First):
    model_type: Literal["SongUNet"]
    model_channels: _Channels = 128
    channel_mult: _Levels = [1, 2, 2, 2]
    num_blocks: Annotated[int, Field(ge=1, le=16)] = 4
    attn_resolutions: list[int] = [16]
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: _Multiple = 1
    encoder_type: _Side = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: _Filter = [1, 1]


class _Dhariwal(_First):
    model_type: Literal["DhariwalUNet"]
    attn_resolutions: list[int] = [32, 16, 8]


class _Second(_Common):
    model_type: Literal["UNet"]
    use_fp16: bool = True
    channel_mult_noise: _Multiple | None = None
    channel_mult_emb: _Multiple | None = None
    attn_resolutions: list[int] = [16, 8]
    label_balance: _Rate = 0.5
    concat_balance: _Rate = 0.5
    resample_filter: _Filter = [1, 1]
    channels_per_head: _Channels = 64
    res_balance: _Rate = 0.3
    attn_balance: _Rate = 0.3
    clip_act: _Positive | None = 256.0


class _VP(BaseModel):
    beta_d: _Positive = 19.9
    beta_min: _Positive = 0.1
    M: Annotated[int, Field(ge=2, le=100_000)] = 1000
    epsilon_t: _Positive = 1e-5


class _VE(BaseModel):
    sigma_min: _Positive = 0.02
    sigma_max: _Positive = 100.0


class _IDDPM(BaseModel):
    C_1: _Positive = 0.001
    C_2: _Positive = 0.008
    M: Annotated[int, Field(ge=2, le=10_000)] = 1000


class _EDM(BaseModel):
    sigma_min: Annotated[float, Field(ge=0)] = 0.0
    sigma_max: Annotated[float, Field(gt=0)] = math.inf
    sigma_data: _Positive = 0.5


class _EDM2(BaseModel):
    sigma_data: _Positive = 0.5
    logvar_channels: Annotated[int, Field(ge=1, le=1024)] = 128


_KINDS: dict[str, type[BaseModel]] = {
    "VPPrecond": _VP,
    "VEPrecond": _VE,
    "iDDPMPrecond": _IDDPM,
    "EDMPrecond": _EDM,
    "Precond": _EDM2,
}
_FIRST: dict[str, type[_Common]] = {"SongUNet": _Song, "DhariwalUNet": _Dhariwal}
_SECOND: dict[str, type[_Common]] = {"UNet": _Second}


def checked(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of a network, defaults included.

    Raises:
        SpecError: an unknown kind or network; an unknown, missing or impossible argument.
    """
    if kind not in PRECONDITIONERS:
        raise SpecError("is a kind of network that is not known here", path="class", given=kind,
                        allowed=sorted(PRECONDITIONERS))  # fmt: skip
    given = {"model_type": PRECONDITIONERS[kind].usual, **arguments}
    unets = _SECOND if kind == "Precond" else _FIRST
    if given["model_type"] not in unets:
        raise SpecError("is not one of the choices", path="model_type", given=given["model_type"],
                        allowed=sorted(unets))  # fmt: skip
    unet = unets[given["model_type"]]

    class Arguments(_KINDS[kind], unet):  # type: ignore[misc, valid-type]  # its two halves are chosen by name
        pass

    try:
        values: dict[str, Any] = Arguments.model_validate(given).model_dump()
    except ValidationError as error:
        raise mistake(error, Arguments) from None
    halvings = 2 ** (len(values["channel_mult"]) - 1)
    if values["img_resolution"] % halvings:
        allowed = f"a multiple of {halvings}, by its channel_mult"
        raise SpecError(
            "cannot be halved so often", path="img_resolution", given=values["img_resolution"], allowed=allowed
        )
    if len(values.get("resample_filter", ())) % 2:
        raise SpecError(
            "is no filter", path="resample_filter", given=values["resample_filter"], allowed="an even length"
        )
    return values


def build(kind: str, arguments: Mapping[str, Any]) -> Preconditioner:
    """The network of these arguments without weights: every tensor is on torch's meta device, and takes no memory.

    Raises:
        SpecError: as `checked`; or the widths do not fit one another.
    """
    values = checked(kind, arguments)
    try:
        with torch.device("meta"):
            return PRECONDITIONERS[kind](**values).eval().requires_grad_(False)
    except ValueError as error:
        given = values["model_channels"]
        raise SpecError(f"makes no network ({error})", path="model_channels", given=given) from None
