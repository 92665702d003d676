import math

import pytest
from matplotlib import image

from reports.hypervolume import Growth
from reports.path_figures import growth_figure, sigmas_figure, write
from reports.record import frame_of
from reports.standings import standings
from tests.page_record import BUDGETS, Files, parsed, small_record, table
from tests.report_rows import as_recorded, row
from tests.synthetic_study import climbed, small_study

E = math.e


def growth(*rows, **more):
    frame = frame_of(rows)
    return Growth.of(frame, standings(frame, **more)[0])


def study():
    """Budgets 3 and 9: the corner is at NFE 10 and the worst baseline's FID within 3, which is e."""
    return [
        row("floor", 40, 0.1),
        row("baseline/a/3", 3, E),
        row("baseline/a/9", 9, 1.0),
        row("searched/2", 5, 1.0, spent_rows=100),
        row("searched/10", 5, 1.0 / E, spent_rows=30),
        row("searched/9", 4, 2.0, state="pruned", spent_rows=7),
    ]


def test_the_area_is_that_of_the_logarithms_and_rows_add_up_in_the_order_of_the_trials():
    found = growth(*study())
    assert found.corner == (10, E)
    assert found.rows == (100, 107, 137)
    width = math.log(10 / 5)
    assert found.area == pytest.approx((width * 1, width * 1, width * 2))
    assert found.shares == [(100, pytest.approx(0.5)), (137, pytest.approx(1.0))]
    assert found.baselines == pytest.approx(math.log(10 / 9))
    assert found.passed == 100


def test_below_the_floor_there_is_nothing_but_luck():
    lucky = growth(*study(), row("searched/11", 5, 0.01, spent_rows=1))
    at_floor = growth(*study(), row("searched/11", 5, 0.1, spent_rows=1))
    assert lucky.area == at_floor.area


def test_a_trial_beyond_a_constraint_or_the_last_budget_adds_rows_alone():
    more = [row("searched/11", 4, 0.2, spent_rows=5, feasible="false"), row("searched/12", 11, 0.2, spent_rows=3)]
    found = growth(*study(), *more)
    assert found.rows[-2:] == (142, 145)
    assert found.area[-1] == growth(*study()).area[-1]


def test_what_does_not_say_what_it_spent_is_counted():
    found = growth(*study(), row("searched/11", 5, 0.3))
    assert (found.rows[-1], found.unknown) == (137, 1)
    assert growth(row("baseline/a/3", 3, 1.0), row("searched/1", 3, 0.5)) is None
    assert growth(row("baseline/a/3", 3, 1.0)) is None


def test_without_baselines_there_is_nothing_to_pass():
    found = growth(row("searched/1", 3, 1.0, spent_rows=10), row("searched/2", 3, 0.5, spent_rows=10))
    assert math.isnan(found.baselines)
    assert math.isnan(found.passed)
    assert found.shares == [(20, 1.0)]  # the first is the corner itself


def test_a_search_that_finds_nothing_has_no_chart():
    rows = [row("baseline/a/3", 3, 1.0), row("searched/1", 3, 2.0, spent_rows=10)]
    assert growth(*rows).shares == []
    root = parsed(frame_of(rows), Files())
    assert any(node.text.startswith("There is no hypervolume") for node in root.classed("empty"))


def test_the_page_shows_the_steps():
    root = parsed(frame_of(study()), Files())
    assert table(root, "Hypervolume where it grew") == [["100", "50.0 %"], ["137", "100.0 %"]]
    assert "The search had passed them after 100 of its 137 network rows." in root.one("section", id="search").text


def test_same_record_same_figures(tmp_path):
    frame, files = small_record()
    again = as_recorded(reversed(climbed(small_study(), BUDGETS)))
    made = [write(each, tmp_path / folder, files) for each, folder in ((frame, "a"), (again, "b"))]
    assert [path.name for path in made[0]] == ["sigmas.png", "sigmas.svg", "hypervolume.png", "hypervolume.svg"]
    for first, second in zip(*made, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert [image.imread(path).shape[1] for path in made[0] if path.suffix == ".png"] == [1050, 1050]
    # The budget of the largest gain: 0.304 beside 0.403.
    assert "<!-- digits-kde: within 3 NFE -->" in (tmp_path / "a" / "sigmas.svg").read_text()


def test_the_figures_say_what_is_drawn(tmp_path):
    frame, files = small_record()
    drawn = sigmas_figure(frame, tmp_path / "sigmas.svg", files, 4).read_text()
    assert [f"<!-- {name} (4) -->" in drawn for name in ("DDIM", "iPNDM · 4")] == [True, True]
    assert "<!-- digits-kde: within 4 NFE -->" in drawn
    assert "<!-- all baselines together -->" in growth_figure(frame, tmp_path / "growth.svg").read_text()


@pytest.mark.parametrize("keys", [[], ["floor"], ["baseline/a/5"], ["searched/1"]])
def test_a_part_of_a_study_is_drawn_in_words(keys, tmp_path):
    frame = frame_of([row(key, 5, 0.3) for key in keys])
    assert "<!-- no hypervolume in this record -->" in growth_figure(frame, tmp_path / "growth.svg").read_text()
    assert "<!-- no card at this budget -->" in sigmas_figure(frame, tmp_path / "s.svg", Files(), 5).read_text()


def test_a_hostile_name_breaks_no_figure(tmp_path):
    frame, files = small_record()
    wild = "</svg><script>$\\frac"
    frame["method"] = frame["method"].replace("DDIM", wild)
    assert "<script" not in sigmas_figure(frame, tmp_path / "s.svg", files, 4).read_text()
