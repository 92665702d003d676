"""What needs a GPU, and no more than torch and this project's numerics: no Ray, Optuna, MLflow or torch-fidelity.

On a machine with only these: `python -m pytest tests/gpu --confcutdir=tests/gpu -o addopts= -p no:cacheprovider`.
"""

from __future__ import annotations

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """The project's markers, where its own settings are left out."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is one of these."""
    for item in items:
        if item.path.parent.name != "gpu":
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def exact_convolutions():
    """Float32 in full: by default cuDNN rounds what a convolution multiplies to TensorFloat-32's ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def little_memory():
    """Room for so many bytes beyond what is taken now."""

    def leave(room: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
