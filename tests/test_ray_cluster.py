"""The launcher's file is one that this Ray takes, and opens nothing to the world."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "ray_cluster.yaml"
CLOUD_ONLY = ("provider", "auth", "available_node_types", "head_node_type", "max_workers", "head_setup_commands")


def cloud():
    return yaml.safe_load(FILE.read_text())


def on_premise():
    """The variant of the file's end, with its comment marks off, in the place of what it replaces."""
    variant = "\n".join(re.findall(r"^#= ?(.*)$", FILE.read_text(), re.MULTILINE))
    kept = {key: value for key, value in cloud().items() if key not in CLOUD_ONLY}
    return {**kept, **yaml.safe_load(variant)}


@pytest.fixture(params=[cloud, on_premise], ids=["aws", "local"])
def written(request):
    return request.param()


def ready(config):
    """The file as `ray up` reads it: defaults filled in, then checked against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(config)
    validate_config(filled)
    return filled


def commands(config):
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def starts(config):
    return [line for line in commands(config) if "ray start" in line]


def test_ray_takes_it(written):
    filled = ready(written)
    assert filled["cluster_name"] == "sigmasearch"
    assert filled["max_workers"] >= 2


@pytest.mark.parametrize(
    "spoil",
    [
        {"idle_minutes": 5},
        {"max_workers": -1},
        {"setup_commands": "pip install ."},
        {"available_node_types": {"head": {"resources": {}}}},
        {"head_node_type": "boss"},
    ],
)
def test_the_check_would_notice_a_mistake(spoil):
    from jsonschema import ValidationError

    with pytest.raises((ValidationError, ValueError, TypeError, KeyError)):
        ready({**cloud(), **spoil})


def test_workers_come_when_needed_and_the_head_computes_nothing():
    filled = ready(cloud())
    head, worker = (filled["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert filled["head_node_type"] == "head"
    assert head["resources"]["CPU"] == 0
    assert (worker["min_workers"], worker["max_workers"]) == (0, filled["max_workers"])
    assert worker["resources"]["GPU"] >= 1
    assert filled["idle_timeout_minutes"] <= 15


def test_nothing_of_rays_defaults_runs_that_was_not_chosen(written):
    """An absent list is filled in with Ray's own: another Ray, and a dashboard for everybody."""
    for key in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert key in written
    filled = ready(written)
    assert not any("wheels" in line or "anaconda" in line for line in commands(filled))


def test_every_node_installs_the_project(written):
    filled = ready(written)
    for key in ("head_setup_commands", "worker_setup_commands"):
        assert any(re.search(r"pip install .*-e ~/sigmasearch$", line) for line in filled[key])


def test_a_node_gets_what_installing_needs_and_nothing_else(written):
    """Else `ray up` reads all of .venv and runs for its hash, and restarts Ray whenever a run has written something."""
    sent = {remote: local for remote, local in ready(written)["file_mounts"].items() if local != "~/.ray/auth_token"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = ["pyproject.toml", project["project"]["readme"], project["project"]["license"]["file"]]
    assert sent == {f"~/sigmasearch/{name}": name for name in (*packages, *files)}
    assert all((ROOT / name).exists() for name in sent.values())


@pytest.mark.parametrize("name", ["__pycache__", ".env", ".netrc", "tls.pem", "tls.key", ".plan.py.swp"])
def test_what_lies_among_the_sources_by_mistake_is_not_sent(written, name):
    assert any(fnmatch(name, pattern) for pattern in ready(written)["rsync_exclude"])


def test_every_ray_needs_the_token_and_reports_no_usage(written):
    filled = ready(written)
    lines = starts(filled)
    assert len(lines) == 2
    for line in lines:
        exported = set(re.search(r"^export ([^;]*);", line)[1].split())
        assert {"RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"} <= exported
    assert "~/.ray/auth_token" in filled["file_mounts"].values()
    assert "chmod 600 ~/.ray/auth_token" in filled["setup_commands"]


def test_a_job_finds_the_command_and_has_time_to_end(written):
    """Jobs inherit the environment of `ray start`: its PATH, and how long `ray job stop` waits before it kills."""
    (head,) = (line for line in starts(ready(written)) if "--head" in line)
    assert head.startswith('export PATH="$HOME/venv/bin:$PATH" ')
    assert int(re.search(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", head)[1]) == 20


def test_every_port_is_chosen_and_told_so_that_a_firewall_can_name_it(written):
    told = re.search(r"so that a firewall can name them: ([\d, -]+)\.", FILE.read_text())[1]
    open_ports = set()
    for span in told.split(", "):
        first, _, last = span.partition("-")
        open_ports |= set(range(int(first), int(last or first) + 1))
    for line in starts(ready(written)):
        ports = {name: int(port) for name, port in re.findall(r"--([a-z-]*port)=(\d+)", line)}
        least, most = ports.pop("min-worker-port"), ports.pop("max-worker-port")
        assert ports.pop("dashboard-port", 8265) == 8265  # behind the launcher's tunnel
        everyone = {"object-manager", "node-manager", "dashboard-agent-listen", "dashboard-agent-grpc"}
        everyone |= {"runtime-env-agent", "metrics-export"}
        assert {f"{name}-port" for name in everyone} <= set(ports)
        assert len(set(ports.values())) == len(ports)
        workers = set(range(least, most + 1))
        assert workers & set(ports.values()) == set()
        assert {*workers, *ports.values()} <= open_ports


def test_nothing_is_open_to_the_world(written):
    filled = ready(written)
    (head,) = (line for line in starts(filled) if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in head
    text = yaml.safe_dump(filled)
    assert "0.0.0.0" not in text
    assert "::/0" not in text
    if filled["provider"]["type"] == "aws":
        assert "security_group" not in filled["provider"]
        for node in filled["available_node_types"].values():
            # Else the launcher makes a group of its own, with SSH for every address.
            assert node["node_config"]["SecurityGroupIds"]


def test_commands_are_shell(written):
    for line in commands(ready(written)):
        checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_options_are_rays_own(written):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for line in commands(ready(written)):
        if "ray start" in line:
            used = re.findall(r"--[a-z-]+", line.partition("ray start")[2])
            assert len(used) >= 2
            assert set(used) <= known
