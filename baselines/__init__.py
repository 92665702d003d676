"""Published solvers and schedules, one paper a file. Dropping a file in registers what it defines."""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
