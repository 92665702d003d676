"""docs/diffusers.md says what there is."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from pipeline.models.diffusers import DiffusersModel
from pipeline.models.diffusers.networks import FORMS
from pipeline.models.diffusers.scaling import scaling_of

TEXT = (Path(__file__).parents[2] / "docs" / "diffusers.md").read_text()


def rows(first):
    return TEXT[TEXT.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]


def test_it_names_every_field_and_every_pipeline():
    fields = {re.match(r"\| `(\w+)`", row)[1] for row in rows("field")}
    assert fields == {field.name for field in dataclasses.fields(DiffusersModel)}
    named = {name: row for row in rows("pipeline") for name in re.findall(r"`(\w+Pipeline)`", row)}
    assert named.keys() == FORMS.keys()
    assert all(FORMS[name].network in row for name, row in named.items())


def test_its_sigmas_are_those_of_the_linear_betas():
    linear = scaling_of({"_class_name": "DDPMScheduler"})
    first, last = (math.exp(linear.log_sigmas[place]) for place in (0, -1))
    assert f"({first:.2f} and {last:.0f} for DDPM's linear betas)" in TEXT
    assert scaling_of({"_class_name": "FlowMatchEulerDiscreteScheduler"}).time(100.0) == pytest.approx(990, abs=0.5)
