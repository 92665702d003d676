"""The peers, imported once and only when a test asks for them."""

from __future__ import annotations

import functools
import sys

import pytest
import torch

from tests.peers.comparison import Replaced


@pytest.fixture(scope="session")
def k_diffusion(k_diffusion_package):
    """Module k_diffusion.sampling."""
    return k_diffusion_package.sampling


@pytest.fixture(scope="session")
def diffusers():
    """The package; its schedulers are imported as they are asked for. Nothing is downloaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return pytest.importorskip("diffusers", reason="diffusers is not installed; make does it")


@pytest.fixture
def build(diffusers, monkeypatch):
    """Makes a scheduler by its name and configuration."""

    def make(name, *, single=False, **config):
        cls = getattr(diffusers, name)
        if not single:
            # Some round the state to single precision in every step; so that nothing does, this name means double.
            linspace = functools.partial(torch.linspace, dtype=torch.float64)
            double = Replaced(torch, float32=torch.float64, linspace=linspace)
            monkeypatch.setattr(sys.modules[cls.__module__], "torch", double)
        return cls(**config)

    return make
