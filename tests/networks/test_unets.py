"""Our U-Nets compute what a second writing of them computes, and every tensor of a checkpoint matters."""

import pytest
import torch

from pipeline.networks.preconditioning import UNETS
from tests.networks import reference_unet, tiny

VARIANTS = {
    **tiny.TINY,
    "three levels": tiny.TINY["ncsnpp"] | {"channel_mult": [1, 2, 3], "num_blocks": 2, "attn_resolutions": [8, 2]},
    "ddpmpp, labels and augmentation": tiny.TINY["ddpmpp"] | {"label_dim": 3, "channel_mult": [2, 1, 2]},
    "skip, box filter": tiny.TINY["skip"] | {"resample_filter": [1, 1], "channel_mult": [1, 1, 1]},
    "six taps": tiny.TINY["ncsnpp"] | {"resample_filter": [1, 4, 7, 7, 4, 1]},
    "adm, three levels": tiny.TINY["adm"] | {"channel_mult": [2, 2, 8], "label_dim": 0, "attn_resolutions": [2]},
}


def made(name):
    arguments = {key: value for key, value in VARIANTS[name].items() if key not in ("img_channels", "model_type")}
    torch.manual_seed(0)
    network = UNETS[VARIANTS[name]["model_type"]](**arguments, in_channels=3, out_channels=4).requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape) / max(parameter[0].numel(), 1) ** 0.5)
    inputs = {"labels": VARIANTS[name].get("label_dim"), "augment": VARIANTS[name].get("augment_dim")}
    given = {key: torch.randn(3, size).double() for key, size in inputs.items() if size}
    return network, (tiny.images(3), torch.tensor([0.3, -1.2, 7.0]).double()), given


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_is_what_its_paper_describes(name):
    network, inputs, given = made(name)
    expected = reference_unet.unet(network.state_dict(), VARIANTS[name], *inputs, **given)
    found = network(*inputs, **given)
    assert found.shape == (3, 4, 8, 8)
    assert found.dtype == torch.float64
    # The attention's weights are float32 in any network, as published.
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    # Every input counts: the agreement is not one of two networks that ignore it.
    for key in given:
        changed = reference_unet.unet(network.state_dict(), VARIANTS[name], *inputs, **(given | {key: given[key] + 1}))
        assert (changed - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("name", tiny.TINY)
def test_where_the_signal_is_faint_each_norm_has_the_published_eps(name):
    network, inputs, given = made(name)
    for key, parameter in network.named_parameters():
        if parameter.dim() == 4 or (key.endswith("bias") and "norm" not in key and "map_" not in key):
            parameter.mul_(1e-3)
    expected = reference_unet.unet(network.state_dict(), VARIANTS[name], *inputs, **given)
    assert (network(*inputs, **given) - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", tiny.TINY)
def test_every_tensor_of_a_checkpoint_matters(name):
    network, inputs, given = made(name)
    inputs, given = [each[:1].float() for each in inputs], {key: value[:1].float() for key, value in given.items()}
    before = network(*inputs, **given)
    for key, tensor in network.state_dict().items():
        kept = tensor.clone()
        tensor.add_(torch.linspace(0.5, 1.5, tensor.numel()).reshape(tensor.shape))
        assert not torch.allclose(network(*inputs, **given), before, rtol=1e-5, atol=0), key
        tensor.copy_(kept)
    assert torch.equal(network(*inputs, **given), before)


@pytest.mark.parametrize("name", tiny.TINY)
def test_one_noise_level_and_one_label_serve_the_whole_batch(name):
    network, (x, noise), given = made(name)
    labels = None if given.get("labels") is None else given["labels"][:1]
    together = network(x, noise[:1], labels)
    apart = [network(x[i : i + 1], noise[:1], labels) for i in range(3)]
    assert torch.allclose(together, torch.cat(apart), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", tiny.TINY)
def test_in_float16_the_image_is_half_and_the_embedding_is_not(name):
    network, (x, noise), given = made(name)
    given = {key: value.float() for key, value in given.items()}
    whole = network(x.float(), noise.float(), **given)
    half = network(x.half(), noise.float(), **given)
    assert half.dtype == torch.float16
    assert 1e-5 < (half.float() - whole).abs().max() / whole.abs().max() < 0.05
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
