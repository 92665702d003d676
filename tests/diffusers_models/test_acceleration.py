"""A pipeline's network in half precision, with its channels last, or on less memory: the same D for its condition."""

from __future__ import annotations

import pytest
import torch

from pipeline.acceleration import Acceleration, Accelerator
from pipeline.batch_size import BatchSize, FittingDenoiser
from pipeline.registry import SpecError
from tests.diffusers_models.pipelines import DIT, PIXELS, SD3, component, embeddings, error, images, model, write


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Pixels by convolutions; latents by class, guided; latents by a prompt."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("pixels", "dit", "sd3")}
    write(folders["pixels"], "DDPMPipeline", unet=component("UNet2DModel", **PIXELS),
          scheduler=component("DDPMScheduler"))  # fmt: skip
    vae = component("AutoencoderKL", in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8,),
                    norm_num_groups=4)  # fmt: skip
    write(folders["dit"], "DiTPipeline", transformer=component("DiTTransformer2DModel", **DIT), vae=vae,
          scheduler=component("DDIMScheduler"))  # fmt: skip
    write(folders["sd3"], "StableDiffusion3Pipeline", transformer=component("SD3Transformer2DModel", **SD3), vae=vae,
          scheduler=component("FlowMatchEulerDiscreteScheduler"))  # fmt: skip
    embeddings(folders["sd3"] / "prompt.safetensors", pooled=True)
    return {
        "pixels": model(folders["pixels"]),
        "dit": model(folders["dit"], label=5, guidance=2.0),
        "sd3": model(folders["sd3"], embeddings=str(folders["sd3"] / "prompt.safetensors")),
    }


def accelerated(denoise, **settings):
    return Accelerator(Acceleration(**settings))(denoise)


@pytest.mark.parametrize("name", ["pixels", "dit", "sd3"])
@pytest.mark.parametrize("sigma", [0.5, 5.0])
def test_half_precision_and_channels_last_give_the_same_images(models, name, sigma):
    denoise = models[name].denoiser()
    x = (1 + sigma) * images(models[name].shape).double()
    expected = denoise(x, sigma)
    half = accelerated(denoise, autocast="bfloat16")
    assert half.rows_per_image == denoise.rows_per_image
    found = half(x, sigma)
    assert found.dtype == torch.float64
    assert 1e-5 < error(found, expected) < 0.05
    assert error(accelerated(denoise, channels_last=True)(x, sigma), expected) < 2e-6
    assert torch.equal(denoise(x, sigma), expected)


@pytest.mark.parametrize("name", ["pixels", "dit", "sd3"])
def test_few_images_at_once_are_the_same_ones(models, name):
    size = BatchSize()
    size.limit = 2
    denoise, x = models[name].denoiser(), images(models[name].shape, count=5)
    assert error(FittingDenoiser(denoise, size)(x, 1.0), denoise(x, 1.0)) < 1e-5


def test_weights_in_half_are_not_cast_again(models):
    halved = model(models["pixels"].source, dtype="bfloat16")
    with pytest.raises(SpecError, match=r"^autocast: the network's weights are bfloat16 already, given 'float16'"):
        Acceleration("float16").check(halved, "cpu")
