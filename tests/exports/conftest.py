"""k-diffusion's wrappers of networks, imported when a test asks for them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def k_diffusion(k_diffusion_package):
    """Its modules external and sampling."""
    return k_diffusion_package
