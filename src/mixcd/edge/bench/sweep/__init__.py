"""Sweeps: methods by mix ratios by seeds, each run a row of results."""
