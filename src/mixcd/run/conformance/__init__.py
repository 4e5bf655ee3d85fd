"""The conformance suite: what every supported trainer and every estimator must do."""
