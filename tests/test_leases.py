"""Who may work on what, and who is taken for dead: by beats that are counted, not by clocks that are compared."""

import threading

import pytest
import sqlalchemy

from pipeline.leases import LeaseLostError, Leases
from pipeline.registry import SpecError

IDENTITY = {"study": "made", "space": {"tau_k": [1e-3, 1.0]}}
TERMS = {"trials": 200}


class Still(Leases):
    """A driver whose thread sleeps: the test says when it beats and looks."""

    BEAT_SECONDS = 3600.0


@pytest.fixture
def driver(tmp_path):
    """Drivers of one study, each registered and closed in the end."""
    opened = []

    def make(join=True, identity=IDENTITY, terms=TERMS, kind=Still):
        leases = kind(sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'leases.db'}"), "made")
        opened.append(leases)
        leases.place = leases.register(identity, terms, join=join, waiting=lambda: None)
        return leases

    yield make
    for leases in opened:
        leases.close()


def bury(observer):
    """Look until whoever is silent is dead; once more than needed."""
    for _ in range(observer.LOOKS + 1):
        observer.look()


# Taking ----------------------------------------------------------------------------------------------------------


def test_what_one_driver_has_no_other_can_take(driver):
    first, second = driver(), driver()
    assert first.take("floor")
    assert first.take("floor")
    assert not second.take("floor")
    assert second.take("baseline/ddim/3")
    assert first.held() == second.held() == {"floor": first.driver, "baseline/ddim/3": second.driver}


def test_of_many_that_ask_at_once_one_is_given_it(driver):
    drivers, keys, taken = [driver() for _ in range(4)], [f"key {n}" for n in range(8)], []
    start = threading.Barrier(len(drivers))

    def ask(leases):
        start.wait()
        taken.extend((key, leases.driver) for key in keys if leases.take(key))

    threads = [threading.Thread(target=ask, args=[leases]) for leases in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for key, _ in taken) == keys
    assert drivers[0].held() == dict(taken)


def test_a_turn_is_one_drivers_at_a_time_and_what_fails_in_it_is_undone(driver):
    first, second = driver(), driver()
    order, inside = [], threading.Event()

    def wait_for_it():
        inside.wait()
        with second.turn():
            order.append("second")

    other = threading.Thread(target=wait_for_it)
    other.start()

    def fail_after_a_while():
        with first.turn() as turn:
            turn.take("floor")
            inside.set()
            other.join(timeout=0.3)
            order.append("first")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_a_while()
    other.join()
    assert order == ["first", "second"]
    assert second.held() == {}


def test_what_is_given_back_is_anybodys_and_nobody_gives_back_anothers(driver):
    first, second = driver(), driver()
    first.take("floor")
    with second.turn() as turn:
        turn.give(["floor"])
    assert not second.take("floor")
    with first.alone("report"):
        assert not second.take("report")
    assert second.take("report")


# Life and death --------------------------------------------------------------------------------------------------


def test_a_driver_that_is_silent_for_too_many_looks_is_buried_and_what_it_had_is_anybodys(driver):
    first, second = driver(), driver()
    first.take("floor")
    for _ in range(second.LOOKS):
        second.look()
    assert not second.take("floor")
    second.look()
    assert second.take("floor")
    second.check()
    with pytest.raises(LeaseLostError):
        first.check()
    with pytest.raises(LeaseLostError):
        first.take("baseline/ddim/3")
    assert second.held() == {"floor": second.driver}, "what the dead one takes is undone"
    first.beat()  # too late
    with pytest.raises(LeaseLostError):
        first.check()


def test_one_beat_in_between_and_a_driver_lives_on(driver):
    first, second = driver(), driver()
    for _ in range(4):
        for _ in range(second.LOOKS - 1):
            second.look()
        first.beat()
        assert second.look() == [first.driver]
    first.check()


def test_an_observer_that_slept_buries_nobody(driver, monkeypatch):
    """However far every clock has gone meanwhile, it has looked once."""
    first, second = driver(), driver()
    second.look()
    for clock in ("time", "monotonic"):
        monkeypatch.setattr(f"time.{clock}", lambda: 1e12)
    second.look()
    first.check()


def test_threads_keep_drivers_alive_and_bury_who_stops(driver):
    class Quick(Leases):
        BEAT_SECONDS, LOOKS = 0.05, 20

    first, second, dead = driver(kind=Quick), driver(kind=Quick), driver()
    dead.take("floor")
    gone = threading.Event()
    for _ in range(200):
        if first.take("floor"):
            break
        gone.wait(0.05)
    first.check()
    second.check()
    with pytest.raises(LeaseLostError):
        dead.check()


def test_one_that_leaves_gives_all_up_at_once(driver):
    first, second = driver(), driver()
    first.take("floor")
    first.close()
    assert second.take("floor")


# Coming ----------------------------------------------------------------------------------------------------------


def test_each_driver_has_the_lowest_place_that_is_free(driver):
    first, second, third = driver(), driver(), driver()
    assert [leases.place for leases in (first, second, third)] == [0, 1, 2]
    second.close()
    assert driver().place == 1


def test_without_join_a_living_driver_is_in_the_way(driver):
    class Quick(Leases):
        BEAT_SECONDS, LOOKS = 0.05, 20

    first = driver(kind=Quick)
    with pytest.raises(SpecError, match=r"another driver is on this study.*--join") as caught:
        driver(join=False, kind=Quick)
    assert first.driver in str(caught.value)
    first.check()


def test_without_join_a_dead_one_is_not(driver):
    class Quick(Leases):
        BEAT_SECONDS, LOOKS = 0.02, 3

    dead = driver()
    dead.take("floor")
    second = driver(join=False, kind=Quick)
    assert (second.place, second.held()) == (0, {})
    assert second.take("floor")
    with pytest.raises(LeaseLostError):
        dead.check()


def test_the_storage_knows_which_study_it_has(driver):
    driver().close()
    with pytest.raises(SpecError, match=r"space\.tau_k is \[0\.001, 1\.0\] there") as caught:
        driver(identity={"study": "made", "space": {"tau_k": [1e-3, 2.0]}})
    assert (caught.value.path, caught.value.given) == ("space.tau_k", [1e-3, 2.0])


def test_drivers_agree_on_how_long_the_study_is_while_there_are_several(driver):
    first = driver()
    with pytest.raises(SpecError, match="have to agree; it is 200 for those that are on it, given 100"):
        driver(terms={"trials": 100})
    first.close()
    assert driver(terms={"trials": 100}).place == 0


def test_studies_of_one_server_know_nothing_of_each_other(driver, tmp_path):
    first = driver()
    first.take("floor")
    other = Still(sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'leases.db'}"), "other")
    try:
        assert other.register({"study": "other"}, {}, join=False, waiting=pytest.fail) == 0
        assert other.take("floor")
        bury(other)
        first.check()
    finally:
        other.close()
