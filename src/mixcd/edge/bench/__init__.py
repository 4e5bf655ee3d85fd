"""The research bench: sweeps over methods, mix ratios and seeds, and frontiers of what they found."""
