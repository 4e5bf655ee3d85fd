"""The paper's method, and ours, as values and functions of numpy arrays; no idea imports another."""
