import csv
import hashlib
import io
import itertools
import re
from base64 import b64encode

import pytest

from reports import tables
from reports.artifacts import NoArtifacts
from reports.numbers import with_error
from reports.page import page, write
from reports.record import frame_of
from reports.standings import standings
from tests.page_record import BUDGETS, Parsed, kept, parsed, small_record, table, tips
from tests.report_rows import as_recorded, row
from tests.synthetic_study import climbed, demo_study, small_study


@pytest.fixture(scope="module")
def record():
    return small_record()


@pytest.fixture(scope="module")
def root(record):
    return parsed(*record)


def told(frame, budgets=None):
    """The page's headline."""
    return parsed(frame, NoArtifacts(), budgets).one("h1").text


def test_same_record_same_bytes(record, tmp_path):
    frame, files = record
    again = as_recorded(reversed(climbed(small_study(), BUDGETS)))
    first = write(frame, tmp_path / "a" / "report.html", files)
    assert first.read_bytes() == write(again, tmp_path / "b" / "report.html", files).read_bytes()


def test_headings_go_down_one_level_at_a_time(root):
    levels = [int(node.tag[1]) for node in root.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_headers_with_a_scope(root):
    held = list(root.all("table"))
    assert len(held) > 8
    for each in held:
        assert each.one("caption").text
        assert all(header.attributes.get("scope") for header in each.all("th"))
        assert all(next(line.all("th", "td")).tag == "th" for line in each.one("tbody").all("tr"))


def test_every_drawing_has_words_or_is_hidden_from_those_who_hear(root):
    for drawing in root.all("svg"):
        held = drawing.attributes
        assert held.get("aria-hidden") == "true" or (held.get("role") in ("img", "group") and held["aria-label"])
    regions = [node for node in root.all("div") if "wide" in node.attributes.get("class", "").split()]
    assert all((node.attributes["tabindex"], bool(node.attributes["aria-label"])) == ("0", True) for node in regions)


def study(**fids):
    """A record by hand: b4=0.8 is a baseline of 4 evaluations, s4=0.4 a searched trial; the floor is at 0.05."""
    rows = [row("floor", 40, 0.05)]
    for key, fid in fids.items():
        name = "baseline/a" if key[0] == "b" else "searched"
        rows.append(row(f"{name}/{key[1:]}", int(key[1:]), fid))
    return frame_of(rows)


@pytest.mark.parametrize("confirmed", [True, False])
def test_each_budget_has_the_verdict_of_the_other_tables(confirmed, record):
    frame = record[0] if confirmed else study(b3=0.9, s3=0.5, b4=0.4, s4=0.401, b5=0.3, b6=0.05, s6=0.05)
    root = parsed(frame, NoArtifacts())
    said = {str(verdict.budget): verdict.words for verdict in standings(frame)[0].verdicts()}
    assert len(set(said.values())) > 1
    assert any("unconfirmed" in words for words in said.values()) == (not confirmed)
    in_markdown = dict(re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", tables.markdown(frame), flags=re.MULTILINE))
    assert {budget: in_markdown[budget] for budget in said} == said
    in_table = {line[0]: line[1][2:] for line in table(root, "Search against")}
    assert in_table == said
    tiles = {each.classed("budget")[0].text.split()[0]: each.classed("verdict")[0] for each in root.classed("tile")}
    assert {budget: node.text[2:] for budget, node in tiles.items()} == said
    panels = {node.attributes["data-budget"]: node.classed("verdict")[0] for node in root.classed("panel")}
    assert {budget: node.text[2:] for budget, node in panels.items()} == said


def test_the_numbers_are_those_of_the_csv(record, root):
    frame, _ = record
    rows = list(csv.DictReader(io.StringIO(tables.csv(frame))))
    lines = {line[0]: line[2:] for line in table(root, "Every method's lowest")}
    verdicts = {line[0]: line for line in table(root, "Search against")}
    compared = 0
    for held in (each for each in rows if each["budget"]):
        text = " ± ".join(with_error(float(held["fid"]), float(held["fid_se"])))
        cell = lines[held["method"]][BUDGETS.index(int(held["budget"]))]
        assert cell.startswith(text)
        assert ("~" in cell) == (held["inconclusive"] == "True")
        compared += 1
        if held["role"] == "searched":
            line = verdicts[held["budget"]]
            again = " ± ".join(with_error(float(held["confirmed_fid"]), float(held["confirmed_fid_se"])))
            assert (line[8], line[9], line[6]) == (text, again, held["nfe"])
            assert float(line[10].split(" ± ")[0]) == pytest.approx(float(held["gap"]), abs=0.006)
    assert compared > 12


def test_the_chart_has_every_scored_trial_once_and_its_table_too(record, root):
    frame, _ = record
    scored = frame[frame["state"].eq("complete") & frame["role"].ne("confirmed")]
    keys = [line[-1] for line in table(root, "Every scored point")]
    assert sorted(key for key in keys if not key.startswith("confirmed/")) == sorted(scored["key"])
    texts = tips(root)["front"]
    assert [text[-1] for text in texts] == keys
    figure = root.one("figure", **{"data-chart": "front"})
    plot = figure.one("svg", role="group")
    drawn = [int(point.attributes["data-tip"]) for point in plot.classed("point")]
    assert sorted(drawn) == list(range(len(texts)))


def test_a_browser_is_told_to_run_and_load_nothing_else(root):
    (policy,) = [node.attributes["content"] for node in root.all("meta") if "http-equiv" in node.attributes]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    scripts = list(root.all("script"))
    assert [node.attributes for node in scripts] == [{"type": "application/json", "id": "tips"}, {}]
    for node in (scripts[1], root.one("style")):
        (content,) = node.children
        assert "sha256-" + b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    for node in root.all():
        assert not [name for name in node.attributes if name == "style" or name.startswith("on") or name == "src"]
        assert re.match(r"#|data:image/(png|jpeg);base64,", node.attributes.get("href") or "#")


def test_nothing_is_loaded_from_anywhere(record):
    text = page(*record)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)


HOSTILE = "\"'><script>alert(1)</script><!--{{ 7 * 7 }}]]></style>&amp;"
COLUMNS = ("method", "name", "benchmark", "study", "reference", "revision", "reason", "terminal", "benchmark_version")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_hostile_text_in_any_column_is_text(column):
    def frame(text):
        rows = [
            row("floor", 40, 0.1),
            row("baseline/a/5", 5, 0.4),
            row("searched/1", 5, 0.3),
            row("searched/3", 7, 0.2),
        ]
        rows += [row("searched/2", 5, 0.35, state="failed", reason="why"), row("confirmed/searched/1", 5, 0.3)]
        return frame_of([{**each, column: text} for each in rows])

    tame, wild = (page(frame(text), NoArtifacts()) for text in ("harmless", HOSTILE))
    found = Parsed(wild)
    assert found.tags == Parsed(tame).tags
    assert "<script>alert" not in wild
    assert "{{ 7 * 7 }}" in found.root.text
    assert not re.search(r"\b49\b.{0,20}\]\]>", found.root.text)


def test_hostile_files_are_text(record):
    frame, files = record
    files = type(files)(files)
    wild = HOSTILE.replace('"', "")
    for run, name in list(files):
        if name == "steps.csv":
            files[run, name] = files[run, name].replace(b"heun", wild.encode())
        if name == "card.json":
            files[run, name] = files[run, name].replace(b'"torch": "2.6.0"', f'"torch": "{wild}"'.encode())
    found = Parsed(page(frame, files))
    assert found.tags == Parsed(page(*record)).tags
    assert wild in found.root.one("section", id="provenance").text
    assert wild in found.root.one("section", id="closer").text


def test_300_trials_with_pictures_are_less_than_3_megabytes():
    records = demo_study(300)
    files = kept(records, side=264, quiet=False)
    assert sum(len(content) for (_, name), content in files.items() if name == "samples.png") > 80e6
    text = page(as_recorded(records), files)
    assert len(text.encode()) < 3_000_000
    shown = [node for node in Parsed(text).root.classed("picture") if list(node.all("svg"))]
    assert len(shown) == 3 * 11


def test_a_picture_is_held_once_and_shown_at_every_budget(root):
    images = [node.attributes["id"] for node in root.all("image")]
    assert len(images) == len(set(images))
    shown = [use.attributes["href"][1:] for figure in root.classed("picture") for use in figure.all("use")]
    assert set(shown) == set(images)
    assert len(shown) == 3 * len(BUDGETS)
    labels = [svg.attributes["aria-label"] for figure in root.classed("picture") for svg in figure.all("svg")]
    assert len(set(labels)) == len(labels)


def test_what_is_missing_is_told(record):
    frame, _ = record
    bare = parsed(frame, NoArtifacts())
    missing = [node.text for node in bare.classed("empty")]
    assert missing.count("No sample grid is kept with this trial's run.") == 3 * len(BUDGETS)
    assert sum(text.startswith("No card that can be read") for text in missing) == len(BUDGETS)
    assert missing.count("No table of steps is kept with this trial's run.") == len(BUDGETS)
    assert not list(bare.all("image"))
    assert parsed(frame_of([]), NoArtifacts()).one("section", id="trust").classed("empty")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "The record holds no trial yet."),
        (["floor"], "Only baselines are scored so far"),
        (["baseline/a/5"], "Only baselines are scored so far"),
        (["searched/1"], "no baseline was scored beside it"),
        (["searched/1", "floor"], "no baseline was scored beside it"),
        (
            ["searched/1", "baseline/b/5"],
            "cannot be told from the best published baseline at 1 of 1 NFE budgets (5): inconclusive.",
        ),
    ],
)
def test_a_part_of_a_study_is_a_page(keys, sentence):
    assert sentence in told(frame_of([row(key, 5, 0.3) for key in keys]))


def test_a_study_in_which_everything_failed_says_so():
    frame = frame_of([row("searched/1", 5, 0.3, state="failed", reason="not finite")])
    assert told(frame) == "None of the 1 runs in the record has a score, so nothing can be said yet."
    assert table(parsed(frame, NoArtifacts()), "Failed, broken") == [["searched/1", "failed", "not finite"]]


def test_the_headline_counts_what_the_verdicts_say():
    won = study(b3=0.9, s3=0.5, b4=0.8, s4=0.4, b5=0.7, s5=0.3, b6=0.05, s6=0.05)
    sentence = told(won)
    assert "better at 3 of 4 NFE budgets (3 to 5) and worse at none" in sentence
    assert "At 6 the best baseline cannot be told from the fine solve" in sentence
    lost = told(study(b3=0.5, s3=0.9, b4=0.4, s4=0.401))
    assert "worse at 1 of 2 NFE budgets (3) and inconclusive at 1 of 2 NFE budgets (4)" in lost
    gain = next(iter(parsed(won, NoArtifacts()).classed("gain"))).text
    assert gain.startswith("Largest gain: within 5 evaluations FID 0.3000 ± 0.0020, where a has 0.7000 ± 0.0020")
    assert "unconfirmed" in gain


def test_an_equal_plan_is_called_so():
    rows = [row("searched/1", 5, 0.3, plan="p"), row("baseline/a/5", 5, 0.3, plan="p")]
    said = [
        parsed(frame_of(held), NoArtifacts()).one("article").text for held in (rows, [rows[0], rows[1] | {"plan": "q"}])
    ]
    assert ["the same plan" in text for text in said] == [True, False]


def test_rows_that_cannot_be_compared_are_two_pairs_of_tables():
    rows = [row("searched/1", 5, 0.3), row("baseline/a/5", 5, 0.4)]
    rows += [row("searched/2", 5, 0.3, images=4000), row("baseline/b/5", 5, 0.4, images=4000)]
    root = parsed(frame_of(rows), NoArtifacts())
    captions = [each.one("caption").text for each in root.classed("verdicts")]
    assert captions == [
        "Search against the best baseline. FID at 4,000 images, seeds 0-3999",
        "Search against the best baseline. FID at 8,000 images, seeds 0-7999",
    ]
    assert "2 groups" in root.one("figure", **{"data-chart": "front"}).text
