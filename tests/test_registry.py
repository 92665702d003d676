"""Names to instances and back, and what a user is told when a word is wrong."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from pipeline.registry import Registry, SpecError, require, to_spec


@dataclass(frozen=True)
class Kettle:
    volume: float
    cups: int = 2
    whistle: bool = False
    colour: str = "black"
    order: Literal[1, 2, 3] = 2
    base: Literal["gas", "coil"] = "gas"
    notes: tuple[float, ...] = ()
    label: str | None = None
    limit: int | None = None
    inner: Mapping[str, Any] = field(default_factory=dict)
    boiled: int = field(default=7, init=False)

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.volume > 0, "volume", self.volume, "above 0")


@pytest.fixture
def kettles():
    registry: Registry[Kettle] = Registry("kettle")
    registry.register("kettle")(Kettle)
    return registry


FULL = {
    "name": "kettle",
    "volume": 1.5,
    "cups": 3,
    "whistle": True,
    "colour": "red",
    "order": 3,
    "base": "coil",
    "notes": [440.0, 0.1],
    "label": "mine",
    "limit": 4,
    "inner": {"name": "filter", "pores": [1, 2]},
}


def refused(registry, spec):
    with pytest.raises(SpecError) as caught:
        registry.build(spec)
    return caught.value


# Round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [FULL, {"name": "kettle", "volume": 1}, {**FULL, "label": None, "limit": None}])
def test_build_of_to_spec_is_the_same_instance(kettles, spec):
    built = kettles.build(spec)
    again = kettles.build(json.loads(json.dumps(to_spec(built))))
    assert again == built
    assert to_spec(again) == to_spec(built)


def test_a_full_spec_comes_back_word_for_word_without_computed_fields(kettles):
    assert to_spec(kettles.build(FULL)) == FULL


def test_numbers_and_lists_get_the_type_of_their_field(kettles):
    built = kettles.build({"name": "kettle", "volume": 2, "notes": [1, 2.5]})
    assert type(built.volume) is float
    assert built.notes == (1.0, 2.5)
    assert all(type(note) is float for note in built.notes)
    assert built.boiled == 7


def test_building_takes_a_copy_of_a_nested_mapping(kettles):
    inner = {"name": "filter"}
    built = kettles.build({"name": "kettle", "volume": 1, "inner": inner})
    inner["name"] = "sieve"
    assert built.inner == {"name": "filter"}


# Names -----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_told_with_the_nearest(kettles):
    error = refused(kettles, {"name": "ketle", "volume": 1})
    assert str(error) == "name: unknown kettle, given 'ketle'; allowed: kettle; did you mean 'kettle'?"


def test_nothing_is_guessed_for_a_name_that_is_far_off(kettles):
    assert "did you mean" not in str(refused(kettles, {"name": "zzz"}))


@pytest.mark.parametrize("spec", [None, "kettle", ["kettle"], 5])
def test_a_spec_is_a_mapping(kettles, spec):
    assert "a kettle is a mapping with a name" in str(refused(kettles, spec))


@pytest.mark.parametrize("name", [None, 3, ["kettle"]])
def test_a_name_is_a_string(kettles, name):
    error = refused(kettles, {"name": name})
    assert error.path == "name"
    assert "is a string" in str(error)


def test_a_spec_without_a_name(kettles):
    error = refused(kettles, {"volume": 1})
    assert error.path == "name"
    assert "needs a name" in str(error)


def test_two_classes_of_one_name_are_a_programming_error(kettles):
    class Pot:
        pass

    with pytest.raises(ValueError, match="two kettles are called 'kettle'"):
        kettles.register("kettle")(Pot)
    assert kettles.get("kettle") is Kettle


def test_a_module_that_is_imported_again_may_register_again(kettles):
    assert kettles.register("kettle")(Kettle) is Kettle
    assert kettles.names() == ["kettle"]


def test_plugins_are_imported_at_the_first_look_up_and_once(tmp_path, monkeypatch):
    folder = tmp_path / "dropped_in_for_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "later.py").write_text("imported = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Any] = Registry("thing", ("dropped_in_for_a_test",))
    assert "dropped_in_for_a_test.later" not in sys.modules
    assert registry.names() == []
    assert sys.modules.pop("dropped_in_for_a_test.later").imported
    registry.names()
    assert "dropped_in_for_a_test.later" not in sys.modules
    sys.modules.pop("dropped_in_for_a_test")


# Keys and types --------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_told_with_the_nearest(kettles):
    error = refused(kettles, {"name": "kettle", "volume": 1, "wistle": True})
    assert error.path == "wistle"
    assert str(error).endswith("did you mean 'whistle'?")


def test_a_computed_field_is_not_a_key(kettles):
    error = refused(kettles, {"name": "kettle", "volume": 1, "boiled": 3})
    assert error.message == "unknown key"
    assert "boiled" not in error.allowed


def test_a_missing_key_says_what_belongs_there(kettles):
    assert str(refused(kettles, {"name": "kettle"})) == "volume: is required and missing; allowed: a number"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("volume", True, "a number"),
        ("volume", "1", "a number"),
        ("volume", None, "a number"),
        ("cups", True, "a whole number"),
        ("cups", 2.0, "a whole number"),
        ("cups", "2", "a whole number"),
        ("whistle", 1, "true or false"),
        ("whistle", "true", "true or false"),
        ("colour", 3, "text"),
        ("colour", None, "text"),
        ("notes", 1.0, "a list of a number"),
        ("notes", "12", "a list of a number"),
        ("label", 3, "text"),
        ("limit", 1.5, "a whole number"),
        ("limit", False, "a whole number"),
        ("inner", ["name"], "a mapping"),
        ("inner", "gas", "a mapping"),
    ],
)
def test_a_wrong_type_names_the_key_and_what_belongs_there(kettles, key, value, allowed):
    error = refused(kettles, {"name": "kettle", "volume": 1, key: value})
    assert (error.message, error.path, error.given, error.allowed) == ("has the wrong type", key, value, allowed)


@pytest.mark.parametrize("value", [0, 4, True, 2.0, "2", None, [2]])
def test_a_choice_is_one_of_its_values_type_and_all(kettles, value):
    error = refused(kettles, {"name": "kettle", "volume": 1, "order": value})
    assert (error.path, error.allowed) == ("order", ["1", "2", "3"])


def test_a_choice_of_words_is_told_with_the_nearest(kettles):
    assert "did you mean 'coil'?" in str(refused(kettles, {"name": "kettle", "volume": 1, "base": "coils"}))


def test_a_wrong_item_of_a_list_is_named_by_its_place(kettles):
    error = refused(kettles, {"name": "kettle", "volume": 1, "notes": [1, 2, "3"]})
    assert (error.path, error.given) == ("notes[2]", "3")


def test_a_number_beyond_double_precision_is_refused(kettles):
    error = refused(kettles, {"name": "kettle", "volume": 10**400})
    assert (error.path, error.message) == ("volume", "is too large")


def test_a_value_out_of_range_names_the_key(kettles):
    error = refused(kettles, {"name": "kettle", "volume": -1})
    assert str(error) == "volume: is out of range, given -1.0; allowed: above 0"


# The error itself ------------------------------------------------------------------------------------------------


def test_under_puts_the_place_in_front():
    error = SpecError("is wrong", given=3, allowed="2", path="volume")
    placed = error.under("kettle").under("kitchen", file="house.yaml")
    assert str(placed) == "house.yaml: kitchen.kettle.volume: is wrong, given 3; allowed: 2"
    assert error.path == "volume", "the first error stays as it was"


def test_under_keeps_the_file_that_is_known_and_needs_no_path():
    placed = SpecError("is wrong", path="volume", file="inner.yaml").under(file="")
    assert str(placed) == "inner.yaml: volume: is wrong"
    assert placed.under(file="outer.yaml").file == "outer.yaml"


@pytest.mark.parametrize("allowed", [None, "above 0", ["gas", "coil"]])
def test_an_error_survives_pickling(allowed):
    error = SpecError("is wrong", given="cool", allowed=allowed, path="a.b", file="c.yaml")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SpecError
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert isinstance(again, ValueError)


def test_falsy_values_are_shown_as_given():
    assert str(SpecError("is wrong", given=0)) == "is wrong, given 0"
    assert str(SpecError("is wrong", given="")) == "is wrong, given ''"
