import csv as csv_module
import io
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from pipeline.registry import SpecError
from pipeline.tracking import Record
from reports import figures, interactive, pareto, tables
from reports.numbers import concise, with_error
from reports.record import complete, find_experiment, frame_of, groups, natural, read
from reports.standings import Standings
from tests.synthetic_study import record, small_study

# MLflow 3.17 asks SQLAlchemy for a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

EXPERIMENT = "digits-kde"
HOSTILE = r"50%_\{x}~^&#$ <b>|`*_"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def frame(uri):
    study = Record.open(uri, EXPERIMENT, "small", "f00d")
    for item in small_study():
        study.log(item)
    study.mark_front(["searched/1", "searched/2", "searched/9"])
    return read(uri, EXPERIMENT)


def row(key, nfe, fid, se=0.002, **more):
    held = {
        "key": key,
        "role": key.split("/")[0],
        "state": "complete",
        "method": key.split("/")[0],
        "name": f"trial {key}",
    }
    held |= {
        "nfe": nfe,
        "fid": fid,
        "fid_se": se,
        "setup_nfe": 0.0,
        "images": 8000,
        "first_seed": 0,
        "terminal": "zero",
    }
    held |= {"benchmark": EXPERIMENT, "benchmark_version": "1", "reference": "feed", "revision": "a1"}
    if held["role"] == "baseline":
        held |= {"method": key.split("/")[1], "budget": nfe}
    return held | more


def test_the_record_gives_the_numbers_back(frame):
    assert list(frame["key"])[-4:] == ["searched/9", "searched/10", "searched/11", "searched/12"]
    held = frame.set_index("key").loc["searched/2"]
    assert held["fid"] == 0.199
    assert held["fid_se"] == 0.002
    assert held["fid_corrected"] == 0.189
    assert held["nfe"] == 4
    assert held["setup_nfe"] == 17
    assert held["images"] == 8000
    assert held["first_seed"] == 0
    assert held["reference"] == "feedc0de12345678"
    assert held["revision"] == "a1b2c3d4e5f6"
    assert held["benchmark_version"] == "1"
    assert held["terminal"] == "zero"
    assert held["params.searched.eta_max"] == "0.2"
    assert held["params.solver.name"] == "euler"
    assert frame.set_index("key").loc["baseline/ddim/6", "budget"] == 6
    assert frame["state"].value_counts().to_dict() == {"complete": 14, "pruned": 1, "failed": 1}
    assert set(frame[frame["front"]]["key"]) == {"searched/1", "searched/2", "searched/9"}


def test_a_foreign_run_and_a_broken_one_are_listed_and_count_for_nothing(uri):
    name = "with-foreign-runs"
    study = Record.open(uri, name, "small", "f00d")
    for item in small_study():
        study.log(item)
    clean = read(uri, name)
    client = study._client
    client.create_run(study.experiment_id, run_name="somebody's")
    inside = client.create_run(study.experiment_id, tags={"mlflow.parentRunId": study.run_id}, run_name="by hand")
    client.log_metric(inside.info.run_id, "fid", 0.0)
    tags = {"mlflow.parentRunId": study.run_id, "sigmasearch.key": "searched/99", "sigmasearch.role": "searched"}
    client.create_run(study.experiment_id, tags=tags | {"sigmasearch.state": "complete"})
    cut = client.create_run(study.experiment_id, tags={**tags, "sigmasearch.key": "searched/98"})
    client.log_metric(cut.info.run_id, "fid", float("nan"))

    held = read(uri, name)
    assert held["state"].value_counts().to_dict() == {
        "complete": 14,
        "foreign": 2,
        "broken": 2,
        "pruned": 1,
        "failed": 1,
    }
    assert "1 failed, 2 broken, 2 foreign" in tables.markdown(held)
    assert tables.csv(held) == tables.csv(clean)
    assert tables.latex(held) == tables.latex(clean)

    other = Record.open(uri, name, "larger", "beef")
    other.log(record("searched/0", 3, 0.01))
    with pytest.raises(SpecError, match=r"study: the experiment holds several studies.*larger, small"):
        read(uri, name)
    assert list(read(uri, name, "larger")["state"]) == ["foreign", "complete"]
    assert tables.csv(read(uri, name, "small")) == tables.csv(clean)


def test_a_study_is_found_by_its_name(uri, frame):
    Record.open(uri, "another", "alone", "f00d")
    Record.open(uri, "another", "small", "f00d")
    assert find_experiment(uri, "alone") == "another"
    with pytest.raises(SpecError, match=r"several experiments.*allowed: another, digits-kde"):
        find_experiment(uri, "small")
    with pytest.raises(SpecError, match="did you mean 'alone'"):
        find_experiment(uri, "along")


def test_what_is_not_there_is_said_with_the_nearest_name(uri, frame, tmp_path):
    with pytest.raises(SpecError, match="did you mean 'digits-kde'"):
        read(uri, "digit-kde")
    with pytest.raises(SpecError, match=r"study: no such study in digits-kde.*did you mean 'small'"):
        read(uri, EXPERIMENT, "smal")
    with pytest.raises(SpecError, match="holds no study"):
        read(uri, "Default")
    with pytest.raises(SpecError, match="there is no MLflow store here yet"):
        read(f"sqlite:///{tmp_path}/none.db", EXPERIMENT)
    assert list(tmp_path.iterdir()) == []


def test_same_record_same_bytes(frame, tmp_path):
    other = Record.open(f"sqlite:///{tmp_path}/other.db", EXPERIMENT, "small", "0ther")
    for item in reversed(small_study()):
        other.log(item, started=1e9, ended=2e9)
    again = read(f"sqlite:///{tmp_path}/other.db", EXPERIMENT)
    first, second = tables.write(frame, tmp_path / "a"), tables.write(again, tmp_path / "b")
    assert [path.name for path in first] == ["table.md", "table.csv", "table.tex"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    for draw, name in ((figures.front_png, "f.png"), (figures.front_svg, "f.svg"), (interactive.front_html, "f.html")):
        assert draw(frame, tmp_path / "a" / name).read_bytes() == draw(again, tmp_path / "b" / name).read_bytes()
    assert image.imread(tmp_path / "a" / "f.png").shape[1] == 1050
    page = (tmp_path / "a" / "f.html").read_text()
    assert r"searched\u002f9" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert tables.leaderboard(frame) == tables.leaderboard(again)


def test_the_table_of_the_small_study(frame):
    lines = tables.markdown(frame).splitlines()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in lines
        if line[:1] == "|"
    }
    assert rows["method"] == ["set-up NFE", "3", "4", "6", "10"]
    assert rows["DDIM"] == ["0", "0.9000 ± 0.0020", "0.7000 ± 0.0020", "0.4000 ± 0.0020", "0.2000 ± 0.0020"]
    assert rows["published settings"] == ["17", "–", "–", "0.3000 ± 0.0020 (5)", "0.3000 ± 0.0020 (5)"]
    assert rows["iPNDM · 4"][2:] == ["0.2000 ± 0.0020 ~", "0.1000 ± 0.0020", "**0.0710 ± 0.0020**"]
    assert rows["searched"] == [
        "17",
        "**0.3000 ± 0.0020**",
        "**0.1990 ± 0.0020** ~",
        "**0.0800 ± 0.0020**",
        "0.0800 ± 0.0020 (6)",
    ]
    assert rows["floor: Heun on edm (31 NFE)"] == ["0", *["0.0700 ± 0.0020"] * 4]
    assert [rows[budget][-1] for budget in ("3", "4", "6", "10")] == [
        "searched is lower",
        "inconclusive",
        "searched is lower",
        "baseline is lower; baseline at the floor",
    ]
    # Equal ones: the first by key.
    assert "[searched/9]" in rows["6"][2]
    text = "\n".join(lines)
    assert "FID at 8,000 images, seeds 0-7999" in text
    assert "feedc0de12345678" in text
    assert "a1b2c3d4e5f6" in text
    assert "sigma = 0." in text


def test_the_long_form_holds_every_number(frame):
    rows = list(csv_module.DictReader(io.StringIO(tables.csv(frame))))
    won = [r for r in rows if r["role"] == "searched" and r["budget"] == "6"]
    assert len(won) == 1
    assert (
        won[0] | {"winner": "True", "inconclusive": "False", "nfe": "6", "images": "8000", "last_seed": "7999"}
        == won[0]
    )
    assert won[0]["key"] == "searched/9"
    assert {r["budget"] for r in rows if r["role"] == "floor"} == {""}


def test_different_measurements_are_different_tables():
    frame = frame_of(
        [
            row("baseline/a/5", 5, 0.4),
            row("searched/1", 5, 0.3),
            row("searched/2", 5, 0.2),
            row("searched/3", 5, 0.01, images=1000),
        ]
    )
    assert [len(group) for group in groups(frame)] == [3, 1]
    text = tables.markdown(frame)
    assert "FID at 8,000 images, seeds 0-7999" in text
    assert "FID at 1,000 images, seeds 0-999" in text
    assert Standings(groups(frame)[0]).at(5)[-1].row["key"] == "searched/2"


def test_an_unknown_error_is_never_a_win():
    frame = frame_of([row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.1, se=float("nan"))])
    (verdict,) = Standings(frame).verdicts()
    assert verdict.words == "inconclusive"
    assert "0.1 ± ?" in tables.markdown(frame)


def test_the_budget_binds_baselines_and_the_search_alike():
    frame = frame_of(
        [row("baseline/a/3", 3, 0.2), row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.5), row("searched/2", 6, 0.1)]
    )
    at = {(cell.method, cell.budget): cell.row["key"] for budget in (3, 5) for cell in Standings(frame).at(budget)}
    assert at == {("a", 3): "baseline/a/3", ("a", 5): "baseline/a/3", ("searched", 5): "searched/1"}


def test_a_hostile_method_name_breaks_no_format(tmp_path):
    frame = frame_of(
        [row("baseline/a/5", 5, 0.4, method=HOSTILE), row("searched/1", 5, 0.3, name="<script>alert(1)</script>")]
    )
    tex = tables.latex(frame)
    line = next(line for line in tex.splitlines() if line.startswith("50"))
    assert line.startswith(
        r"50\%\_\textbackslash{}\{x\}\textasciitilde{}\textasciicircum{}\&\#\$ "
        r"\textless{}b\textgreater{}\textbar{}`*\_ & 0 & "
    )
    assert line.endswith(r" \\")
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables.markdown(frame).splitlines() if line[:1] == "|"}
    assert widths == {4, 10}  # method, set-up and one budget; the verdicts
    assert "<b>" not in tables.markdown(frame)
    assert next(csv_module.DictReader(io.StringIO(tables.csv(frame))))["method"] == HOSTILE
    page = interactive.front_html(frame, tmp_path / "front.html").read_text()
    assert "<script>alert" not in page
    figures.front_png(frame, tmp_path / "front.png")


def test_nothing_scored_is_no_crash(tmp_path):
    frame = frame_of([row("searched/1", 5, float("nan"), state="failed")])
    assert tables.markdown(frame) == "Runs: 1 failed.\n"
    assert tables.csv(frame).count("\n") == 1
    assert tables.latex(frame) == ""
    assert tables.leaderboard(frame_of([])) == "No trials.\n"
    figures.front_png(frame, tmp_path / "front.png")
    interactive.front_html(frame, tmp_path / "front.html")


@pytest.mark.parametrize(
    "roles", [["searched/1"], ["baseline/a/5"], ["floor"], ["searched/1", "floor"], ["searched/1", "baseline/b/5"]]
)
def test_a_part_of_a_study_is_drawn_and_printed(roles, tmp_path):
    frame = frame_of([row(key, 5, 0.3) for key in roles])
    assert "FID at 8,000" in tables.markdown(frame)
    assert "tabular" in tables.latex(frame)
    figures.front_png(frame, tmp_path / "front.png")
    interactive.front_html(frame, tmp_path / "front.html")


def test_the_front_keeps_one_of_equals_and_what_is_not_beaten():
    points = {
        "searched/1": (3, 0.5),
        "searched/10": (4, 0.3),
        "searched/2": (4, 0.3),
        "searched/3": (5, 0.3),
        "searched/4": (6, 0.2),
    }
    frame = frame_of([row(key, nfe, fid) for key, (nfe, fid) in points.items()])
    assert list(pareto.front(frame)["key"]) == ["searched/1", "searched/2", "searched/4"]
    assert pareto.best_at(frame, 5.5)["key"] == "searched/2"
    assert pareto.best_at(frame, 2) is None


def test_the_front_is_what_no_point_beats():
    random = np.random.default_rng(0)
    points = [
        (int(nfe), round(float(fid), 2)) for nfe, fid in zip(random.integers(3, 9, 60), random.random(60), strict=True)
    ]
    frame = frame_of([row(f"searched/{i}", nfe, fid) for i, (nfe, fid) in enumerate(points)])
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert set(zip(pareto.front(frame)["nfe"], pareto.front(frame)["fid"], strict=True)) == set(points) - beaten


def test_the_area_under_a_front():
    assert pareto.hypervolume([], (10, 1)) == 0
    assert pareto.hypervolume([(5, 0.5)], (10, 1)) == 2.5
    assert pareto.hypervolume([(5, 0.5), (2, 0.8), (6, 0.6), (11, 0.1), (1, 2)], (10, 1)) == pytest.approx(3.1)


@pytest.mark.parametrize(
    ("fid", "se", "text"),
    [
        (0.09123, 0.00131, "0.0912 ± 0.0013"),
        (12.345, 1.234, "12.3 ± 1.2"),
        (345.6, 78.9, "346 ± 79"),
        (-1e-6, 0.001, "0.0000 ± 0.0010"),
        (0.5, 0.0, "0.5 ± 0"),
    ],
)
def test_numbers_to_the_digits_their_error_allows(fid, se, text):
    assert " ± ".join(with_error(fid, se)) == text


def test_brackets_hold_the_error_of_the_last_digits():
    assert concise(pd.Series(row("searched/1", 3, 0.09123, 0.00131))) == "0.0912(13)"
    assert concise(pd.Series(row("searched/1", 3, 12.345, 1.234))) == "12.3(1.2)"
    assert concise(pd.Series(row("searched/1", 3, 0.5, float("nan")))) == "0.5(?)"


def test_keys_sort_as_people_count():
    assert sorted(["searched/10", "floor", "searched/9", "baseline/a/3"], key=natural) == [
        "baseline/a/3",
        "floor",
        "searched/9",
        "searched/10",
    ]


def test_the_grid_is_the_images(tmp_path):
    images = np.zeros((5, 8, 8), dtype=np.uint8)
    images[3] = 200
    drawn = image.imread(figures.picture_grid(images, tmp_path / "grid.png"))
    assert drawn.shape[:2] == (2 * 66 + 2, 3 * 66 + 2)
    assert drawn[66 + 2 + 32, 32, 0] == pytest.approx(200 / 255)
    assert drawn[0, 0, 0] == 1
    colour = np.random.default_rng(0).random((4, 64, 64, 3))
    assert image.imread(figures.picture_grid(colour, tmp_path / "colour.png")).shape[:2] == (134, 134)
    with pytest.raises(ValueError, match="is drawn, not"):
        figures.picture_grid(np.zeros((4, 4)), tmp_path / "no.png")


def test_reports_need_neither_torch_nor_ray_nor_optuna():
    code = (
        "import sys, reports.record, reports.tables, reports.figures, reports.interactive\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'optuna', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_complete_keeps_the_roles_asked_for(frame):
    assert len(complete(frame)) == 14
    assert len(complete(frame, "searched", "published")) == 5
