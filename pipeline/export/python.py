"""Plain Python: one function over the table of coefficients, with torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from typing import ClassVar

from pipeline.export import text
from pipeline.export.target import TARGETS, Source

TABLE = Template("""\
# The schedule, for people to read: the table alone decides what is computed.
SIGMAS = $sigmas

# One network evaluation a row: its sigma; states to form first; its input; what nothing reads after it. Registers: n
# the unit-normal noise, n1, n2, ... fresh noise, x0, x1, ... the inputs, d0, d1, ... the denoised outputs, c... states.
ROWS = $rows
OUTPUT = $output
""")
SAMPLE = '''\
def sample(denoise, noise, fresh=None):
    """Samples from unit-normal `noise` (B, C, H, W), computed in its dtype and on its device.

    EDM's coordinates: x = x0 + sigma * n with n unit normal, and `denoise(x, sigma)` gives D, the expected x0, for a
    float sigma. Networks that predict eps want D = x - sigma * eps. `fresh(k)` gives the unit-normal noise nk, like x.
    """
    held = {"n": noise}

    def combine(terms):
        total = torch.zeros_like(noise)
        for name, weight in terms.items():
            if name not in held:
                if fresh is None:
                    raise ValueError("this sampler adds noise on its way: give `fresh`")
                held[name] = fresh(int(name[1:])).to(noise)
            total.add_(held[name], alpha=weight)
        return total

    for k, (sigma, states, row, done) in enumerate(ROWS):
        for name, terms in states.items():
            held[name] = combine(terms)
        held[f"x{k}"] = combine(row)
        for name in done:
            del held[name]
        held[f"d{k}"] = denoise(held[f"x{k}"], sigma).to(noise)
    return combine(OUTPUT)
'''


def table(source: Source) -> str:
    """The sigmas, rows and output of a plan as literals."""
    plan = source.plan
    return TABLE.substitute(sigmas=text.sigmas(plan), rows=text.rows(source), output=text.output(plan))


@TARGETS.register("python")
@dataclass(frozen=True)
class Python:
    """`sample(denoise, noise, fresh=None)`, for networks in EDM's coordinates."""

    registry_name: ClassVar[str]
    summary: ClassVar[str] = "sample(denoise, noise, fresh=None), with torch alone"

    def render(self, source: Source) -> str:
        """The file's text."""
        head = text.header(source, "A diffusion sampler as a table of coefficients: sample(denoise, noise).")
        return f"{head}\nimport torch\n\n{table(source)}\n\n{SAMPLE}"
