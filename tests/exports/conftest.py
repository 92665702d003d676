"""k-diffusion's wrappers of networks, imported when a test asks for them."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest


@pytest.fixture(scope="session")
def k_diffusion():
    """Its modules external and sampling. The package itself is not run: it imports what only training with it needs."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed; make does it")
    for needed in ("torchsde", "torchdiffeq"):
        pytest.importorskip(needed, reason=f"k_diffusion.sampling needs {needed}")
    with pytest.MonkeyPatch.context() as patch:
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "k_diffusion", package)
        package.sampling = importlib.import_module("k_diffusion.sampling")
        package.external = importlib.import_module("k_diffusion.external")
        return package
