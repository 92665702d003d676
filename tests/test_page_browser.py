"""The page in a real browser: it complains of nothing, fits its window, and is used with keys and with a mouse."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from reports.page import write
from tests import screenshots
from tests.headless import ABSENT, Browser, find_chromium
from tests.page_record import kept, small_record
from tests.report_rows import as_recorded
from tests.synthetic_study import demo_study

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=ABSENT)

CENTRE = """(() => {{
    const box = document.querySelector({0!r}).getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
}})()"""
FRONT = "[data-chart=front]"
SEARCHED = f"{FRONT} g[data-series='0'] .point"
TIP = f"document.querySelector('{FRONT} .tip').innerText"
FOCUS = "document.activeElement"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write(small_record()[0], tmp_path_factory.mktemp("page") / "report.html", small_record()[1]).as_uri()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """As large as the demo's: eleven budgets, nine baselines."""
    records = demo_study(20)
    return write(as_recorded(records), tmp_path_factory.mktemp("large") / "report.html", kept(records)).as_uri()


@pytest.fixture(scope="module")
def browser():
    with Browser(find_chromium()) as browser:
        yield browser


@pytest.fixture
def opened(browser, address):
    browser.open(address)
    browser.run("document.documentElement.style.scrollBehavior = 'auto'")
    browser.run(f"document.querySelector('{FRONT}').scrollIntoView()")
    return browser


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_complains_of_nothing_loads_nothing_and_fits(browser, large, width, dark):
    browser.open(large, width=width, dark=dark)
    assert browser.complaints() == []
    assert set(browser.requested()) <= {"file", "data"}
    assert browser.requested().count("file") == 1
    assert browser.run("document.documentElement.scrollWidth") == width
    colours = "getComputedStyle(document.body).{}".format
    assert (browser.run(colours("backgroundColor")) == "rgb(255, 255, 255)") == (not dark)


COLOURS = """
[...document.querySelectorAll("h1, p, a, button, th, td, summary, figcaption, code, .tile span")].map((node) => {
    let behind = node, colour = "rgba(0, 0, 0, 0)";
    while (behind && colour === "rgba(0, 0, 0, 0)") {
        colour = getComputedStyle(behind).backgroundColor;
        behind = behind.parentElement;
    }
    return [getComputedStyle(node).color, colour, node.innerText.slice(0, 40)];
})
"""


def contrast(one, other):
    def light(colour):
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dim, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_told_from_what_is_behind_it(browser, address, dark):
    browser.open(address, dark=dark)
    found = browser.run(COLOURS)
    pairs = {(colour, behind): text for colour, behind, text in found}
    assert len(pairs) > 4
    assert {text: contrast(*pair) for pair, text in pairs.items() if contrast(*pair) < 4.5} == {}


def test_the_mouse_shows_the_trial_below_it(opened):
    x, y = opened.run(CENTRE.format(SEARCHED))
    opened.point(x, y)
    lines = opened.run(TIP).splitlines()
    assert lines[1] == "FID 0.3000 ± 0.0020"
    assert lines[3] == "searched: best within budget; 8,000 images, seeds from 0"
    assert lines[4] == "searched/1"
    opened.point(x, y + 150)
    opened.point(2, 2)
    assert opened.run(TIP) == ""


def test_the_arrow_keys_go_from_trial_to_trial(opened):
    opened.run("document.querySelector('nav li:last-child a').focus({preventScroll: true})")
    opened.press("Tab")
    assert opened.run(f"{FOCUS}.getAttribute('aria-label')").endswith("searched/1")
    opened.press("Tab")
    assert opened.run(f"{FOCUS}.closest('.plot')") is None  # one stop for the whole chart
    opened.run(f'document.querySelector("{SEARCHED}").focus()')
    stops = f"[...document.querySelectorAll('{FRONT} .point[tabindex=\\'0\\']')]"
    for key, last in (
        ("ArrowRight", "searched/2"),
        ("End", "searched/9"),
        ("ArrowRight", "searched/9"),
        ("ArrowDown", "confirmed/searched/9"),
        ("Home", "confirmed/searched/1"),
        ("ArrowUp", "searched/1"),
    ):
        opened.press(key)
        assert opened.run(TIP).splitlines()[-1] == last, key
        assert opened.run(f"{FOCUS}.getAttribute('aria-label')").endswith(last)
        # Whoever comes back to the chart comes back to this trial.
        assert opened.run(f"{stops}.length === 1 && {stops}[0] === {FOCUS}")
    assert opened.run(f"document.querySelectorAll('{FRONT} .ring').length") == 1
    opened.press("Escape")
    assert opened.run(TIP) == ""


def test_the_legend_hides_and_shows_a_line(opened):
    button = f"document.querySelector('{FRONT} button[data-baseline]')"
    series = f"document.querySelector(`{FRONT} g[data-series='${{{button}.dataset.series}}']`)"
    opened.run(f"{button}.focus()")
    for pressed in ("false", "true"):
        opened.press("Enter")
        assert opened.run(f"{button}.getAttribute('aria-pressed')") == pressed
        assert opened.run(f"getComputedStyle({series}).display") == ("none" if pressed == "false" else "inline")
    opened.run(f"document.querySelector('{FRONT} [data-all]').click()")
    hidden = f"[...document.querySelectorAll('{FRONT} .series.off')].length"
    assert opened.run(hidden) == 2
    assert opened.run(f"document.querySelector('{FRONT} [data-all]').innerText") == "show all baselines"


def test_a_budget_is_chosen_by_key_and_by_its_tile(opened):
    shown = "[...document.querySelectorAll('.panel')].filter((each) => !each.hidden).map((each) => each.dataset.budget)"
    first = opened.run("document.querySelector('.budgets input:checked').value")
    assert opened.run(shown) == [first]
    opened.run("document.querySelector('.budgets input').focus()")
    opened.run("document.querySelector('.budgets input').click()")
    opened.press("ArrowRight")
    assert opened.run(shown) == ["4"]
    opened.run("document.querySelector('.tile:last-child a').click()")
    opened.wait("document.querySelector('.budgets input:checked').value === '10'", 5)
    assert opened.run(shown) == ["10"]


def test_without_its_script_everything_is_there(browser, address):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
        shown = browser.run("[...document.querySelectorAll('.panel')].filter((each) => each.offsetHeight > 0).length")
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert shown == 4


def test_the_pictures_for_the_documents_are_taken(browser, address, tmp_path):
    made = screenshots.report(browser, Path(unquote(urlsplit(address).path)), tmp_path)
    names = ["report", "report-dark", "report-narrow", "report-narrow-dark", "report-budget"]
    assert [path.name for path in made] == [f"{name}.png" for name in names]
    assert len({path.read_bytes() for path in made}) == 5


def test_pictures_without_a_report_are_refused_in_one_line(tmp_path, capsys):
    assert screenshots.main(["--runs", str(tmp_path), "--out", str(tmp_path / "images")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "make demo" in said
    assert not (tmp_path / "images").exists()
