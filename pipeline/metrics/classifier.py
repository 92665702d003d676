"""The small network whose penultimate layer measures digits: its definition, its training, its file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.registry import SpecError

WEIGHTS = Path(__file__).parent / "weights" / "digits-cnn.safetensors"
FEATURES = 64
CLASSES = 10
BATCH = 64
# One metadata key: the order of several in the file differs from run to run (safetensors 0.8).
_METADATA = "digits-cnn"


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers over uint8 images (B, 1, 8, 8); 43 000 float32 weights.

    No normalisation layer and no dropout: an image's features depend on nothing but the image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.penultimate = nn.Linear(32 * 4 * 4, FEATURES)
        self.last = nn.Linear(FEATURES, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features of uint8 images (B, 1, 8, 8) -> (B, 64)."""
        scaled = images.to(self.penultimate.weight.dtype) / 127.5 - 1
        # Leaky: with a plain ReLU 21 of the 64 came out dead and the covariance singular.
        return nn.functional.leaky_relu(self.penultimate(self.convolutions(scaled)), 0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes of uint8 images (B, 1, 8, 8) -> (B, 10)."""
        logits: Tensor = self.last(self.features(images))
        return logits


@dataclass(frozen=True)
class Trained:
    """A trained network, its accuracy on the held-out fifth, and the metadata that its file carries."""

    network: DigitsNet
    accuracy: float
    metadata: dict[str, Any]


def split(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to train on and to hold out: a fifth of each class, drawn with `seed`."""
    generator = torch.Generator().manual_seed(seed)
    train, held = [], []
    for label in sorted(set(labels.tolist())):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        cut = len(members) // 5
        held.append(members[:cut])
        train.append(members[cut:])
    return torch.cat(train).sort().values, torch.cat(held).sort().values


def train(images: Tensor, labels: Tensor, *, seed: int = 0, epochs: int = 60) -> Trained:
    """Train on uint8 images (N, 1, 8, 8) with classes (N,): the same bytes each time on the same machine.

    One thread and deterministic kernels while it runs, then the caller's settings again; global generators untouched.
    Adam with a cosine from 2e-3 to 0, batches of 64, shifts by up to one pixel: 99.2 % of the held-out digits.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, held = split(labels, seed)
    with _reproducible(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsNet()
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-4)
        steps = epochs * -(-len(kept) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(epochs):
            order = kept[torch.randperm(len(kept), generator=generator)]
            for batch in torch.split(order, BATCH):
                loss = nn.functional.cross_entropy(network(_shifted(images[batch], generator)), labels[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
                optimiser.step()
                schedule.step()
        network.eval().requires_grad_(False)
        accuracy = (network(images[held]).argmax(1) == labels[held]).double().mean().item()
    digest = hashlib.sha256(images.contiguous().numpy().tobytes() + labels.contiguous().numpy().tobytes())
    metadata = {
        "accuracy": accuracy,
        "held_out": len(held),
        "seed": seed,
        "epochs": epochs,
        "data_sha256": digest.hexdigest(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    return Trained(network, accuracy, metadata)


def save(trained: Trained, path: Path = WEIGHTS) -> None:
    """Write a safetensors file with the metadata; equal networks and metadata give equal bytes."""
    from safetensors.torch import save as serialised

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in trained.network.state_dict().items()}
    # Bytes rather than save_file, which makes a file that only its owner may read.
    path.write_bytes(serialised(tensors, {_METADATA: json.dumps(trained.metadata, sort_keys=True)}))


def load(path: Path = WEIGHTS) -> Trained:
    """Read a file that `save` wrote.

    Raises:
        SpecError: no such file, or not one of this network.
    """
    from safetensors import SafetensorError, safe_open

    network = DigitsNet()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()[_METADATA])
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(f"cannot be read as weights of digits-cnn ({reason})", file=str(path)) from None
    network.eval().requires_grad_(False)
    return Trained(network, float(metadata["accuracy"]), metadata)


@functools.cache
def shipped(device: str = "cpu") -> DigitsNet:
    """The network that the package ships, on `device`; read once a process."""
    return load().network.to(device)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel along both axes, black coming in."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (2, count), generator=generator)
    rows = (moves[0][:, None] + torch.arange(height))[:, :, None]
    columns = (moves[1][:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns].unsqueeze(1)


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
