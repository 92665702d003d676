"""What a card says never becomes code: hostile strings, names and numbers, in every target."""

import ast
import io
import tokenize

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.card import write_card
from pipeline.export.target import TARGETS, Source
from pipeline.registry import SpecError
from tests.conformance_problem import LATENTS, MIXTURE
from tests.exports.exported import KINDS, module, source, text

every_target = pytest.mark.parametrize("target", TARGETS.names())
HOSTILE = [
    "euler\nraise SystemExit",
    'euler"""\nraise SystemExit\n"""',
    "euler'); raise SystemExit  # \\",
    "coding: utf-7",
    "\r\x0b\x0c\x1c\x85\u2028\u2029raise SystemExit",
    "\u202eeuler\u2066",
    "\ud800",
    "\x00",
    "$digest ${rows} $$ {braces} %s",
    "<img src=x onerror=alert(1)>",
    "é" * 100_000,
]
SCORE = {"fid": 2.0, "fid_se": 0.1, "fid_corrected": 1.9, "images": 100, "first_seed": 0, "nfe": 5.0}


def hostile(words):
    """A card that says this wherever it says anything."""
    card = source("unipc")
    steps = dict(card.card["steps"], solver=[words] * len(card.plan.sigmas[:-1]))
    names = dict.fromkeys(("name", "version", "model_hash", "reference_hash"), words)
    return Source(
        card.spec, card.plan, {**card.card, "method": words, "benchmark": names, "revision": words, "steps": steps}
    )


def code(written):
    """The syntax tree without the few constants that may differ."""
    tree = ast.parse(written)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NODE_DISPLAY_NAME_MAPPINGS":
            assert all(isinstance(value, ast.Constant) for value in node.value.values)
            node.value = ast.Constant(None)
    return ast.dump(tree)


@every_target
@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_the_code_is_the_same_whatever_the_card_says(target, words):
    written = text(target, hostile(words))
    assert code(written) == code(text(target, hostile("a method")))
    assert code(written.encode()) == code(written), "as a file, whose encoding its first lines might name"
    assert tokenize.detect_encoding(io.BytesIO(written.encode()).readline)[0] == "utf-8"
    assert max(map(len, written.splitlines())) < 1000
    assert all(line.isprintable() for line in written.splitlines())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(words=st.text(), target=st.sampled_from(TARGETS.names()))
def test_no_text_at_all_changes_the_code(words, target):
    assert code(text(target, hostile(words))) == code(text(target, hostile("")))


@every_target
def test_what_a_browser_shows_holds_no_markup(target):
    written = text(target, hostile("<img src=x onerror=alert(1)>&amp;"))
    named = [line for line in written.splitlines() if line.startswith("NODE_DISPLAY_NAME_MAPPINGS")]
    assert not any("<" in line or "&" in line for line in named)
    assert len(named) == (target == "comfyui")


@every_target
def test_a_state_may_be_called_anything(target, tmp_path):
    """The one name in a plan that its card chooses."""
    card = source("unipc")
    held = card.card["plan"]
    assert any("carry" in row for row in held["stages"])
    renamed = {"c" + key: f'c"]; raise SystemExit #\n{key}' for key in ()}
    for row in held["stages"]:
        for key in row.get("carry", {}):
            renamed[key] = f"'\"]; raise SystemExit #\n{key}\u2028"

    def rename(terms):
        return {renamed.get(key, key): value for key, value in terms.items()}

    for row in held["stages"]:
        row["input"] = rename(row["input"])
        if "carry" in row:
            row["carry"] = {renamed[key]: rename(terms) for key, terms in row["carry"].items()}
    held["output"] = rename(held["output"])
    del card.card["plan_digest"]
    write_card(tmp_path / "card.json", card.card)
    read = Source.read(tmp_path / "card.json")
    ast.parse(text(target, read))
    if target == "python":
        assert torch.equal(module(target, read).sample(MIXTURE, LATENTS), card.plan.run(MIXTURE, LATENTS))


@every_target
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_card_gives_the_same_bytes(target, kind):
    assert text(target, source(kind)) == text(target, source(kind))


@every_target
@pytest.mark.parametrize(
    ("score", "path"),
    [
        ([1], "result:"),
        ({"fid": "2\nraise SystemExit"}, "result.nfe"),
        (SCORE | {"fid": "2\nraise SystemExit"}, "result.fid"),
        (SCORE | {"images": None}, "result.images"),
        (SCORE | {"fid_se": float("nan")}, "result.fid_se"),
        (SCORE | {"first_seed": True}, "result.first_seed"),
    ],
)
def test_a_score_that_is_no_number_is_refused(target, score, path):
    card = source("euler")
    with pytest.raises(SpecError, match=path):
        text(target, Source(card.spec, card.plan, {**card.card, "result": score}))
    again = path.replace("result", "confirmed")
    if path != "result.nfe":  # a confirmation is of the same plan
        with pytest.raises(SpecError, match=again):
            text(target, Source(card.spec, card.plan, {**card.card, "result": SCORE, "confirmed": score}))


@every_target
def test_the_header_says_which_score_chose_the_plan(target):
    card = source("euler")
    again = SCORE | {"fid": 3.25, "fid_se": 0.5, "first_seed": 5000}
    plain = text(target, Source(card.spec, card.plan, {**card.card, "result": SCORE}))
    confirmed = text(target, Source(card.spec, card.plan, {**card.card, "result": SCORE, "confirmed": again}))
    assert "confirmed" not in plain.partition("import")[0]
    head = confirmed.partition("import")[0]
    assert "which chose it" in head
    assert f"confirmed 3.25 ± 0.50 ({SCORE['fid_corrected']:.2f}" in head
    assert f"seeds 5000-{5000 + SCORE['images'] - 1}, which chose nothing" in head


@pytest.mark.parametrize(
    "steps",
    [
        [], {}, {"sigma": [80.0]}, "steps",
        lambda steps: steps | {"solver": [1] * len(steps["solver"])},
        lambda steps: steps | {"evaluations": [1.0] * len(steps["solver"])},
        lambda steps: steps | {"evaluations": [2, *steps["evaluations"][1:]]},
        lambda steps: steps | {"sigma": [79.0, *steps["sigma"][1:]]},
    ],
)  # fmt: skip
def test_steps_that_are_not_the_plans_are_refused(steps, tmp_path):
    card = source("euler")
    changed = steps(card.card["steps"]) if callable(steps) else steps
    write_card(tmp_path / "card.json", {**card.card, "steps": changed})
    with pytest.raises(SpecError, match=r"card\.json: steps: are not the steps of the plan"):
        Source.read(tmp_path / "card.json")
