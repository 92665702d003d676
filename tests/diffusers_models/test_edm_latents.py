"""EDM2's networks of latents, decoded by an AutoencoderKL as its own encoder of latents does it."""

import json

import pytest
import torch

from pipeline.metrics.features import quantise
from pipeline.models import MODELS
from pipeline.networks.checkpoint import Checkpoint, write_checkpoint
from pipeline.networks.preconditioning import PRECONDITIONERS
from pipeline.registry import SpecError, to_spec
from tests.diffusers_models.pipelines import DECODER, PIXELS, component, error, images, write
from tests.networks import tiny

# NVlabs/edm2 training/encoders.py, of stabilityai/sd-vae-ft-mse.
MEAN = torch.tensor([5.81, 3.25, 0.12, -2.15]).reshape(1, 4, 1, 1)
STD = torch.tensor([4.17, 4.62, 3.71, 3.28]).reshape(1, 4, 1, 1)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A network of 4 channels of latents in `latents.safetensors`, one of pixels, and the decoder in `vae`."""
    folder = tmp_path_factory.mktemp("edm2")
    for name, channels in (("latents", 4), ("pixels", 3)):
        arguments = tiny.EDM2 | {"img_channels": channels}
        torch.manual_seed(0)
        network = PRECONDITIONERS["Precond"](**arguments)
        write_checkpoint(Checkpoint("Precond", arguments, network.state_dict()), folder / f"{name}.safetensors")
    vae = component("AutoencoderKL", **DECODER)
    vae.save_pretrained(folder / "vae")
    return folder, vae


def built(folder, name="latents", decoder="vae", **fields):
    given = {"decoder": str(folder / decoder)} if decoder else {}
    return MODELS.build({"name": "edm", "path": str(folder / f"{name}.safetensors"), "label": 1, **given, **fields})


def test_pixels_are_those_that_edm2_writes(held):
    folder, vae = held
    ours, latents = built(folder), images((4, 8, 8)) * 0.5
    assert (ours.shape, ours.image_shape) == ((4, 8, 8), (3, 16, 16))
    # Deviation 0.5 and mean 0 made raw again; the autoencoder's own pixels lie in [0, 1].
    decoded = vae.decode((latents - (0 - MEAN * (0.5 / STD))) / (0.5 / STD)).sample
    found = ours.decode(latents.double())
    assert error(found, (255 * decoded - 128) / 127.5) < 1e-5
    written = (decoded.clamp(0, 1) * 255).to(torch.uint8)
    # Rounding of single precision next to a whole number.
    differ = (quantise(found).int() - written.int()).abs()
    assert differ.max() <= 1
    assert differ.float().mean() < 1e-3
    assert 20 < written.float().std() < 128


def test_without_a_decoder_latents_are_themselves(held):
    ours, latents = built(held[0], decoder=None), images((4, 8, 8))
    assert ours.decode(latents) is latents
    assert ours.image_shape == ours.shape


def test_many_are_decoded_a_few_at_once(held, monkeypatch):
    ours, latents = built(held[0]), images((4, 8, 8), count=5)
    whole = ours.decode(latents)
    monkeypatch.setattr("pipeline.models.diffusers.autoencoder.DECODED_AT_ONCE", 2)
    assert error(ours.decode(latents), whole) < 1e-4


def test_the_decoder_is_in_the_hash_and_may_lie_in_a_pipeline(held, tmp_path):
    folder, vae = held
    write(tmp_path, "DDPMPipeline", unet=component("UNet2DModel", **PIXELS), scheduler=component("DDPMScheduler"),
          vae=vae)  # fmt: skip
    ours, other = built(folder), built(folder, decoder=tmp_path)
    assert ours.hash == other.hash != built(folder, decoder=None).hash
    assert MODELS.build(to_spec(ours)) == ours
    component("AutoencoderKL", seed=1, **DECODER).save_pretrained(tmp_path / "vae")
    assert built(folder, decoder=tmp_path).hash != ours.hash


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        ("nowhere", "decoder: there is no such folder, given '{folder}/nowhere'; allowed: a folder with an "
                    "AutoencoderKL, as `hf download stabilityai/sd-vae-ft-mse"),
        ("empty", "decoder: lacks config.json"),
        ("broken", "decoder: is damaged"),
        ("unet", "decoder: is another network, given 'UNet2DModel'"),
        ("two", "decoder: is for a network of latents"),
    ],
)  # fmt: skip
def test_a_decoder_that_does_not_fit_is_one_line(held, tmp_path, decoder, says):
    folder, vae = held
    (tmp_path / "empty").mkdir()
    vae.save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    component("UNet2DModel", **PIXELS).save_pretrained(tmp_path / "unet")
    component("AutoencoderKL", **DECODER | {"latent_channels": 2}).save_pretrained(tmp_path / "two")
    with pytest.raises(SpecError) as told:
        built(folder, decoder=tmp_path / decoder)
    assert str(told.value).startswith(says.format(folder=tmp_path))
    assert "\n" not in str(told.value)


def test_a_network_of_pixels_takes_no_decoder(held):
    with pytest.raises(SpecError, match="decoder: is for a network of latents, given 'a network of 3 channels'"):
        built(held[0], "pixels")


def test_weights_of_another_decoder(held, tmp_path):
    folder, vae = held
    vae.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"block_out_channels": [8, 8]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match="decoder: 4 unexpected keys in its weights"):
        built(folder, decoder=tmp_path)
