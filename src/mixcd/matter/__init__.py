"""Models and data: what the ideas are about. Imports torch, datasets and pyarrow, and no trainer."""
