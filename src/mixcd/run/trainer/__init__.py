"""Rehearsal beside a Hugging Face trainer."""
