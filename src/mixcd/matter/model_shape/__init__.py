"""What a model is: its kind, its limits, its adapters, and how its rows are joined."""
