import numpy as np
import pytest
from matplotlib import image

from pipeline.pictures import picture_grid
from reports import figures
from reports.record import frame_of
from reports.standings import standings
from tests.report_rows import HOSTILE, as_recorded, row
from tests.synthetic_study import climbed, small_study

BUDGETS = (3, 4, 6, 10)


@pytest.fixture(scope="module")
def records():
    return climbed(small_study(), BUDGETS)


def test_same_record_same_bytes(records, tmp_path):
    frame, again = as_recorded(records), as_recorded(reversed(records))
    for draw, name in ((figures.front_png, "f.png"), (figures.front_svg, "f.svg")):
        assert draw(frame, tmp_path / "a" / name).read_bytes() == draw(again, tmp_path / "b" / name).read_bytes()
    assert image.imread(tmp_path / "a" / "f.png").shape[1] == 1050


def test_the_confirmed_points_are_those_of_the_front_and_of_the_best_baselines(records):
    (found,) = standings(as_recorded(records))
    searched, baselines, floor = figures.confirmed_points(found)
    assert list(searched["confirms"]) == ["searched/1", "searched/2", "searched/9"]
    assert list(baselines["confirms"]) == [f"baseline/ipndm/{budget}" for budget in BUDGETS]
    assert list(floor["confirms"]) == ["floor"]


def test_confirmations_of_other_image_counts_are_on_no_common_axis():
    rows = [row("searched/1", 5, 0.3), row("confirmed/searched/1", 5, 0.31, images=4000)]
    (found,) = standings(frame_of(rows))
    assert all(part.empty for part in figures.confirmed_points(found))


def test_the_figure_says_what_is_confirmed(records, tmp_path):
    plain = figures.front_svg(as_recorded(small_study()), tmp_path / "plain.svg").read_text()
    confirmed = figures.front_svg(as_recorded(records), tmp_path / "confirmed.svg").read_text()
    labels = ("searched: confirmed", "best baseline: confirmed", "floor: confirmed")
    assert [f"<!-- {label} -->" in confirmed for label in labels] == [True] * 3
    assert [f"<!-- {label} -->" in plain for label in labels] == [False] * 3


def test_a_hostile_method_name_breaks_no_figure(tmp_path):
    frame = frame_of(
        [row("baseline/a/5", 5, 0.4, method=HOSTILE), row("searched/1", 5, 0.3, name="<script>alert(1)</script>")]
    )
    figures.front_png(frame, tmp_path / "front.png")


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["searched/1"],
        ["baseline/a/5"],
        ["floor"],
        ["searched/1", "floor"],
        ["searched/1", "baseline/b/5"],
        ["searched/1", "confirmed/searched/1"],
        ["floor", "confirmed/floor"],
    ],
)
def test_a_part_of_a_study_is_drawn(keys, tmp_path):
    frame = frame_of([row(key, 5, 0.3) for key in keys])
    assert image.imread(figures.front_png(frame, tmp_path / "front.png")).shape[1] == 1050


def test_the_grid_is_the_images(tmp_path):
    images = np.zeros((5, 8, 8), dtype=np.uint8)
    images[3] = 200
    drawn = image.imread(picture_grid(images, tmp_path / "grid.png"))
    assert drawn.shape[:2] == (2 * 66 + 2, 3 * 66 + 2)
    assert drawn[66 + 2 + 32, 32, 0] == pytest.approx(200 / 255)
    assert drawn[0, 0, 0] == 1
    colour = np.random.default_rng(0).random((4, 64, 64, 3))
    assert image.imread(picture_grid(colour, tmp_path / "colour.png")).shape[:2] == (134, 134)
    with pytest.raises(ValueError, match="is drawn, not"):
        picture_grid(np.zeros((4, 4)), tmp_path / "no.png")
