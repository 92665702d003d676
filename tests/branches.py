"""A conditional space, and points of it."""

import copy

from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from search_spaces import Space
from tests.study_files import STEPS

# Labels with parameters of their own, one of them two deep, and ordered values.
CONDITIONAL = {
    "solver": {
        "choices": {
            "switch": {
                "name": "switch",
                "low": {
                    "choices": {"euler": {"name": "euler"}, "ipndm": {"name": "ipndm", "order": {"choices": [2, 3]}}}
                },
                "tau_k": {"low": 1e-3, "high": 1.0, "log": True},
            },
            "deis": {"name": "deis", "order": {"choices": [1, 2, 3]}},
            "heun": {"name": "heun"},
        }
    },
    "schedule": {
        "choices": {
            "sdm": {
                "name": "sdm",
                "num_steps": {"low": 5, "high": 9},
                "eta_max": {"values": [0.01, 0.05, 0.2]},
                "eta_min": {"share_of": "eta_max", "values": [0.1, 0.3, 1.0]},
            },
            "gits": {"name": "gits", "num_steps": STEPS, "coeff": {"low": 1.0, "high": 1.3}},
            "edm": {
                "name": "edm",
                "num_steps": {"low": 4, "high": 20, "log": True},
                "rho": {"low": 1.0, "high": 12.0},
                "final": {"choices": ["sigma_min", "zero"]},
            },
            "vp": {"name": "time_uniform", "num_steps": STEPS, "rho": 2.0, "final": "sigma_min"},
        }
    },
    "afs": {"choices": [False, True]},
}

BRANCHES = Space(CONDITIONAL)


@st.composite
def points(draw, space=BRANCHES):
    def suggest(name, distribution):
        if isinstance(distribution, CategoricalDistribution):
            return draw(st.sampled_from(distribution.choices), label=name)
        if isinstance(distribution, IntDistribution):
            return draw(st.integers(distribution.low, distribution.high), label=name)
        return draw(st.floats(distribution.low, distribution.high), label=name)

    return space.draw(suggest)


def branch(schedule, solver=None):
    """The conditional space with another item among its schedules, and among its solvers."""
    tree = copy.deepcopy(CONDITIONAL)
    tree["schedule"]["choices"]["mine"] = schedule
    if solver is not None:
        tree["solver"]["choices"]["mine"] = solver
    return tree
