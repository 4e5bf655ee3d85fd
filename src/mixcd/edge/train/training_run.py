"""`mixcd train`: base model → cache → rehearsal → fine-tuned model, in a run folder that can be resumed."""

import os
import platform
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from mixcd.edge.config.config import Config, list_values, read_config, render
from mixcd.edge.model.adapter import merge_adapter
from mixcd.edge.model.tuned import load_tuned, save_tuned, take_adapter, take_model
from mixcd.edge.quiet import hold_back_warnings
from mixcd.edge.stages.lineage import trace_lineage
from mixcd.edge.train.arguments import make_arguments
from mixcd.edge.train.setup import RunSetup, set_up
from mixcd.edge.train.stop_signals import Stopped, StopSignals
from mixcd.matter.prior_and_new_data.packed_rows import SEQ_LENGTHS, measure_samples
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.provenance import describe_software
from mixcd.run.outcome.run_folder import (
    EVALUATING,
    FINISHED,
    PRIOR_PASS,
    STOPPED,
    TRAINING,
    RunFolder,
    step_of,
    write_evaluation,
)
from mixcd.run.outcome.step_record import StepRecorder
from mixcd.run.report.page import write_page
from mixcd.run.report.run_findings import read_findings
from mixcd.run.report.run_page import make_run_page
from mixcd.run.trainer.attach import Rehearsal, attach
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_support import rule_of
from mixcd.words.errors import WRONG_PLACE, RehearsalError, RunFolderError, SettingError, shorten
from mixcd.words.files import lock_folder, naming_file, replace_file
from mixcd.words.vocabulary import Floats

Say = Callable[[str], None]

_MAY_CHANGE = (
    "training.dataloader_",
    "training.disable_tqdm",
    "training.gradient_accumulation_steps",
    "training.logging_",
    "training.per_device_",
    "training.report_to",
    "training.save_",
)
"""Keys that a resumed run may change: draws and the order of samples do not depend on them."""
_TRIED_ROWS = 8
"""Prior samples by which a merged model is compared with the one that was trained."""


def run_training(config: Config, *, resume: bool, overwrite: bool, say: Say) -> None:
    """Fine-tune the base model with rehearsal, and leave model, steps and evaluation in the run folder.

    Under a launcher (`torchrun`, `accelerate launch`) every process calls this; the first one writes. Of a new run that
    is refused nothing is left but its cache.

    Args:
        resume: Whether to go on with the run in the folder; without one, the run starts.
        overwrite: Whether to delete the run in the folder, once nothing speaks against the new one.
        say: Told what is happening, a line at a time.

    Raises:
        RunFolderError: If the folder holds a run and neither was asked for, or something else.
        FolderInUseError: If another run is using the folder.
        SettingError: If the config asks for what cannot be.
        Stopped: If a signal ended the run; a message said how to go on.
    """
    folder = RunFolder(config.run_folder)
    record = _require_allowed(folder, config, resume, overwrite)
    if record and resume and record["state"] == FINISHED:
        say(f"The run in `{folder.path}` is finished already.")
        return
    with hold_back_warnings():
        arguments = make_arguments(config)
        setup = set_up(config, arguments)
    signals = StopSignals((signal.SIGINT, signal.SIGTERM))
    with signals.watch(), ExitStack() as stack:
        if arguments.process_index == 0:
            stack.enter_context(_holding(folder, is_new=record is None))
        setup.trainer.accelerator.wait_for_everyone()
        record = _require_allowed(folder, config, resume, overwrite)
        setup.trainer.accelerator.wait_for_everyone()
        run = _Run(config, folder, setup, signals, say, record if resume else None)
        try:
            run.run(replacing=overwrite)
        except Stopped as stopped:
            raise Stopped(stopped.signal_number, _tell(folder)) from None


@dataclass
class _Run:
    """One run in progress, and the record that it keeps of itself."""

    config: Config
    folder: RunFolder
    setup: RunSetup
    signals: StopSignals
    say: Say
    resumed: dict[str, Any] | None

    def __post_init__(self) -> None:
        self._is_first = self.setup.trainer.args.process_index == 0
        self._record: dict[str, Any] = self.resumed or describe_run(self.config, self.setup)

    def run(self, replacing: bool) -> None:
        """Predict, train, evaluate."""
        checkpoint = self.folder.find_checkpoint() if self.resumed else None
        self.setup.trainer.accelerator.wait_for_everyone()
        self._require_same_batch()
        has_files = replacing or self.resumed  # of a run, which a refusal must leave as they are
        if not has_files:
            self._begin()
        rehearsal = attach_rehearsal(self.config, self.setup)
        if replacing and self._is_first:
            self.folder.clear()
        if has_files:
            self._begin()
        self._count("prior_pass_forward_count", rehearsal.predictions.forward_count)
        self.note(mix_unit=rehearsal.mix_unit)
        trained = self._find_trained(checkpoint)
        if trained is None:
            self._train(rehearsal, checkpoint)
        else:
            take_model(self.setup.trainer, load_tuned(self.config, trained), "model.path")
            if trained != self.folder.model:
                self._keep()
        self._finish(rehearsal)

    def _require_same_batch(self) -> None:
        before, now = self._record["batch_size"], _rows_a_step(self.setup.trainer)
        if before != now:
            raise RunFolderError(
                f"The run in `{self.folder.path}` was started with {before} rows a step, but this one has {now}. A "
                "resumed run must draw as it began. Choose rows, processes and accumulation of the same product, or "
                "set `batch_size`."
            )

    def note(self, **changes: Any) -> None:
        """Change the record, in the run folder too."""
        self._record = {**self._record, **changes}
        if self._is_first:
            self.folder.write(self._record)

    def _count(self, name: str, more: int) -> None:
        counters = self._record["counters"]
        self.note(counters={**counters, name: counters[name] + more})

    def _begin(self) -> None:
        if self._is_first:
            with replace_file(self.folder.config) as unfinished:
                unfinished.write_text(render(self.config), "utf-8")
        self.note(processes=self.setup.trainer.args.world_size)

    def _find_trained(self, checkpoint: Path | None) -> Path | None:
        """The fine-tuned model, when an interrupted run had finished training."""
        if self.resumed and self.folder.model.exists():
            return self.folder.model
        if checkpoint and self._record["total_steps"] and step_of(checkpoint) >= self._record["total_steps"]:
            return best_checkpoint(checkpoint, self.setup.trainer.args)
        return None

    def _train(self, rehearsal: Rehearsal, checkpoint: Path | None) -> None:
        trainer = self.setup.trainer
        trainer.add_callback(_Progress(self))
        if self._is_first:
            made: Any = rehearsal  # it has made a step whenever it is asked for the last
            trainer.add_callback(StepRecorder(self.folder.step_lines, lambda: made.last_step, rehearsal.vitals))
        if self.resumed:
            self.say(f"resuming from {checkpoint.name}" if checkpoint else "no checkpoint yet: training from the start")
        if trainer.args.enable_jit_checkpoint:
            self.signals.give_back(signal.SIGTERM)  # from here on it is transformers' own
        self.signals.ask = rehearsal.stop
        with naming_file(self.folder.checkpoints):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.signals.ask = None
        self._count("forward_count", rehearsal.forward_count)
        done, total = trainer.state.global_step, trainer.state.max_steps
        if done < total:
            self.note(state=STOPPED, steps_done=done)
            raise Stopped(self.signals.received or signal.SIGTERM, "Stopped.")
        self._keep()
        if self.signals.received:  # too late to stop a step, but not to leave the evaluation for later
            self.note(state=EVALUATING)
            raise Stopped(self.signals.received, "Stopped.")

    def _keep(self) -> None:
        """Write the fine-tuned model: whole, or its adapter where merging would make it another model."""
        trainer, model = self.setup.trainer, self.folder.model
        why_not = merge_adapter(trainer, self._read_losses)
        if self._is_first:
            save_tuned(trainer, model)
        if why_not is not None:
            self.say(
                f"`{model}` holds the adapter, not a whole model, because merging would change what was trained: "
                f"{why_not}. Open it on the base model `{self.config.model.path}`."
            )
            trainer.accelerator.wait_for_everyone()
            take_adapter(trainer, self.config, model)

    def _read_losses(self) -> Floats:
        trainer, prior = self.setup.trainer, PriorDataset(self.setup.prior)
        rule = rule_of(trainer, prior, self.setup.correctness)
        observation, _ = inference_of(trainer, prior, rule).observe(np.arange(min(len(prior), _TRIED_ROWS)))
        return observation.loss

    def _finish(self, rehearsal: Rehearsal) -> None:
        self.note(state=EVALUATING)
        if self.setup.held_out_prior is not None:
            evaluation = rehearsal.evaluate(
                columns=self.config.rehearsal.report_columns, generate=self.config.rehearsal.generate is not None
            )
            if self._is_first:
                write_evaluation(evaluation, self.folder.evaluation, self.folder.damaged)
            self.say(str(evaluation))
        else:
            self.say("No prior data are held out, so damage was not measured. Set `held_out` to measure it.")
        if self._is_first:
            self.folder.finish_steps()
            write_page(make_run_page(read_findings(self.folder)), self.folder.report, overwrite=True)
        self.note(state=FINISHED, steps_done=self._record["total_steps"])
        self.say(f"The fine-tuned model is in `{self.folder.model}`, the report in `{self.folder.report}`.")


class _Progress(TrainerCallback):
    """Keeps the record of the run up to date while it trains."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.note(state=TRAINING, steps_done=state.global_step, total_steps=state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.note(steps_done=state.global_step)


def attach_rehearsal(config: Config, setup: RunSetup) -> Rehearsal:
    """Attach rehearsal to the trainer as the config asks."""
    wanted = config.rehearsal
    return attach(
        setup.trainer,
        setup.prior,
        mix_ratio=wanted.mix_ratio,
        mix_unit=wanted.mix_unit,
        partition=config.partition if wanted.partition else None,
        estimator=config.estimator,
        correctness=setup.correctness,
        held_out=setup.held_out_prior,
        cache_dir=config.cache_folder,
        cache_columns=wanted.cache_columns,
        features=wanted.features,
        floor=wanted.floor,
        probe=config.probe,
        lag=wanted.lag,
        generate=wanted.generate,
        seed=setup.draw_seed,
    )


def describe_run(config: Config, setup: RunSetup) -> dict[str, Any]:
    """Describe a run that is about to start: the first record of its run folder."""
    trainer = setup.trainer
    return {
        "state": PRIOR_PASS,
        "go_on": f"mixcd train {config.run_folder / 'config.toml'} --resume",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": config.task,
        "lineage": trace_lineage(config.model.path),
        "cache": str(config.cache_folder),
        "steps_done": 0,
        "total_steps": None,
        "processes": trainer.args.world_size,
        "batch_size": _rows_a_step(trainer),
        "seeds": {"draws": setup.draw_seed, "trainer": trainer.args.seed},
        "samples": {
            "new": _count_rows(trainer.train_dataset),
            "held_out_new": _count_rows(trainer.eval_dataset),
            "prior": _count_rows(setup.prior),
            "held_out_prior": _count_rows(setup.held_out_prior),
        },
        "counters": {"prior_pass_forward_count": 0, "forward_count": 0},
        "versions": describe_software(),
        "hardware": {
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else str(trainer.args.device),
        },
    }


def best_checkpoint(checkpoint: Path, arguments: TrainingArguments) -> Path:
    """Return the checkpoint whose weights a finished training would have left.

    Args:
        checkpoint: The last one.
    """
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    best = state.best_model_checkpoint if arguments.load_best_model_at_end else None
    return Path(best) if best else checkpoint


@contextmanager
def _holding(folder: RunFolder, is_new: bool) -> Iterator[None]:
    """Lock the folder; a new run that is refused before it trains leaves nothing behind but its prediction cache."""
    made = [path for path in folder.path.parents if not path.exists()]
    with lock_folder(folder.path):
        try:
            yield
        except (RehearsalError, OSError) as error:
            is_refused = isinstance(error, RehearsalError) or error.errno in WRONG_PLACE
            if is_new and is_refused and not folder.step_lines.exists():
                folder.forget()
                with suppress(OSError):  # not empty
                    for path in made:
                        path.rmdir()
            raise


def _require_allowed(folder: RunFolder, config: Config, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of the run in the folder, if there is one and it may go on or be replaced."""
    if resume and overwrite:
        raise SettingError(
            "`--resume` goes on with the run in the folder and `--overwrite` deletes it. They contradict each other. "
            "Pass one of them."
        )
    record = folder.read()
    if record is None or overwrite:
        return record
    if not resume:
        going_on = "" if record["state"] == FINISHED else f"go on with `{record['go_on']}`, "
        raise RunFolderError(
            f"`{folder.path}` holds a run that {folder.describe_progress(record)}. Nothing is overwritten unasked: "
            f"{going_on}pass `--overwrite` to delete it and start anew, or set another `run`."
        )
    before, now = list_values(read_config(folder.config)), list_values(config)
    changed = [
        key
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE) and key != "run"
    ]
    if changed:
        values = shorten((f"`{key}` was {before.get(key)!r} and is {now.get(key)!r}" for key in changed), 3)
        raise RunFolderError(
            f"The run in `{folder.path}` was started with another config: {values}. A resumed run must go on as it "
            f"began. Resume with `{record['go_on']}`, or set another `run`."
        )
    return record


def _tell(folder: RunFolder) -> str:
    """How far a stopped run got, and how to go on."""
    record = folder.read()
    if record is None:
        return "Stopped before the run began."
    return f"Stopped: the run in `{folder.path}` {folder.describe_progress(record)}. Go on with `{record['go_on']}`."


def _rows_a_step(trainer: Trainer) -> int:
    return int(trainer.get_total_train_batch_size(trainer.args))


def _count_rows(data: Any) -> Any:
    """Count samples, those of packed rows one by one; of several data sets by name."""
    if isinstance(data, dict):
        return {name: _count_rows(rows) for name, rows in data.items()}
    if SEQ_LENGTHS in (getattr(data, "column_names", None) or ()):
        return int(measure_samples(data)[0].sum())
    return 0 if data is None else len(data)
