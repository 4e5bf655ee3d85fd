"""The loop that plans steps under a belief and learns from what they showed."""
