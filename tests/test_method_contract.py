"""What every registered method keeps to."""

from __future__ import annotations

import pytest

from pipeline.methods import METHODS, Method
from pipeline.registry import SpecError
from pipeline.sampler import Calibrated, Sampler, trace
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from tests.conformance_problem import MIXTURE
from tests.contract_examples import noise

every_method = pytest.mark.parametrize("method", list(METHODS), ids=METHODS.names())


@every_method
def test_method_spends_exactly_its_nfe(method):
    possible = 0
    for nfe in range(1, 21):
        pair = method.pair(nfe)
        if pair is None:
            continue
        possible += 1
        solver, schedule = SOLVERS.build(pair[0]), SCHEDULES.build(pair[1])
        if isinstance(solver, Calibrated) or schedule.calibration_images:
            if nfe in (1, 7, 20):
                sampler = Sampler(solver, schedule)
                assert len(sampler.prepare(MIXTURE, noise(sampler.calibration_images))[1]) == nfe
        else:
            assert len(trace(solver, schedule.sigmas().tolist())) == nfe
    assert possible


@every_method
def test_method_is_told(method):
    assert METHODS.get(method.name) is method
    assert method.name == method.name.lower()
    assert method.title
    assert "arXiv" in method.source
    assert method.pair(0) is None
    nfe = next(nfe for nfe in range(1, 21) if method.pair(nfe))
    assert method.pair(nfe) is not method.pair(nfe), "specs are the caller's own"


def test_method_names():
    assert len(METHODS) == len(METHODS.names()) == len(set(METHODS.names()))
    assert "ddim" in METHODS
    with pytest.raises(SpecError, match=r"unknown method.*did you mean 'unipc_3'"):
        METHODS.get("unipc3")
    with pytest.raises(ValueError, match="two methods are called 'ddim'"):
        METHODS.register(Method("ddim", "Another", "", lambda nfe: None))
