"""Where a study may be kept: what is no server is refused in one line, and no line shows a password."""

import socket

import pytest

from pipeline.server_storage import masked
from tests.cli.console import TINY, done, refused

SECRET = "s3cr3t"


@pytest.fixture
def closed():
    """A port of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("sqlite:////srv/study.db", "is not the address of a server storage (a file is what the run directory has"),
        ("mysql://me@127.0.0.1/studies", "is not the address of a server storage"),
        ("study.db", "is not the address of a server storage"),
        (f"me:{SECRET}@127.0.0.1/studies", "is not the address of a server storage"),
        (f"postgresql://me:{SECRET}@127.0.0.1", "names no database"),
        (f"postgresql://me:p@{SECRET}@127.0.0.1/studies", "holds an @ too many: in a password it is written %40"),
        (f"postgresql://me:{SECRET}@127.0.0.1:many/studies", "is not the address of a server storage"),
    ],
)
@pytest.mark.parametrize("name", ["--storage", "SIGMASEARCH_STORAGE"])
def test_what_is_no_server_is_refused(elsewhere, monkeypatch, address, says, name):
    option = [name, address] if name == "--storage" else []
    if not option:
        monkeypatch.setenv(name, address)
    line = refused(elsewhere, "search", TINY, *option)
    assert says in line
    assert line.startswith(f"error: {name}: ")
    assert "allowed: postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in line
    assert SECRET not in line


@pytest.mark.parametrize("command", ["search", "sync"])
def test_a_server_that_does_not_answer_is_told_without_its_password(elsewhere, closed, command):
    if command == "sync":
        (elsewhere / "runs" / "tiny").mkdir(parents=True)
    address = f"postgresql://me:{SECRET}@127.0.0.1:{closed}/studies?password={SECRET}"
    line = refused(elsewhere, command, TINY, "--storage", address)
    assert "the storage cannot be opened (Connection refused)" in line
    assert f"given 'postgresql://me:***@127.0.0.1:{closed}/studies?password=***'" in line
    assert SECRET not in line


def test_a_study_is_shared_on_a_server_only(elsewhere):
    line = refused(elsewhere, "search", TINY, "--join")
    assert line.startswith("error: --join: a study is shared on a server; allowed: --join with --storage postgresql://")


def test_help_says_how_to_share_a_study():
    words = " ".join(done("search", "--help").out.replace("│", " ").split())
    for said in ("--storage", "--join", "SIGMASEARCH_STORAGE", "needs a server storage"):
        assert said in words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:a@b:c@host/d", "postgresql://me:***@host/d"),
        ("x --storage postgresql://me:pw@host:5/d --join", "x --storage postgresql://me:***@host:5/d --join"),
        ("postgresql://me@host/d?a=1&password=pw&b=2", "postgresql://me@host/d?a=1&password=***&b=2"),
        ("me:pw@host/d", "me:***@host/d"),
        ("postgresql://host:5432/d", "postgresql://host:5432/d"),
        ("search digits --trials 200", "search digits --trials 200"),
    ],
)
def test_a_password_is_masked_and_nothing_else(text, shown):
    assert masked(text) == shown
