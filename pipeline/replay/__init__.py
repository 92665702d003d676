"""Replays of stored trials: a search without its sampling, in virtual time, to compare search methods in seconds."""
