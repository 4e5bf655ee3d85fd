import math

import numpy as np
import pyarrow.parquet as pq
from transformers import TrainerState

from mixcd.matter.fine_tuned_model.prediction_observer import NEW_SAMPLE
from mixcd.run.outcome.step_record import StepRecord, StepRecorder, read_steps, summarise_step, write_steps
from mixcd.run.rehearsal_loop.rehearsal_health import Vitals
from mixcd.words.vocabulary import DamageCounts, Observation

COUNTS = DamageCounts(np.array([1.0, 1.0]), np.array([0.0, 1.0]))
VITALS = Vitals(0.1, 0.2, float("nan"), float("inf"), 2.0, 0.3)


def test_a_step_is_summarised_by_kind_of_sample():
    trained = Observation(
        np.array([NEW_SAMPLE, 7, NEW_SAMPLE, 3]), np.ones(4, dtype=bool), np.array([1.0, 2.0, 3.0, 4.0])
    )
    assert summarise_step(5, trained, COUNTS) == StepRecord(
        step=5, new_loss=2.0, prior_loss=3.0, prior_share=0.5, observed=2, damaged=1
    )


def test_a_step_without_prior_samples_has_no_prior_loss():
    trained = Observation(np.array([NEW_SAMPLE]), np.ones(1, dtype=bool), np.array([1.0]))
    assert math.isnan(summarise_step(1, trained, COUNTS).prior_loss)


def record(path, steps, state=None):
    current = []
    recorder = StepRecorder(path, lambda: current[-1], lambda: VITALS)
    if state is not None:
        recorder.on_train_begin(None, state, None)
    for step in steps:
        current.append(StepRecord(step, 1.0, 2.0, 0.25, 2, step % 2))
        recorder.on_optimizer_step(None, None, None)


def test_lines_are_kept_and_those_of_repeated_steps_dropped(tmp_path):
    path = tmp_path / "steps.jsonl"
    record(path, range(1, 8), TrainerState())
    with path.open("a") as file:
        file.write('{"step": 8, "new_lo')  # a kill cut this line short
    assert [line["step"] for line in read_steps(path)] == list(range(1, 8))
    record(path, range(6, 10), TrainerState(global_step=5))
    assert [line["step"] for line in read_steps(path)] == list(range(1, 10))
    write_steps(read_steps(path), tmp_path / "steps.parquet")
    table = pq.read_table(tmp_path / "steps.parquet").to_pydict()
    assert table["damaged"] == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert math.isnan(table["lift"][0])
    assert table["lift_high"][0] == float("inf")


def test_no_file_is_no_steps(tmp_path):
    assert read_steps(tmp_path / "none.jsonl") == []
