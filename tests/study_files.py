"""Study files that are changed in one place, for the tests of what they say and of what is refused."""

import copy
from pathlib import Path

import pytest
import yaml

import search_spaces
from pipeline import yaml_file
from pipeline.registry import SpecError

TINY = Path(__file__).parent / "data" / "tiny.yaml"
ABSENT = object()
SPACE = {
    "solver": {
        "name": "switch",
        "low": {"choices": {"euler": {"name": "euler"}, "ipndm-3": {"name": "ipndm", "order": 3}}},
        "tau_k": {"low": 1e-3, "high": 1.0, "log": True},
    },
    "schedule": {
        "name": "sdm",
        "num_steps": {"low": 2, "high": 5},
        "eta_max": {"low": 0.01, "high": 0.5, "log": True},
        "eta_min": {"share_of": "eta_max", "low": 0.02, "high": 1.0, "log": True},
    },
}
SHARE = "schedule.eta_min/eta_max"
STEPS = {"low": 3, "high": 9}


def changed(place, value, content=None):
    """The tiny study, or `content`, with the value at a place such as "space/solver/tau_k"."""
    content = copy.deepcopy(yaml_file.read(TINY) if content is None else content)
    *way, last = [int(part) if part.isdecimal() else part for part in place.split("/")]
    inner = content
    for part in way:
        inner = inner[part]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return content


def refused(folder, content):
    """The mistake that loading this content ends in."""
    file = folder / "mine.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(SpecError) as caught:
        search_spaces.load(file)
    error = caught.value
    assert error.file == str(file)
    assert "\n" not in str(error)
    assert len(str(error)) < 600  # one line that a person reads; no dump of the file
    return error
