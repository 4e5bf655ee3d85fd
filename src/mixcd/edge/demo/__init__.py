"""`mixcd demo`: forgetting, and two ways against it, on real tweets."""
