"""The fine-tuned model f': its mixed batches, and what its forward passes show."""
