"""What every layer says: names, errors, files. Imports numpy and nothing of the layers above."""
