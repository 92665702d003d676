import base64
import io
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reports.artifacts import LARGEST, NoArtifacts, RunArtifacts
from reports.page.album import ROOM, Album
from reports.page.chart import Axis
from reports.record import frame_of
from reports.standings import standings
from reports.trial_files import TrialFiles
from tests.page_record import Files, parsed, png, small_record, table
from tests.report_rows import row

CARD = {"plan": {"sigmas": [80.0, 1.0, 0.0]}, "versions": {"torch": "2"}, "benchmark": {"model_hash": "ab"}}


def files(content, name="card.json", **more):
    frame = frame_of([row("searched/1", 5, 0.3, run_id="r", plan="p", **more)])
    held = TrialFiles(frame, Files({("r", name): content}))
    return held, frame.iloc[0]


def test_a_card_gives_its_sigmas_versions_and_network():
    held, trial = files(json.dumps(CARD).encode())
    card = held.card(trial)
    assert (card.sigmas, card.versions, card.model_hash) == ((80.0, 1.0, 0.0), {"torch": "2"}, "ab")
    assert held.cards == [card]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps(CARD | {"plan": {"sigmas": []}}).encode(),
        json.dumps(CARD | {"plan": {"sigmas": ["high"]}}).encode(),
        json.dumps(CARD | {"plan": {"sigmas": [math.nan]}}).encode(),
        json.dumps(CARD | {"plan": {"sigmas": [-1.0]}}).encode(),
        json.dumps(CARD | {"plan": {"sigmas": [1.0] * 5000}}).encode(),
        json.dumps(CARD | {"benchmark": "digits"}).encode(),
        json.dumps(CARD | {"versions": [1]}).encode(),
        None,
    ],
)
def test_a_card_that_cannot_be_read_is_none(content):
    held, trial = files(content)
    assert held.card(trial) is None
    assert held.cards == []


def test_steps_are_read_and_empty_cells_are_unknown():
    text = b"evaluation,sigma,sigma_next,solver,kappa,eta\n1,80,10,euler,,0.5\n2,10,0,heun,0.25,\n"
    held, trial = files(text, "steps.csv")
    first, second = held.steps(trial)
    assert (first.evaluation, first.sigma, first.sigma_next, first.solver, first.eta) == ("1", 80, 10, "euler", 0.5)
    assert (second.kappa, math.isnan(first.kappa), math.isnan(second.eta)) == (0.25, True, True)


@pytest.mark.parametrize(
    "text", [b"", b"sigma\n1\n", b"\xff", b"evaluation,sigma,sigma_next,solver,kappa,eta\n1,a,b\n"]
)
def test_steps_that_cannot_be_read_are_none(text):
    held, trial = files(text, "steps.csv")
    assert held.steps(trial) == []


def test_a_trial_without_a_file_has_that_of_an_equal_plan():
    rows = [row("searched/1", 5, 0.3, run_id="r", plan="p"), row("searched/2", 5, 0.3, run_id="s", plan="p")]
    frame = frame_of([*rows, row("searched/3", 5, 0.3, run_id="t", plan="q")])
    held = TrialFiles(frame, Files({("s", "samples.png"): b"one"}))
    assert [held.samples(trial) for _, trial in frame.iterrows()] == [b"one", b"one", None]


def decoded(picture):
    kind, content = picture.data.removeprefix("data:image/").split(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_pictures_stay_as_they_are_where_there_is_room():
    contents = [png(k) for k in range(5)]
    album = Album([*contents, contents[0]])
    assert len(album.pictures) == 5
    assert album.note == ""
    for content in contents:
        assert base64.b64decode(album.picture(content).data.split(",")[1]) == content


@pytest.mark.parametrize(("side", "scale", "words"), [(400, 1, "the same size"), (900, 2, "1/2 of the size")])
def test_pictures_that_do_not_fit_are_all_shrunk_alike(side, scale, words):
    contents = [png(0), *(png(k, side=side, quiet=False) for k in range(2, 8))]
    assert sum(map(len, contents)) > ROOM
    album = Album(contents)
    drawn = [decoded(album.picture(content)) for content in contents]
    assert {kind for kind, _ in drawn} == {"jpeg"}
    assert [image.width for _, image in drawn] == [40 // scale, *[side // scale] * 6]
    assert sum(len(picture.data) * 3 / 4 for picture in album.pictures) <= ROOM + 3 * 7
    assert words in album.note
    # Whatever is embedded, it is drawn as large as it was.
    assert [album.picture(content).width for content in contents] == [40, *[side] * 6]


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", png()[:20], b"<svg onload='alert(1)'/>", png()[:16] + b"\xff" * 8, b"x" * 12 + png()[12:]],
)
def test_what_is_no_picture_is_none(content):
    assert Album([content]).picture(content) is None


def test_a_picture_that_is_cut_short_and_too_large_is_none():
    content = png(side=1000, quiet=False)[:-1000]
    assert len(content) > ROOM
    assert Album([content]).picture(content) is None


def test_a_page_tells_of_a_picture_that_it_cannot_show():
    frame, held = small_record()
    held = Files({place: b"no png" if place[1] == "samples.png" else content for place, content in held.items()})
    root = parsed(frame, held)
    assert not list(root.all("image"))
    texts = {node.text for figure in root.classed("picture") for node in figure.classed("empty")}
    assert texts == {"Its sample grid cannot be shown within the size of this page."}


def test_the_schedules_of_a_budget_are_the_search_first_then_by_fid():
    frame, held = small_record()
    (found,) = standings(frame)
    schedules, lacking = TrialFiles(frame, held).schedules(found, 10)
    # 0.08, 0.071 and 0.2.
    assert [schedule.method for schedule in schedules] == ["", "iPNDM · 4", "DDIM"]
    assert all(schedule.sigmas[0] == 80 for schedule in schedules)
    assert lacking == []
    del held["baseline/ddim/4", "card.json"]
    assert TrialFiles(frame, held).schedules(found, 4)[1] == ["DDIM"]


def test_the_page_has_the_sigmas_kappa_and_eta_of_the_files():
    root = parsed(*small_record())
    panel = root.one("article", id="nfe-4")
    (line,) = [each for each in table(panel, "Sigmas within 4") if each[0] == "DDIM"]
    dots = [node for node in panel.classed("schedule") if node.classed("name")[0].text.startswith("DDIM")]
    shown = [float(point.attributes["x"][:-1]) for point in dots[0].classed("point")]
    sigmas = [float(text) for text in line[2].split(", ")]
    assert len(shown) == len([sigma for sigma in sigmas if sigma > 0])
    assert shown == sorted(shown)
    assert len(dots[0].classed("zero")) == (sigmas[-1] == 0)
    steps = table(panel, "Evaluations of")
    assert [step[4] for step in steps] == ["", "0.1", "0.2", "0.3"][: len(steps)]
    assert [step[5] for step in steps][:3] == ["0.02", "1.02", "2.02"]
    assert "euler at evaluations 1–2, then heun at evaluations 3–4" in panel.text


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e6), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_an_axis_keeps_the_order_and_its_ends(low, factor, one, other, falling):
    axis = Axis(low, low * factor, falling=falling)
    ends = [float(axis.at(value)[:-1]) for value in (axis.low, axis.high)]
    assert ends == ([100, 0] if falling else [0, 100])
    a, b = (low * factor**share for share in sorted((one, other)))
    places = [float(axis.at(value)[:-1]) for value in (a, b)]
    assert places == sorted(places, reverse=falling)


@given(st.floats(1e-6, 1e4), st.floats(1.5, 1e8))
def test_ticks_lie_on_the_axis_and_apart(low, factor):
    axis = Axis(low, low * factor)
    places = [float(tick.at[:-1]) for tick in axis.decades()]
    assert all(0 <= place <= 100 for place in places)
    assert all(after - before >= 3.39 for before, after in itertools.pairwise(places))
    assert factor < 10 or places


def test_ticks_that_would_print_into_each_other_are_left_out():
    axis = Axis(1, 100)
    assert [tick.text for tick in axis.ticks([100, 1, 1.1, 2, 2.4, 1000])] == ["1", "2", "2.4", "100"]
    assert [tick.crowded for tick in axis.ticks([1, 2, 2.4, 100])] == [False, False, True, False]


def test_the_files_of_a_store_are_read_and_what_is_missing_is_none(tmp_path, monkeypatch):
    from pipeline import store

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = store.open_client(uri, create=True)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "kept here").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "{}", "card.json")
    client.log_text(run, "x" * 100, "steps.csv")
    held = RunArtifacts(uri, largest=99)
    assert held.get(run, "card.json") == b"{}"
    assert held.get(run, "steps.csv") is None  # too large
    assert RunArtifacts(uri).get(run, "steps.csv") == b"x" * 100
    (tmp_path / "kept here" / run / "secret.txt").write_text("outside")
    for place in (
        (run, "../secret.txt"),
        (run, "samples.png"),
        ("0" * 32, "card.json"),
        ("", "card.json"),
        (run, ".."),
    ):
        assert held.get(*place) is None
    # As from a server, where no folder is at hand.
    monkeypatch.setattr(held, "_folder", lambda run_id: None)
    assert held.get(run, "card.json") == b"{}"
    monkeypatch.setattr(held._client, "download_artifacts", None)  # what is too large is not even fetched
    assert held.get(run, "steps.csv") is None
    assert held.get(run, "samples.png") is None
    assert NoArtifacts().get(run, "card.json") is None
    assert LARGEST > 2**20
