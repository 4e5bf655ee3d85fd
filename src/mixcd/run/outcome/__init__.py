"""What a run leaves: its folder, its steps, and what it kept and lost."""
