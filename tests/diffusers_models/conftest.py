"""diffusers, imported when a test asks for it, and never the net."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def diffusers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("diffusers", reason="diffusers is not installed; make does it")
