"""The config file: its sections, and how faults in it are told."""
