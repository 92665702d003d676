"""Published solvers and schedules, one paper a file. Dropping a file in registers what it defines."""
