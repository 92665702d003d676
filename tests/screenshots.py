"""Pictures of the report and of MLflow's leaderboard for the documents: `make screenshots`, after `make demo`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pipeline import store
from pipeline.registry import SpecError
from reports.record import find_experiment
from tests.headless import ABSENT, Browser, find_chromium

WIDE, NARROW, BOARD = 1280, 390, 1500
REPORT_HEIGHT, LEADERBOARD_HEIGHT = 1560, 900
READY_SECONDS = 120.0
# The runs table of MLflow 3.17 is an ag-grid, and each of its lines a row; while it loads, some are empty.
TABLE_SHOWN = (
    "[...document.querySelectorAll('.ag-center-cols-container .ag-row')].filter(row => row.innerText).length > 5"
)

# A fresh browser is offered MLflow's assistant, in a third of the window.
CLOSE_ASSISTANT = "document.querySelector('[data-component-id=\\'mlflow.assistant.chat_panel.close\\']')?.click()"


def report(browser: Browser, page: Path, out: Path) -> list[Path]:
    """The report's first screens, wide and narrow, light and dark, and one budget closely."""
    pictures = []
    for name, width in (("report", WIDE), ("report-narrow", NARROW)):
        for dark in (False, True):
            browser.open(page.resolve().as_uri(), width=width, height=REPORT_HEIGHT, dark=dark)
            pictures.append(browser.picture(out / f"{name}{'-dark' if dark else ''}.png"))
    browser.open(page.resolve().as_uri(), width=WIDE, height=REPORT_HEIGHT)
    if browser.run("document.getElementById('closer') !== null"):
        browser.run("document.documentElement.style.scrollBehavior = 'auto'")
        browser.run("document.getElementById('closer').scrollIntoView()")
        pictures.append(browser.picture(out / "report-budget.png"))
    return pictures


def leaderboard(browser: Browser, uri: str, study: str, out: Path) -> Path:
    """MLflow's page of the study's experiment, from a server on a free port of this machine that ends afterwards."""
    client = store.open_client(uri, create=False)
    experiment = client.get_experiment_by_name(find_experiment(uri, study))
    with _served(uri) as base:
        browser.open(store.leaderboard_url(base, experiment.experiment_id), width=BOARD, height=LEADERBOARD_HEIGHT)
        browser.wait(TABLE_SHOWN, READY_SECONDS)
        browser.run(CLOSE_ASSISTANT)
        time.sleep(2)  # columns are still being laid out when the first lines are there
        return browser.picture(out / "leaderboard.png")


@contextlib.contextmanager
def _served(uri: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, environment = store.server_command(uri, port)
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{base}/health", server)
        yield base
    finally:
        # MLflow's command does not end the server that it starts as a child.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SpecError("the MLflow server ended before it was ready", path="MLflow store")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    raise SpecError(f"the MLflow server was not ready within {READY_SECONDS:g} s", path="MLflow store")


def main(arguments: list[str] | None = None) -> int:
    """Take all pictures; a mistake is one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the run directories")
    parser.add_argument("--study", default="digits", help="the study whose report and leaderboard are shown")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="where the pictures go")
    asked = parser.parse_args(arguments)
    chromium = find_chromium()
    page = asked.runs / asked.study / "report" / "report.html"
    try:
        if chromium is None:
            raise SpecError(ABSENT, path="make screenshots")
        if not page.is_file():
            raise SpecError("there is no report to show; `make demo` makes one", path="--runs", given=str(page))
        uri = store.store_uri(asked.runs)
        with Browser(chromium) as browser:
            made = [*report(browser, page, asked.out), leaderboard(browser, uri, asked.study, asked.out)]
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
