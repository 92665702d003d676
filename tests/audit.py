"""`python -m tests.audit`: pip-audit, with an answer that tells "nothing known" from "nobody could be asked".

pip-audit itself ends with status 0 and "no known vulnerabilities" where the index it asks has no advisories at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

# Advisory -> why it is none of ours. Each is looked at again when the package's version changes.
EXPLAINED: dict[str, str] = {}
SERVICES = ("pypi", "osv")
# Not on the index: this project, and what `make` installs without its requirements.
OUR_OWN = {"sigmasearch"}

Packages = list[dict[str, Any]]


def ask(service: str) -> Packages | None:
    """What pip-audit says of every installed package, or None where the service does not answer."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    ran = subprocess.run([*command, "--vulnerability-service", service], capture_output=True, text=True, check=False)
    try:
        packages: Packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return packages


def verdict(asked: Callable[[str], Packages | None], required: bool) -> tuple[list[str], int]:
    """Lines to print and the exit status: 1 for a vulnerability, 2 where nobody could be asked although `required`."""
    for service in SERVICES:
        packages = asked(service) or []
        audited = [each for each in packages if "skip_reason" not in each]
        if audited:
            return _of(packages, audited, service)
    consequence = "refused, as AUDIT=require" if required else "run it where there is a network; AUDIT=require insists"
    return [f"pip-audit: NOT CHECKED, no vulnerability service answers here ({consequence})"], 2 if required else 0


def _of(packages: Packages, audited: Packages, service: str) -> tuple[list[str], int]:
    found = [(each, advisory) for each in audited for advisory in each["vulns"]]
    ours = [(each, advisory) for each, advisory in found if not _names(advisory) & EXPLAINED.keys()]
    lines = [f"pip-audit: {len(audited)} of {len(packages)} packages audited ({service}), {len(ours)} vulnerabilities"]
    for each, advisory in ours:
        fixed = ", ".join(advisory.get("fix_versions", [])) or "no version yet"
        lines.append(f"  {each['name']} {each['version']}: {advisory['id']}, fixed in {fixed}")
    for _, advisory in found:
        lines += [f"  {name}: explained: {EXPLAINED[name]}" for name in sorted(_names(advisory) & EXPLAINED.keys())]
    left = sorted({each["name"] for each in packages if "skip_reason" in each} - OUR_OWN)
    if left:
        lines.append(f"  not on the index, so not audited: {', '.join(left)}")
    return lines, 1 if ours else 0


def _names(advisory: dict[str, Any]) -> set[str]:
    aliases: Iterable[str] = advisory.get("aliases", [])
    return {advisory["id"], *aliases}


def main() -> int:
    """Ask, print, and say by the exit status."""
    lines, status = verdict(ask, required=os.environ.get("AUDIT") == "require")
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
