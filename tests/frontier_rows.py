"""Rows of a sweep's results, made up."""

from mixcd.edge.bench.sweep.sweep_results import NO_MEASURES, RESULTS_SCHEMA


def make_row(method="uniform", mix_ratio=0.25, seed=0, *, new=0.8, prior=0.7, **others):
    """A row whose validation scores are 0.1 below those of the test half."""
    row = {
        "task": "toy",
        "method": method,
        "mix_ratio": mix_ratio,
        "seed": seed,
        "wise_ft": 1.0,
        "observed_count": 0 if method == "none" else 100,
        "damaged_count": 0 if method == "none" else 20,
        "lift": None,
        "steps": 10,
        "extra_compute": 0.0,
        "is_charged": True,
        "forward_count": 10,
        "prior_pass_forward_count": 5,
        "seconds": 1.0,
        "settings": "{}",
        "provenance": "{}",
        "measures": NO_MEASURES,
    }
    for half, lower in (("test", 0.0), ("validation", 0.1)):
        row |= {f"new_after_{half}": new - lower, f"prior_after_{half}": prior - lower}
        row |= {f"new_before_{half}": 0.4 - lower, f"prior_before_{half}": 0.9 - lower}
        row[f"damaged_{half}"] = 0.9 - prior
    row |= others
    assert set(row) == set(RESULTS_SCHEMA.names)
    return row


def make_sweep(seeds=3, methods=("uniform", "drift", "none"), **others):
    """Drift is 0.02 above uniform, less a bit that depends on the seed; plain fine-tuning keeps little."""
    rows = []
    for seed in range(seeds):
        for method in methods:
            gain = {"drift": 0.02 - 0.002 * seed, "oracle-hard": 0.04 + 0.002 * seed}.get(method, 0.0)
            oracle = {"is_charged": False} if method.startswith("oracle") else {}
            for mix_ratio in (0.0,) if method == "none" else (0.1, 0.3):
                new, prior = 0.9 - 0.2 * mix_ratio, 0.5 + mix_ratio + gain + 0.01 * seed
                rows.append(make_row(method, mix_ratio, seed, new=new, prior=prior, **oracle, **others))
    return rows
