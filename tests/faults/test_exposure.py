"""What other machines, and other users of this one, get to see of a search and of its page while they run."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.conftest import SMALL

pytestmark = [pytest.mark.fault, pytest.mark.timeout(400)]

CONSOLE = Path(sys.executable).parent / "sigmasearch"
PASSWORD = "hunter2-of-the-store"
STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(ray.get(ray.remote(num_cpus=0)(lambda: "code of a stranger").remote()))
"""


def family(pid):
    """The process and all that descend from it."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        children.setdefault(int(rest.split()[1]), []).append(int(name.split()[0]))
    found, left = set(), [pid]
    while left:
        found.add(left[-1])
        left.extend(children.get(left.pop(), []))
    return found


def open_sockets(pids):
    """(address, port) of every TCP socket on which these processes listen."""
    held = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # the process is gone
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # the file is closed
                    held.add(os.readlink(fd))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
                words, _, port = fields[1].partition(":")
                packed = bytes.fromhex(words)
                address = ipaddress.ip_address(b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4)))
                found.add((getattr(address, "ipv4_mapped", None) or address, int(port, 16)))
    return found


def beyond_loopback(sockets):
    return sorted((str(address), port) for address, port in sockets if not address.is_loopback)


def test_the_search_for_listeners_would_see_one():
    with socket.create_server(("", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as here:
        seen = open_sockets({os.getpid()})
        assert beyond_loopback(seen) == [("0.0.0.0", everywhere.getsockname()[1])]
        assert (ipaddress.ip_address("127.0.0.1"), here.getsockname()[1]) in seen


class Process:
    """A command of ours with a folder, a log and an environment without settings for Ray or MLflow."""

    def __init__(self, folder, *arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        number = len(list(folder.glob("*.log")))  # the search in the middle still writes its own
        self.log = folder / f"{number}-{arguments[0]}.log"
        with self.log.open("w") as log:
            self.running = subprocess.Popen(
                [CONSOLE, *map(str, arguments)],
                cwd=folder, env=clean | environment | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for(self, happened, seconds=120):
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.running.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def family(self):
        return family(self.running.pid)

    def stop(self):
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exposure")
    for name, more in (("long", {"images": 100_000, "shard_images": 500, "workers": 1}), ("small", {})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(SMALL | {"study": name, "confirm": None} | more))
    return folder


@pytest.fixture(scope="module")
def search(folder):
    """A search with a Ray worker of its own, in the middle of it."""
    process = Process(folder, "search", "long.yaml")
    try:
        process.wait_for(lambda: "[1/" in process.log.read_text())
        yield process
    finally:
        process.stop()


def test_a_search_with_ray_workers_listens_on_loopback_only(search):
    sockets = open_sockets(search.family())
    assert len(sockets) >= 3  # Ray's own servers
    assert beyond_loopback(sockets) == []


def test_who_lacks_the_token_cannot_use_the_ray_of_a_search(search, tmp_path):
    """Loopback is everybody's on a machine that is shared, and a driver may run any code as the user."""
    pids = search.family()
    (gcs,) = (pid for pid in pids if "gcs_server" in Path(f"/proc/{pid}/cmdline").read_text())
    (port,) = {port for _, port in open_sockets({gcs})}
    mine = dict(line.split("=", 1) for line in Path(f"/proc/{gcs}/environ").read_text().split("\0") if "=" in line)
    assert mine["RAY_AUTH_MODE"] == "token"  # on purpose on both sides: the driver is this process's parent
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

    def driver(**environment):
        """What it prints and what it complains of; one that is refused may try again for minutes."""
        command = [sys.executable, "-W", "ignore", "-c", STRANGER, f"127.0.0.1:{port}"]
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            process = subprocess.Popen(command, env=clean | environment, stdout=out, stderr=err)
            deadline = time.monotonic() + 90
            while process.poll() is None and time.monotonic() < deadline:
                if "Unauthenticated" in (tmp_path / "err").read_text():
                    break
                time.sleep(0.2)
            process.kill()
            process.wait()
        return (tmp_path / "out").read_text(), (tmp_path / "err").read_text()

    for stranger in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}):
        printed, complaint = driver(**stranger)
        assert "code of a stranger" not in printed
        assert "Unauthenticated" in complaint, complaint
    assert "code of a stranger" in driver(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=mine["RAY_AUTH_TOKEN"])[0]
    shown = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    assert not any(mine["RAY_AUTH_TOKEN"] in line for line in shown)


@pytest.fixture(scope="module")
def page(folder, search):
    """The page of the store that the search writes, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    process = Process(folder, "ui", "--port", port)

    def up():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except OSError:
            return False

    try:
        process.wait_for(up)
        yield process, f"127.0.0.1:{port}"
    finally:
        process.stop()


def test_the_page_ends_with_all_its_processes_when_it_is_asked_to(folder, search):
    """MLflow's own command leaves behind the child that listens."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    process = Process(folder, "ui", "--port", port)
    process.wait_for(lambda: (ipaddress.ip_address("127.0.0.1"), port) in open_sockets(process.family()))
    pids = process.family()
    assert process.stop() == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()] == []


def test_the_page_listens_on_loopback_only(page):
    process, address = page
    sockets = open_sockets(process.family())
    assert (ipaddress.ip_address("127.0.0.1"), int(address.rpartition(":")[2])) in sockets
    assert beyond_loopback(sockets) == []


def test_a_password_in_the_address_of_a_server_is_in_no_log_and_no_file(page, folder):
    """The server that `sigmasearch ui` has started takes any password; what matters is who writes it down."""
    _, address = page
    uri = f"http://ana:{PASSWORD}@{address}"
    process = Process(folder, "search", "small.yaml", MLFLOW_TRACKING_URI=uri)
    assert process.running.wait(timeout=200) == 0, process.log.read_text()
    assert "ana:***@" in process.log.read_text()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"study.db", "mlflow.db", "table.md", "study.json"} <= {path.name for path in files}
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
