"""Nothing is learned twice: which specs share what was learned, which never do, and what it cost either way."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import pytest
import torch

from pipeline.denoiser import Meter
from pipeline.memory import Memory
from pipeline.methods import METHODS
from pipeline.registry import SpecError
from pipeline.sampler import Sampler, trace
from pipeline.schedules import EDM, SCHEDULES
from pipeline.solvers import SOLVERS
from tests.conformance_problem import MIXTURE
from tests.contract_examples import SCHEDULE_EXAMPLES, examples, noise

EULER = {"name": "euler"}
SWITCH = {"name": "switch", "tau_k": 0.05, "calibration_images": 32}
SDM = {"name": "sdm", "num_steps": 8, "eta_min": 1e-3, "eta_max": 1e-2, "calibration_images": 32}
GITS = {"name": "gits", "num_steps": 6, "teacher_steps": 20, "warmup": 40}
COS = {"name": "cos", "num_steps": 8, "probe_steps": 5, "knots": "all", "calibration_images": 32}


def sampler(schedule, solver=EULER):
    return Sampler(SOLVERS.build(solver), SCHEDULES.build(schedule), schedule.get("afs_search", False))


def prepared(schedule, solver=EULER, memory=None):
    """The digest of the plan, the rows that were spent, the rows that were saved."""
    asked, meter, before = sampler(schedule, solver), Meter(MIXTURE), memory.rows_saved if memory else 0
    _, plan = asked.prepare(meter, noise(asked.calibration_images), memory)
    return plan.digest, meter.rows, memory.rows_saved - before if memory else 0


learned = [
    spec
    for spec in examples(SCHEDULES.names(), SCHEDULE_EXAMPLES, num_steps=8)
    if SCHEDULES.build(spec.values[0]).calibration_images
]


@pytest.mark.parametrize("spec", learned)
def test_a_learned_schedule_is_the_same_bits_with_and_without_a_memory(spec, tmp_path):
    asked = sampler(spec)
    calibration, meter = noise(asked.calibration_images), Meter(MIXTURE)
    plain = asked.place(meter, calibration)
    assert asked.schedule.sigmas(MIXTURE, calibration).tolist() == plain[0]
    first, later = Memory(tmp_path), Memory(tmp_path)
    for memory, spent in ((first, meter.rows), (first, 0), (later, 0), (later, 0)):
        again, before = Meter(MIXTURE), memory.rows_saved
        assert repr(asked.place(again, calibration, memory)) == repr(plain)
        assert again.rows == spent
        assert again.rows + memory.rows_saved - before == meter.rows


def test_there_are_schedules_that_learn():
    assert {"sdm", "gits", "cos"} <= {spec.values[0]["name"] for spec in learned}


def test_the_same_spec_twice_spends_nothing_and_is_the_same_plan():
    memory = Memory()
    digest, rows, saved = prepared(SDM, SWITCH, memory)
    assert (digest, rows, 0) == prepared(SDM, SWITCH)
    assert saved == 0
    assert rows > 0
    assert prepared(SDM, SWITCH, memory) == (digest, 0, rows)


def test_the_rows_of_the_schedule_and_of_the_decision_are_told_apart():
    asked, memory, parts = sampler(SDM, SWITCH), Memory(), []
    for _ in range(2):
        meter, before = Meter(MIXTURE), memory.rows_saved
        sigmas, _ = asked.place(meter, noise(32), memory)
        parts.append(meter.rows + memory.rows_saved - before)
        asked.decide(meter, noise(32), sigmas, memory)
        parts.append(meter.rows + memory.rows_saved - before - parts[-1])
    assert parts[:2] == parts[2:]
    assert parts[1] == 8 * 32
    assert memory.rows_saved == sum(parts[:2])


# For each, a change of every field: those that make use of the same entry, and those that decide it.
USES = {
    "sdm": (SDM, {"num_steps": 5, "power": 1.0, "q": 0.3, "final": "sigma_min"}),
    "gits": (GITS, {"num_steps": 5, "final": "zero", "coeff": 3.0, "student": {"name": "heun"}}),
    "cos": (COS, {"num_steps": 5, "final": "sigma_min", "knots": "published"}),
}
DECIDES = {
    "sdm": {
        "eta_min": 2e-3, "eta_max": 2e-2, "eta_p": 0.5, "base_steps": 12, "rho": 5.0, "mover": "heun",
        "grid_snap": True, "gamma_step": 0.7, "c_shrink": 0.3, "max_expand_bins": 1, "max_shrink_iters": 1,
        "enforce_bound": True, "sigma_min": 0.01, "sigma_max": 50.0, "calibration_images": 16,
    },
    "gits": {
        "sigma_min": 0.01, "sigma_max": 50.0, "metric": "l2", "teacher": {"name": "heun"}, "teacher_steps": 19,
        "teacher_rho": 5.0, "warmup": 24, "afs_search": True,
    },
    "cos": {"sigma_min": 0.01, "sigma_max": 50.0, "rho": 5.0, "probe_steps": 24, "calibration_images": 16},
}  # fmt: skip
changes = [(name, {key: value}) for name, (_, uses) in USES.items() for key, value in uses.items()]
decisions = [(name, {key: value}) for name, held in DECIDES.items() for key, value in held.items()]


@pytest.mark.parametrize(("name", "change"), changes, ids=str)
def test_what_only_makes_use_of_an_entry_spends_nothing(name, change):
    memory, (base, _) = Memory(), USES[name]
    digest, rows, _ = prepared(base, memory=memory)
    alone = prepared({**base, **change})
    assert alone[0] != digest or "student" in change
    assert prepared({**base, **change}, memory=memory) == (alone[0], 0, rows)


@pytest.mark.parametrize(("name", "change"), decisions, ids=str)
def test_what_decides_an_entry_never_shares_it(name, change):
    memory, (base, _) = Memory(), USES[name]
    prepared(base, memory=memory)
    alone = prepared({**base, **change})
    assert prepared({**base, **change}, memory=memory) == alone
    assert alone[1] > 0


@pytest.mark.parametrize("name", USES)
def test_every_field_is_one_or_the_other(name):
    fields = {field.name for field in dataclasses.fields(SCHEDULES.get(name))}
    assert fields == {*USES[name][1], *DECIDES[name]}


@pytest.mark.parametrize("change", [{"num_steps": None}, {"num_steps": 5}], ids=str)
def test_a_walk_by_heun_costs_its_second_walk_only_where_it_is_resampled(change):
    """The published resampling walks by Euler again; the walk itself has no use for that, and does not pay it."""
    memory, heun = Memory(), {**SDM, "mover": "heun"}
    prepared(heun, memory=memory)
    alone = prepared({**heun, **change})
    digest, spent, saved = prepared({**heun, **change}, memory=memory)
    assert (digest, spent + saved) == alone[:2]
    assert spent == (0 if change["num_steps"] else alone[1])


def test_one_matrix_serves_every_budget_of_both_methods(tmp_path):
    memory, spent = Memory(tmp_path), []
    for name in ("ddim_gits", "ipndm_gits"):
        for nfe in range(3, 14):
            solver, schedule = METHODS.get(name).pair(nfe)
            spent.append(prepared({**schedule, "warmup": 16}, solver, memory)[1])
    assert spent == [60 * 16] + [0] * 21
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change", [{"num_steps": 5}, {"coeff": 1.0}, {"student": {"name": "heun"}}, {"final": "zero"}, {"metric": "l2"}]
)
def test_a_path_that_a_student_searched_serves_its_own_spec_only(change):
    memory, search = Memory(), {**GITS, "afs_search": True}
    digest, rows, _ = prepared(search, memory=memory)
    assert prepared(search, memory=memory) == (digest, 0, rows)
    alone = prepared({**search, **change})
    assert alone[1] > 20 * 40
    assert prepared({**search, **change}, memory=memory) == alone


def test_one_probe_serves_every_budget_of_cos_up_to_its_grid():
    memory = Memory()
    spent = [prepared(*METHODS.get("heun_cos").pair(nfe)[::-1], memory)[1] for nfe in range(5, 36, 2)]
    assert spent[0] > 0
    assert spent[1:] == [0] * 15


def test_one_pass_serves_every_tau_k_and_every_high_solver():
    memory, edm = Memory(), {"name": "edm", "num_steps": 12}
    digests = set()
    for high in ({"name": "heun"}, {"name": "unipc"}):
        for tau_k in (0.001, 0.01, 0.1, 1.0, 1e9):
            switch = {**SWITCH, "tau_k": tau_k, "high": high}
            digest, rows, saved = prepared(edm, switch, memory)
            assert (digest, rows + saved) == prepared(edm, switch)[:2]
            assert rows == (0 if digests else 12 * 32)
            digests.add(digest)
    assert len(digests) >= 6


@pytest.mark.parametrize(
    "change", [{"low": {"name": "heun"}}, {"curvature": "absolute"}, {"calibration_images": 16}, {"on": 11}], ids=str
)
def test_another_curvature_is_another_pass(change):
    memory, change = Memory(), dict(change)
    prepared({"name": "edm", "num_steps": 12}, SWITCH, memory)
    edm = {"name": "edm", "num_steps": change.pop("on", 12)}
    alone = prepared(edm, {**SWITCH, **change})
    assert prepared(edm, {**SWITCH, **change}, memory) == alone
    assert alone[1] > 0


@pytest.mark.parametrize("decided", [{"switch_at": 3}, {"rule": "linear"}], ids=str)
def test_what_is_decided_already_learns_nothing(decided, tmp_path):
    edm, switch = {"name": "edm", "num_steps": 12}, {**SWITCH, **decided}
    expected = trace(SOLVERS.build(switch), EDM(12).sigmas().tolist()).digest
    assert prepared(edm, switch, Memory(tmp_path / "none")) == (expected, 0, 0)
    assert not (tmp_path / "none").exists()


def test_a_part_is_known_however_it_is_spelled():
    memory, full = Memory(), {"name": "dpm_solver_pp", "order": 2}
    brief = {"name": "dpm_solver_pp"}
    assert SOLVERS.build(brief) == SOLVERS.build(full)
    edm = {"name": "edm", "num_steps": 6}
    assert prepared(edm, {**SWITCH, "low": brief}, memory)[1] > 0
    assert prepared(edm, {**SWITCH, "low": full}, memory)[1] == 0
    assert prepared({**GITS, "teacher": brief}, memory=memory)[1] > 0
    assert prepared({**GITS, "teacher": full}, memory=memory)[1] == 0


@dataclasses.dataclass(frozen=True)
class Plain:
    """A schedule that learns and says nothing of it, as a new file may be."""

    num_steps: int
    calibration_images: int = 8
    registry_name: ClassVar[str] = "plain"

    def sigmas(self, denoise=None, noise=None):
        top = float(denoise(noise, 1.0).square().mean())
        return top * torch.linspace(1, 0, self.num_steps + 1, dtype=torch.float64)


def test_a_schedule_that_says_nothing_of_what_it_learns_is_known_by_its_fields(tmp_path):
    def place(schedule, memory):
        meter = Meter(MIXTURE)
        return Sampler(SOLVERS.build(EULER), schedule).place(meter, noise(8), memory)[0], meter.rows

    expected = Plain(3).sigmas(MIXTURE, noise(8)).tolist()
    assert place(Plain(3), None) == place(Plain(3), Memory(tmp_path)) == (expected, 8)
    assert place(Plain(3), Memory(tmp_path)) == (expected, 0)
    assert place(Plain(4), Memory(tmp_path))[1] == 8


def test_a_mistake_is_told_every_time_under_its_own_part():
    memory = Memory()

    def broken(x, sigma):
        return torch.full_like(x, math.nan)

    for schedule, part in ((SDM, "schedule"), (GITS, "schedule.teacher"), (COS, "schedule.sigma 80")):
        for _ in range(2):
            with pytest.raises(SpecError, match="not finite") as caught:
                sampler(schedule).prepare(broken, noise(40), memory)
            assert caught.value.path == part
        assert prepared(schedule, memory=memory) == prepared(schedule)
