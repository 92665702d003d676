"""The published numbers: what is in the file agrees with what papers print, and a broken file is told."""

import re

import pandas as pd
import pytest

from pipeline.registry import SpecError
from pipeline.schedules import EDM
from reports import published

TEXT = (published.resources.files("reports") / published.FILE).read_text(encoding="utf-8")
HEADER, FIRST = TEXT.splitlines()[:2]


def values(found):
    return [value for value, _ in published.distinct(found)]


# Read off the papers' and repositories' tables by hand.
@pytest.mark.parametrize(
    ("where", "solver", "schedule", "nfe", "printed"),
    [
        ("cifar10-uncond-vp", "euler", "edm", 3, ["93.36"]),
        ("cifar10-uncond-vp", "ipndm-4", "gits", 5, ["8.38"]),
        ("cifar10-uncond-vp", "euler", "gits", 10, ["10.37", "10.09"]),
        ("cifar10-uncond-vp", "dpm_solver_pp-3", "logsnr", 10, ["3.00", "3.08"]),
        ("cifar10-uncond-vp", "heun", "edm", 35, ["1.97", "1.96"]),
        ("cifar10-uncond-vp", "heun", "sdm", 35, ["2.00"]),
        ("cifar10-uncond-vp", "euler>heun step", "sdm", 31, ["1.93"]),
        ("cifar10-uncond-vp", "usf", "", 7, ["2.42"]),
        ("afhqv2-64", "heun", "cos", 79, ["2.04"]),
        ("afhqv2-64", "heun", "sdm", 79, ["2.08"]),
        ("ffhq-64", "unipc-3", "logsnr", 3, ["86.43"]),
        ("ffhq-64-ve", "heun", "edm", 79, ["2.53"]),
        ("imagenet-64", "res_m", "", 8, ["7.44"]),
        ("imagenet-64", "heun+churn", "edm", 511, ["1.36"]),
        ("lsun-bedroom-256", "amed_solver", "", 8, ["6.95"]),
        ("coco-sd-1.4", "dpm_solver_pp-2", "gits", 10, ["15.53"]),
        ("cifar10-uncond-vp", "ipndm-4", "uniform", 5, ["17.34"]),
        ("cifar10-uncond-vp", "heun", "edm", 3, []),
    ],
)
def test_a_printed_fid_is_found_by_its_pair_and_its_nfe(where, solver, schedule, nfe, printed):
    assert values(published.lookup(where, solver, schedule, nfe)) == printed


def test_equal_numbers_of_several_tables_are_one_with_all_their_sources():
    found = published.lookup("cifar10-uncond-vp", "ipndm-4", "edm", 10)
    ((value, sources),) = published.distinct(pd.concat([found, found]))
    assert value == "2.77"
    assert len(sources) == 3
    assert sources[0].startswith("Chen et al., 2024, arXiv 2405.11326, Table 1 (")


def test_every_number_has_a_source_and_a_benchmark_and_is_in_range():
    held = published.table()
    assert len(held) > 800
    for name in ("benchmark", "method", "metric", "place", "evidence"):
        assert held[name].ne("").all(), name
    fids = held[held["metric"].eq("fid")]
    assert fids["number"].between(1, 400).all()
    assert len(fids) > 500
    numbers = held["nfe"].ne("") & held["nfe_counted"].ne("")
    # Who counts parallel evaluations once, or not the move to 0, counts too few; nobody here counts too many.
    assert (held[numbers]["nfe"].astype(int) <= held[numbers]["nfe_counted"].astype(int)).all()
    assert set(held[held["nfe"].ne("")]["nfe"].astype(int)) <= {*range(3, 17), 20, 31, 35, 66, 79, 511}


def test_a_benchmark_is_one_data_set_and_one_conditioning():
    held = published.table()
    assert (held.groupby("benchmark")[["dataset", "conditioning"]].nunique() == 1).all(axis=None)
    assert {"cifar10-uncond-vp", "cifar10-cond-ve", "ffhq-64", "afhqv2-64", "imagenet-64"} <= set(
        published.benchmarks()
    )


def test_more_evaluations_are_better_within_a_table_of_a_multistep_method():
    held = published.lookup("ffhq-64", "deis-3", "time_uniform")
    readme = held[held["place"].str.contains("README")]
    assert list(readme["nfe"].astype(int)) == list(range(3, 11))
    assert readme["number"].is_monotonic_decreasing


def test_the_sigmas_of_edm_are_those_of_its_formula():
    held = published.rows("cifar10-uncond-vp", "sigma")
    held = held[held["schedule"].eq("edm")]
    assert list(held["number"]) == pytest.approx(EDM(18).sigmas().tolist()[:-1], rel=0.02)


def test_the_settings_that_the_authors_use_are_there():
    held = {row["metric"]: row["number"] for _, row in published.table().iterrows() if row["benchmark"] == "ffhq-64-ve"}
    assert held["tau_k"] == 1e-4
    assert (held["eta_min"], held["eta_max"], held["num_steps"]) == (0.02, 0.2, 40)
    taus = published.rows("afhqv2-64", "tau_k")
    assert sorted(taus["number"]) == [1e-4, 1e-3]
    assert "the script and the README differ" in set(taus["note"])


def test_a_number_is_found_by_its_number_of_moves():
    assert values(published.lookup("afhqv2-64", "heun", "edm", num_steps=40)) == ["1.96", "2.04"]
    assert values(published.lookup("afhqv2-64", "heun", "edm", num_steps=18)) == []
    assert published.lookup("nothing", "heun", "edm").empty


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: re.sub(r",fid,[\d.]+,", ",fid,many,", line), "value: is no number, given 'many'"),
        (lambda line: re.sub(r",fid,[\d.]+,", ",fid,-1,", line), "value: is out of range, given '-1'"),
        (lambda line: re.sub(r",fid,[\d.]+,", ",fid,nan,", line), "value: is no number"),
        (lambda line: line.replace("cifar10-uncond-vp", "CIFAR-10", 1), "benchmark: is malformed, given 'CIFAR-10'"),
        (lambda line: line.replace("cifar10-uncond-vp", "", 1), "benchmark: is required and missing"),
        (lambda line: line.replace("Table 1", ""), "place: is required and missing"),
        (lambda line: line.replace("rho=7", "rho 7"), "setting: is malformed"),
        (lambda line: line.replace("2405.11326", "here"), "arxiv: is malformed"),
    ],
)
def test_a_row_that_is_wrong_is_told_with_its_line(change, says):
    changed = change(FIRST)
    assert changed != FIRST
    with pytest.raises(SpecError, match=rf"made\.csv, line 2: {re.escape(says)}"):
        published.read(f"{HEADER}\n{changed}\n", "made.csv")


def test_a_row_that_is_there_twice_or_a_column_that_is_missing_is_told():
    assert len(published.read(f"{HEADER}\n{FIRST}\n")) == 1
    with pytest.raises(SpecError, match="line 3: is there twice"):
        published.read(f"{HEADER}\n{FIRST}\n{FIRST}\n")
    with pytest.raises(SpecError, match="has other columns"):
        published.read("benchmark,value\na,1\n")
