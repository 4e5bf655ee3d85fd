"""Two gloo processes on the real Trainer draw as one process with accumulation does."""

import numpy as np
import pytest

from processes import launch


@pytest.mark.slow
def test_two_processes_draw_as_one_with_accumulation(tmp_path):
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2", "--probe=audit")
    first, second = launch(2, tmp_path / "two", "--accumulation=1", "--probe=audit")
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["prior_shares"] == [2] * 12  # β · block, exactly
    assert first["beliefs"] == second["beliefs"]
    assert first["observed_count"] == second["observed_count"] == alone["observed_count"]
    assert first["gather_count"] == second["gather_count"] == 12  # one a step
    assert sum(first["probed_count"]) == 4 * 100  # in steps 0, 3, 6 and 9, the same samples everywhere
    for name in ("probed_count", "probed_damaged_count"):
        assert first[name] == second[name] == alone[name]
    shares = first["prior_pass_forward_count"], second["prior_pass_forward_count"]
    assert min(shares) > 0
    assert sum(shares) == alone["prior_pass_forward_count"]
    parts = sorted(path.name for path in (tmp_path / "one" / "_mixcd_cache").glob("part-*"))
    assert parts == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    for name in (*parts, "manifest.json"):
        one, two = ((tmp_path / run / "_mixcd_cache" / name).read_bytes() for run in ("one", "two"))
        assert one == two, name


@pytest.mark.slow
def test_two_processes_forecast_drift_as_one_with_accumulation(tmp_path):
    options = ["--estimator=drift", "--probe=estimate"]
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2", *options)
    first, second = launch(2, tmp_path / "two", "--accumulation=1", *options)
    assert first["beliefs"] == second["beliefs"]  # to the bit: the first process's, broadcast
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["gather_count"] == second["gather_count"] == 12
    for name in ("features.safetensors", "logits.safetensors", "basis.safetensors"):
        one, two = ((tmp_path / run / "_mixcd_cache" / name).read_bytes() for run in ("one", "two"))
        assert one == two, name


@pytest.mark.slow
def test_two_processes_read_heads_as_one_with_accumulation(tmp_path):
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2", "--hidden")
    first, second = launch(2, tmp_path / "two", "--accumulation=1", "--hidden")
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["beliefs"] == second["beliefs"]
    assert first["observed_count"] == second["observed_count"] == alone["observed_count"]
    np.testing.assert_allclose(first["beliefs"]["12"], alone["beliefs"]["12"], rtol=0, atol=1e-9)
    assert sum(first["observed_count"]) == 12 * 2


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_and_as_one_process(tmp_path):
    whole, _ = launch(2, tmp_path / "run", "--accumulation=1")
    later = {step: block for step, block in whole["blocks"].items() if int(step) >= 6}
    alone, _ = launch(2, tmp_path / "run", "--accumulation=1", "--resume=6")
    assert alone["blocks"] == later
    assert alone["weights"] == whole["weights"]
    assert alone["beliefs"] == whole["beliefs"]
    (fewer,) = launch(1, tmp_path / "run", "--accumulation=2", "--resume=6")  # the same block of 8
    assert fewer["blocks"] == later
    assert fewer["observed_count"] == whole["observed_count"]


@pytest.mark.slow
def test_a_stop_asked_of_the_first_process_stops_both_after_the_same_step(tmp_path):
    whole, _ = launch(2, tmp_path / "whole", "--accumulation=1")
    stopped = launch(2, tmp_path / "run", "--accumulation=1", "--stop=3")
    assert [rank["steps_done"] for rank in stopped] == [4, 4]
    resumed, _ = launch(2, tmp_path / "run", "--accumulation=1", "--resume=4")
    assert resumed["weights"] == whole["weights"]
    assert resumed["blocks"] == {step: block for step, block in whole["blocks"].items() if int(step) >= 4}
