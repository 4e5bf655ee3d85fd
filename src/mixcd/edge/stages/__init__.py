"""Chains of runs: which run came from which, and what each kept of every task."""
