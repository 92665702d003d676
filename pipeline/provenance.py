"""Where a number came from: the revision of this code and the versions it ran with."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.ray_job import uploaded_copy

PACKAGES = ("torch", "numpy", "scipy", "optuna", "ray", "mlflow", "torch-fidelity")


@functools.cache
def git_revision() -> str:
    """Twelve digits of the commit, `+` behind them where the tree differs from it, or "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.yaml", "*.safetensors")
    except (OSError, subprocess.SubprocessError):
        copy = uploaded_copy()  # in a Ray job: named by the hash of what was sent
        return f"upload {copy.name.removeprefix('_ray_pkg_')}" if copy else "unknown"
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # nosec B603


@functools.cache
def versions() -> dict[str, str]:
    """Python and the packages that decide a number, name -> version; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
