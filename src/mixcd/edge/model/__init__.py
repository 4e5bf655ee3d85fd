"""Models and adapters, opened and saved in one way."""
