"""Cards: what leaves the project as JSON and comes back."""

import json

import pytest

from pipeline.card import SCHEMA, card, read_card, write_card
from pipeline.registry import SpecError
from tests.synthetic_study import result


def test_a_card_survives_its_file(tmp_path):
    scored = result(5, 1 / 3, 1 / 300)
    path = tmp_path / "cards" / "five.json"
    write_card(path, scored)
    spec, plan, value = read_card(path)
    assert spec == scored.spec
    assert plan == scored.plan
    assert value["result"]["fid"] == 1 / 3
    assert value["result"]["images"] == 8000
    assert value == json.loads(json.dumps(card(scored)))
    write_card(path, value)
    assert read_card(path)[2] == value
    assert [item.name for item in path.parent.iterdir()] == ["five.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: "[1, 2]", "a card is a JSON object"),
        (lambda text: '{"name": "edm"}', "schema: this JSON is not a card"),
        (lambda text: text.replace(SCHEMA, "sigmasearch/card-2"), "newer sigmasearch"),
        (lambda text: text.replace('"solver": {', '"solvent": {'), "missing"),
        (lambda text: text.replace('"n": ', '"q": '), "read before it is written"),
        (lambda text: text.replace('"shard_images": 400', '"shard_images": 300', 1), "spec.shard_images"),
        (lambda text: text.replace('"first_seed": 0', '"first": 0', 1), "spec.first: unknown key"),
        (lambda text: "[" * 100_000, "is not JSON"),
    ],
)
def test_an_unreadable_card_names_its_file_and_key(change, told, tmp_path):
    path = tmp_path / "card.json"
    write_card(path, result(3, 0.5))
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(SpecError) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_a_card_that_is_not_there_or_not_to_be_written(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.json: the card cannot be read"):
        read_card(tmp_path / "nowhere.json")
    with pytest.raises(SpecError, match="cannot be read"):
        read_card(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        write_card(tmp_path / "file" / "card.json", result(3, 0.5))
    with pytest.raises(SpecError, match="cannot be written"):
        write_card(tmp_path, result(3, 0.5))
