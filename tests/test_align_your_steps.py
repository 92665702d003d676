"""Align Your Steps: the published tables, and what lies between their nodes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.align_your_steps import TABLES, AlignYourSteps
from pipeline.registry import SpecError
from pipeline.schedules import SCHEDULES

# Noise levels of the models themselves at the timesteps that the authors publish beside the table, as
# comfyanonymous/ComfyUI comfy_extras/nodes_align_your_steps.py:18 lists them: the table up to a timestep's width.
AT_TIMESTEPS = {
    "sd15": (14.6146, 6.47458, 3.86367, 2.69462, 1.88419, 1.39438, 0.964258, 0.652369, 0.397746, 0.151523, 0.0291672),
    "sdxl": (14.6146, 6.31845, 3.76818, 2.18115, 1.34052, 0.862072, 0.555069, 0.379854, 0.233236, 0.111419, 0.0291672),
}


@pytest.mark.parametrize("table", TABLES)
def test_ten_steps_to_sigma_min_are_the_table(table):
    assert AlignYourSteps(10, table).sigmas().tolist() == list(TABLES[table])


@pytest.mark.parametrize("table", AT_TIMESTEPS)
def test_the_tables_are_noise_levels_of_their_models(table):
    assert TABLES[table] == pytest.approx(AT_TIMESTEPS[table], rel=0.015)


@pytest.mark.parametrize("table", TABLES)
def test_twice_the_steps_halve_each_in_log_sigma(table):
    values = AlignYourSteps(20, table).sigmas().tolist()
    assert values[::2] == list(TABLES[table])
    for before, between, after in zip(values[:-2:2], values[1::2], values[2::2], strict=True):
        assert between == pytest.approx(math.sqrt(before * after), rel=1e-12)


def test_five_steps_take_every_other_node():
    assert AlignYourSteps(5, "sdxl").sigmas().tolist() == [14.615, 3.771, 1.342, 0.555, 0.234, 0.029]


def test_three_steps_by_hand():
    """At indices 10/3 and 20/3 of the table."""
    values = AlignYourSteps(3, "sd15").sigmas().tolist()
    assert values[1] == pytest.approx(2.697 ** (2 / 3) * 1.886 ** (1 / 3), rel=1e-12)
    assert values[2] == pytest.approx(0.963 ** (1 / 3) * 0.652 ** (2 / 3), rel=1e-12)


@pytest.mark.parametrize(
    ("table", "name"),
    [("sd15", "StableDiffusionSigmas"), ("sdxl", "StableDiffusionXLSigmas"), ("svd", "StableDiffusionVideoSigmas")],
)
def test_zero_in_place_is_what_diffusers_lists(table, name):
    schedulers = pytest.importorskip("diffusers.schedulers", reason="diffusers is not installed; make does it")
    assert AlignYourSteps(10, table, "zero_in_place").sigmas().tolist() == schedulers.AysSchedules[name]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(TABLES)), st.integers(1, 200))
def test_the_end_at_0_only_adds_a_move(table, num_steps):
    values = AlignYourSteps(num_steps, table).sigmas().tolist()
    assert AlignYourSteps(num_steps + 1, table, "zero").sigmas().tolist() == [*values, 0.0]


@pytest.mark.parametrize(
    ("values", "key", "allowed"),
    [
        ({"num_steps": 0}, "num_steps", "1 to 10000"),
        ({"num_steps": 10001}, "num_steps", "1 to 10000"),
        ({"table": "sd21"}, "table", "sd15, sdxl, deepfloyd_if, svd"),
        ({"final": "none"}, "final", "sigma_min, zero, zero_in_place"),
    ],
)
def test_a_mistake_names_its_key(values, key, allowed):
    with pytest.raises(SpecError, match=allowed) as caught:
        AlignYourSteps(**values)
    assert caught.value.path == key
    with pytest.raises(SpecError) as caught:
        SCHEDULES.build({"name": "ays", **values})
    assert caught.value.path == key


def test_its_ends_are_the_table_s_and_no_fields():
    schedule = SCHEDULES.build({"name": "ays", "table": "svd"})
    assert (schedule.sigma_max, schedule.sigma_min) == (700.0, 0.002)
    with pytest.raises(SpecError, match="unknown key"):
        SCHEDULES.build({"name": "ays", "sigma_max": 80.0})
