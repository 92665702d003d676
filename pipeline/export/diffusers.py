"""diffusers: a scheduler class that executes the plan, since none of its own takes any coefficients.

Its state is what the network sees, alpha * x with alpha = 1 / sqrt(1 + sigma^2) for a variance-preserving model, so
that a pipeline that never calls `scale_model_input` (DDPMPipeline) runs it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from string import Template
from typing import ClassVar

from pipeline.export import text
from pipeline.export.python import table
from pipeline.export.target import TARGETS, Source
from pipeline.plan import Plan, Terms
from pipeline.registry import SpecError
from pipeline.sampler import trace
from pipeline.solvers import Euler

SCHEDULER = Template('''\
logger = logging.get_logger(__name__)


class Plan$digest(SchedulerMixin, ConfigMixin):
    """Takes the place of a pipeline's scheduler: `Plan$digest.from_config(pipe.scheduler.config)`.

    `num_inference_steps` is $evaluations, the number of evaluations: a move of two of them is two calls of `step`.
    `prediction_type` is the model's: epsilon, v_prediction, sample, with its betas; or flow_prediction for a rectified
    flow, which has none and whose time is sigma / (1 + sigma). A sample is what the network sees, the last the image.
    """

    order = 1
    config_name = "scheduler_config.json"
    _compatibles = []

    @register_to_config
    def __init__(
        self,
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        trained_betas=None,
        prediction_type="epsilon",
        rescale_betas_zero_snr=False,
    ):
        if prediction_type not in PREDICTIONS:
            raise ValueError(f"prediction_type is one of {', '.join(PREDICTIONS)}, given {prediction_type!r}")
        betas = (num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)
        trained = DDPMScheduler(*betas, rescale_betas_zero_snr=rescale_betas_zero_snr)
        kept = trained.alphas_cumprod.double().numpy()
        with np.errstate(divide="ignore"):  # the last of a model that begins with noise alone
            log_sigmas = 0.5 * (np.log1p(-kept) - np.log(kept))
        self._times = np.flatnonzero(np.isfinite(log_sigmas))
        self._log_sigmas = log_sigmas[self._times]
        # The first sample is the unit-normal noise times this.
        self.init_noise_sigma = START * self._alpha(ROWS[0][0])
        self.sigmas = torch.tensor(SIGMAS)
        self.set_timesteps()

    def set_timesteps(self, num_inference_steps=None, device=None):
        """The model's times of the plan's evaluations, and the state of a new batch."""
        if num_inference_steps not in (None, len(ROWS)):
            raise ValueError(f"this plan makes {len(ROWS)} evaluations: num_inference_steps={len(ROWS)}")
        times = [self._time(row[0]) for row in ROWS]
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.num_inference_steps = len(ROWS)
        self._held = {}
        self._step_index = 0

    @property
    def step_index(self):
        return self._step_index

    def set_begin_index(self, begin_index=0):
        if begin_index:
            raise ValueError("a plan starts at its first sigma: it cannot begin in the middle")

    def scale_model_input(self, sample, timestep=None):
        """The sample itself: it is kept as the network sees it."""
        return sample

    def step(self, model_output, timestep, sample, generator=None, return_dict=True, fresh=None):
        """One evaluation. `fresh(k)` gives the k-th fresh noise of a stochastic plan; else `generator` does."""
        k, held = self._step_index, self._held
        if k >= len(ROWS):
            raise ValueError("the plan is at its end: call set_timesteps before the next batch")
        sigma = ROWS[k][0]
        x = sample.float() / self._alpha(sigma) if sample.dtype.itemsize < 4 else sample / self._alpha(sigma)

        def combine(terms):
            total = torch.zeros_like(x)
            for name, weight in terms.items():
                if name not in held:
                    drawn = fresh or (lambda k: randn_tensor(x.shape, generator, x.device, x.dtype))
                    held[name] = drawn(int(name[1:])).to(x)
                total.add_(held[name], alpha=weight)
            return total

        if k == 0:
            held["n"] = x / START
            held.update({name: combine(terms) for name, terms in ROWS[0][1].items()})
        held[f"x{k}"] = x
        for name in ROWS[k][3]:
            held.pop(name, None)
        held[f"d{k}"] = self._denoised(x, model_output.to(x), sigma)
        self._step_index = k + 1
        if k + 1 == len(ROWS):
            moved = combine(OUTPUT)
            held.clear()
        else:
            sigma, states, row, _ = ROWS[k + 1]
            for name, terms in states.items():
                held[name] = combine(terms)
            moved = combine(row) * self._alpha(sigma)
        moved = moved.to(sample.dtype)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def add_noise(self, original_samples, noise, timesteps):
        """Noisy images at these times of the model, for its training."""
        times = timesteps.cpu().double().numpy()
        if self.config.prediction_type == "flow_prediction":
            alphas, shares = 1 - times / self.config.num_train_timesteps, times / self.config.num_train_timesteps
        else:
            sigmas = np.exp(np.interp(times, self._times, self._log_sigmas))
            alphas, shares = 1 / np.hypot(1, sigmas), sigmas / np.hypot(1, sigmas)
        alphas, shares = (
            torch.from_numpy(values).to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1))
            for values in (alphas, shares)
        )
        return alphas * original_samples + shares * noise

    def __len__(self):
        return self.config.num_train_timesteps

    def _alpha(self, sigma):
        """What the network sees of x."""
        return 1 / (1 + sigma) if self.config.prediction_type == "flow_prediction" else 1 / math.hypot(1, sigma)

    def _denoised(self, x, answer, sigma):
        kind, alpha = self.config.prediction_type, self._alpha(sigma)
        if kind == "sample":
            return answer
        if kind == "epsilon":
            return x - sigma * answer
        if kind == "v_prediction":
            return alpha**2 * x - sigma * alpha * answer
        return alpha * (x - sigma * answer)

    def _time(self, sigma):
        """The model's time at sigma: linear in log(sigma) between trained ones, the nearest one beyond them."""
        if self.config.prediction_type == "flow_prediction":
            return self.config.num_train_timesteps * sigma / (1 + sigma)
        low, high = np.exp(self._log_sigmas[[0, -1]])
        if not low <= sigma <= high:
            logger.warning(f"sigma {sigma:.4g} is outside the model's {low:.4g} to {high:.4g}: it is told the nearest")
        return float(np.interp(math.log(sigma), self._log_sigmas, self._times))
''')
IMPORTS = """\
import math

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
"""


@TARGETS.register("diffusers")
@dataclass(frozen=True)
class Diffusers:
    """A scheduler class, SchedulerMixin and ConfigMixin, for models of eps, v, sample and flow."""

    registry_name: ClassVar[str]
    summary: ClassVar[str] = "a scheduler class: pipe.scheduler = Plan....from_config(pipe.scheduler.config)"

    def render(self, source: Source) -> str:
        """The file's text."""
        plan = source.plan
        head = text.header(source, "A diffusion sampler as a scheduler of diffusers.")
        if stock := stock_scheduler(plan):
            head += f"#\n# A scheduler of its own does the same: {stock}\n"
        started, start = one_start(plan)
        told = f"# The first input is the first noise times this.\nSTART = {start!r}\n"
        scheduler = SCHEDULER.substitute(digest=plan.digest, evaluations=len(plan))
        return "\n".join([head, IMPORTS, table(replace(source, plan=started)) + told, "", scheduler])


def stock_scheduler(plan: Plan) -> str | None:
    """How a scheduler that diffusers has executes this very plan; None where none does.

    Euler's alone takes any sigmas, of all whose coefficients are a solver's here; the others take trained times.
    """
    same = trace(Euler(), plan.sigmas).digest == plan.digest
    made = 'EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")'
    return f"{made}, set_timesteps(sigmas=SIGMAS)" if same else None


def one_start(plan: Plan) -> tuple[Plan, float]:
    """The same sampler from one noise, and what the first input is of it.

    A pipeline hands over its first sample, and nothing can be added to it. Where the first evaluation takes fresh noise
    too (churn), the two are one normal, of the root of their summed squares.

    Raises:
        SpecError: the plan makes no evaluation, or reads again what was added up.
    """
    if not plan.stages:
        raise SpecError("makes no evaluation", path="plan", allowed="one or more with this target")
    first = plan.stages[0]
    states = {key: _over_noise(terms, {}) for key, terms in first.carry.items()}
    start = _over_noise(first.input, states)
    if set(start) == {"n"}:
        return plan, start["n"]
    later = {key for stage in plan.stages[1:] for terms in (*stage.carry.values(), stage.input) for key in terms}
    if first.carry or (later | set(plan.output)) & set(start):
        raise SpecError(
            "reads its first noises again, and a pipeline of diffusers keeps their sum alone", path="plan",
            allowed="python, k-diffusion or comfyui as the target",
        )  # fmt: skip
    merged = math.sqrt(math.fsum(value**2 for value in start.values()))
    return replace(plan, stages=(replace(first, input={"n": merged}), *plan.stages[1:])), merged


def _over_noise(terms: Terms, states: Mapping[str, Terms]) -> Terms:
    """The terms with the states that are formed before any evaluation written out."""
    total: Terms = {}
    for key, weight in terms.items():
        for noise, value in states.get(key, {key: 1.0}).items():
            total[noise] = total.get(noise, 0.0) + weight * value
    return total
