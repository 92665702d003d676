"""The networks of published checkpoints: our own code, with the parameter names of the files it loads."""
