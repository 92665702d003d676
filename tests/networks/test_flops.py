"""What a row costs, against a count of each layer as it runs."""

import pytest
import torch

from pipeline.networks import layers
from pipeline.networks.arguments import build
from pipeline.networks.flops import flops
from tests.networks import tiny


def counted(network):
    """Multiply-adds by layer, from the sizes that each puts out when one image goes through on the CPU."""
    total = 0

    def linear(module, given, out):
        nonlocal total
        total += module.weight.numel() * len(out)

    def conv(module, given, out):
        nonlocal total
        if module.weight is not None:
            total += module.weight.numel() * out.shape[-1] * out.shape[-2]
        if module.resample_filter is not None:  # on each channel; with a stride of 2 either way
            small = min(given[0].shape[-1], out.shape[-1])
            total += given[0].shape[1] * module.resample_filter.numel() * small**2

    for module in network.modules():
        if isinstance(module, layers.Linear):
            module.register_forward_hook(linear)
        elif isinstance(module, layers.Conv2d):
            module.register_forward_hook(conv)
    labels = torch.zeros(1, network.label_dim) if network.label_dim else None
    network(tiny.images(1).float(), torch.ones(()), labels)
    return total


def attention(network):
    """Multiply-adds of the two products of attention: queries with keys, weights with values."""
    sizes = []
    for name, module in network.named_modules():
        if name.endswith(".qkv"):
            module.register_forward_hook(lambda m, given, out: sizes.append(out.shape))
    network(tiny.images(1).float(), torch.ones(()), torch.zeros(1, network.label_dim) if network.label_dim else None)
    return sum(2 * (shape[1] // 3) * (shape[2] * shape[3]) ** 2 for shape in sizes)


@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_a_row_is_two_operations_for_each_multiply_add_of_its_layers(name):
    network = tiny.network(name)
    assert flops(build("EDMPrecond", tiny.TINY[name])) == 2 * (counted(network) + attention(network))


def test_classes_cost_next_to_nothing():
    plain, classes = (flops(build("EDMPrecond", tiny.PUBLISHED[f"cifar10-{name}-vp"])) for name in ("uncond", "cond"))
    assert 42e9 < plain < 43e9
    assert classes - plain == 2 * 10 * 128
