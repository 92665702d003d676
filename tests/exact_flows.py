"""Flows whose paths are known in closed form, and the batch and sigmas that SDM's tests walk them with."""

from __future__ import annotations

import math

import torch

from pipeline.noise import noise
from pipeline.sampler import integrate
from pipeline.solvers import Euler, Point
from tests.conformance_problem import CALIBRATION_LATENTS

BATCH = CALIBRATION_LATENTS[:32]
SIGMAS = [80.0, 30.0, 12.0, 5.0, 2.0, 0.7, 0.2, 0.05, 0.01]


def norms(x):
    return x.flatten(1).norm(dim=1)


class OnePoint:
    """All data at one image: D is that image everywhere, and every path is a straight line into it."""

    def __init__(self):
        self.image = noise([99], BATCH.shape[1:], torch.float64)

    def __call__(self, x, sigma):
        return self.image.expand_as(x)


class Gaussian:
    """Data N(0, v): D = x v / (s^2 + v), and a path keeps x / sqrt(s^2 + v)."""

    def __init__(self, variance):
        self.variance = variance

    def __call__(self, x, sigma):
        return x * (self.variance / (sigma**2 + self.variance))

    def point(self, sigma, scale):
        x = scale * math.sqrt(sigma**2 + self.variance)
        return Point(sigma, x, self(x, sigma))

    def moved(self, x, sigma, target):
        """The true path from x at `sigma`, at `target`."""
        return x * math.sqrt((target**2 + self.variance) / (sigma**2 + self.variance))


def euler_points(denoise, sigmas=SIGMAS, batch=BATCH):
    points = []
    integrate(denoise, sigmas[0] * batch, sigmas, Euler(), observe=points.append)
    return points
