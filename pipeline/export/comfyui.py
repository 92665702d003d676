"""ComfyUI: a node file whose one node gives SAMPLER and SIGMAS for its nodes SamplerCustom and SamplerCustomAdvanced.

Written against Comfy-Org/ComfyUI comfy/samplers.py (KSAMPLER, KSamplerX0Inpaint) and comfy_extras/
nodes_custom_sampler.py (ManualSigmas, SamplerCustom).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from string import Template
from typing import ClassVar

from pipeline.export import text
from pipeline.export.k_diffusion import SAMPLE_PLAN, moved
from pipeline.export.python import SAMPLE
from pipeline.export.target import TARGETS, Source
from pipeline.plan import Plan

SAMPLER = '''\
def sample_in_comfyui(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """What ComfyUI calls. Fresh noise follows the workflow's seed, as the first noise does, but is never the same."""
    sampling = getattr(getattr(model.inner_model, "inner_model", None), "model_sampling", None)
    if isinstance(sampling, getattr(comfy.model_sampling, "CONST", ())):
        raise ValueError("this sampler is for models that add noise to images (eps, v); a flow model mixes the two")
    seed = (extra_args or {}).get("seed") or 0

    def fresh(k):
        generator = torch.Generator().manual_seed((seed + k) % 2**63)
        return torch.randn(x.shape, generator=generator)

    return sample_plan(model, x, sigmas, extra_args, callback, disable, fresh)
'''
NODE = Template('''\
class Plan$digest:
    """Both outputs go to the same SamplerCustom: the sampler takes no other sigmas."""

    CATEGORY = "sampling/custom_sampling/sigmasearch"
    RETURN_TYPES = ("SAMPLER", "SIGMAS")
    FUNCTION = "get"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def get(self):
        return comfy.samplers.KSAMPLER(sample_in_comfyui), torch.tensor(SIGMAS, dtype=torch.float32)


NODE_CLASS_MAPPINGS = {"sigmasearch $digest": Plan$digest}
NODE_DISPLAY_NAME_MAPPINGS = {"sigmasearch $digest": $name}
''')


def manual_sigmas(plan: Plan) -> str:
    """The schedule for the node ManualSigmas, whose reading of numbers knows no exponents."""
    return ", ".join(f"{Decimal(repr(sigma)):f}" for sigma in plan.sigmas)


@TARGETS.register("comfyui")
@dataclass(frozen=True)
class ComfyUI:
    """A file for `custom_nodes`, with one node that gives the plan's sampler and its sigmas."""

    registry_name: ClassVar[str]
    summary: ClassVar[str] = "a file for custom_nodes: one node, SAMPLER and SIGMAS for SamplerCustom"

    def render(self, source: Source) -> str:
        """The file's text."""
        plan = source.plan
        head = text.header(source, "A diffusion sampler for ComfyUI: put this file into its folder custom_nodes.")
        head += f"#\n# Its sigmas alone, for the node ManualSigmas and another sampler:\n# {manual_sigmas(plan)}\n"
        imports = "import comfy.model_sampling\nimport comfy.samplers\nimport torch\n"
        node = NODE.substitute(digest=plan.digest, name=ascii(_display_name(source)))
        return "\n".join([head, imports, moved(source), "", SAMPLE, "", SAMPLE_PLAN, "", SAMPLER, "", node])


def _display_name(source: Source) -> str:
    """The method in a menu, without what a browser might read as markup."""
    method = re.sub(r"[^\w .,>@+-]+", " ", text.harmless(source.card["method"]).replace("·", ","))
    return re.sub(r"\s+,", ",", method).strip() + f", {len(source.plan)} NFE"
