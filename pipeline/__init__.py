"""sigmasearch: measures and searches diffusion samplers. Importing this package imports nothing heavy."""

__version__ = "0.1.0"
