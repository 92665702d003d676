"""The front as a picture for a paper and as a page to explore, and a grid of samples.

Colours are Okabe and Ito's (2008), which the colour-blind tell apart; every baseline has a marker of its own besides.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from reports.numbers import conditions, count, plain
from reports.pareto import front
from reports.record import complete, groups
from reports.standings import error_of_difference  # noqa: F401
