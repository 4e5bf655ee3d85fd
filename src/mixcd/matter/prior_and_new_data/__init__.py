"""The prior data Z_p and the new data Z_f: read, prepared, fingerprinted, each sample with its id."""
