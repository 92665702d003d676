"""Study files: one YAML a study, validated, and turned into Optuna's distributions.

`space` mirrors a trial's spec. A leaf is a fixed value, a range `{low, high, log, step}` (of whole numbers if both ends
are whole), ordered values `{values: [...]}`, a choice `{choices: ...}` whose labelled items may hold leaves of their
own, drawn only under their label, or a share `{share_of: sibling, low, high, log}`: the value is the share times
the sibling's, which keeps eta_min below eta_max without a pruned half of the space. Nothing in a study file is code.
"""

from search_spaces.files import load, names
from search_spaces.space import Space
from search_spaces.study import Study

__all__ = ["Space", "Study", "load", "names"]
