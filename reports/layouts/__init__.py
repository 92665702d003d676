"""The tables of the papers, each a layout that is filled from a study's record: one file a layout, all of them here."""

from reports.layouts import eta_steps, few_steps, mixing_rules, sdm_table1, sigmas, solver_schedule, tau_sweep
from reports.layouts.table import Layout

LAYOUTS: tuple[Layout, ...] = (
    solver_schedule.LAYOUT,
    few_steps.LAYOUT,
    sdm_table1.LAYOUT,
    tau_sweep.LAYOUT,
    mixing_rules.LAYOUT,
    eta_steps.LAYOUT,
    sigmas.LAYOUT,
)
