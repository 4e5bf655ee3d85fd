"""From raw rows to what a model takes, one module a kind of row."""
