"""The report: one HTML file that needs no network, made of sections that know nothing of where they came from."""
