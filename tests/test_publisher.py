"""Who tells MLflow: in order, beside the search, and never in its way."""

import io
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline.job import Status
from pipeline.portrait_store import PortraitStore
from pipeline.publisher import Publisher
from tests.synthetic_study import small_study

STATUS = Status(total=1)


class Store:
    """A record that remembers, and waits at a gate where there is one."""

    def __init__(self, gate=None, broken=()):
        self.told, self.ended, self.gate, self.broken = [], [], gate, set(broken)
        self.entered = threading.Event()

    def log(self, record, portrait):
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        self.told.append((record.key, threading.current_thread().name))
        if len(self.told) in self.broken:
            raise ConnectionError("refused")
        return True

    def finish(self, status):
        self.ended.append(status)


@pytest.fixture
def made(tmp_path):
    def publisher(store):
        console = Console(file=io.StringIO(), width=120)
        held = Publisher(lambda: store, console, PortraitStore(tmp_path))
        held.open()
        return SimpleNamespace(publisher=held, told=console.file.getvalue)

    return publisher


def test_trials_are_told_in_their_order_by_one_thread_and_the_end_waits_for_it(made):
    gate = threading.Event()
    store = Store(gate)
    publisher, records = made(store).publisher, small_study()
    for record in records:
        publisher.finished(record, STATUS)  # returns, though the store does not
    assert store.told == []
    threading.Timer(0.05, gate.set).start()
    assert publisher.sync(records) is store
    assert store.told == [(record.key, "record") for record in records]


def test_what_has_changed_since_it_was_told_is_told_again_in_the_end(made):
    store = Store()
    publisher, records = made(store).publisher, small_study()
    for record in records[:3]:
        publisher.finished(record, STATUS)
    changed = [records[0], records[1], records[3]]
    publisher.sync([*changed, records[4]])
    main = threading.current_thread().name
    assert store.told[3:] == [(records[3].key, main), (records[4].key, main)]
    publisher.open()  # others may have written since
    publisher.sync(records[:2])
    assert store.told[5:] == [(records[0].key, main), (records[1].key, main)]


def test_one_that_fails_is_told_again_before_the_next_one(made, monkeypatch):
    monkeypatch.setattr(Publisher, "RETRY_SECONDS", 0.0)
    store = Store(broken=[2, 3])
    held, records = made(store), small_study()[:4]
    for record in records:
        held.publisher.finished(record, STATUS)
    held.publisher._ended.join()
    keys = [record.key for record in records]
    assert [key for key, _ in store.told] == [keys[0], keys[1], keys[1], keys[1], keys[2], keys[3]]
    assert held.told().count("does not answer") == 1
    assert held.told().count("answers again") == 1


@pytest.mark.parametrize("busy", [True, False])
def test_a_search_that_is_stopped_does_not_wait_for_mlflow(made, monkeypatch, busy):
    monkeypatch.setattr(Publisher, "STOP_SECONDS", 0.05)
    gate = threading.Event()
    store = Store(gate)
    publisher = made(store).publisher
    if not busy:
        gate.set()
    for record in small_study()[:5]:
        publisher.finished(record, STATUS)
    assert store.entered.wait(30)
    if not busy:
        publisher._ended.join()
    publisher.stopped()
    assert store.ended == ([] if busy else ["KILLED"])
    gate.set()
    publisher._ended.join()
    assert len(store.told) == (1 if busy else 5)
