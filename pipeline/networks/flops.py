"""What one image costs a network, counted without weights and without computing anything."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks.preconditioning import Preconditioner


def flops(network: Preconditioner) -> int:
    """Floating-point operations of one row, two for a multiply-add; `network` is on the meta device.

    Those of convolutions and matrix products, by torch's own count. Norms and activations are left out, as is usual.
    """
    size = network.img_resolution
    with torch.no_grad(), torch.device("meta"):
        x = torch.empty(1, network.img_channels, size, size)
        labels = torch.empty(1, network.label_dim) if network.label_dim else None
        with FlopCounterMode(display=False) as counter:
            network(x, torch.ones(()), labels)
    return int(counter.get_total_flops())
