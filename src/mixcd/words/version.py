"""The version of mixcd."""

__version__ = "0.1.0"
