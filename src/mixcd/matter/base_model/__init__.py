"""The base model f: what it predicts for every prior sample, computed once and cached."""
