"""`mixcd evaluate`: a fine-tuned model against its base model, on the run's held-out data."""

from functools import partial
from pathlib import Path
from typing import Any

from mixcd.edge.config.config import read_config
from mixcd.edge.model.tuned import load_tuned, take_model
from mixcd.edge.train.arguments import make_arguments
from mixcd.edge.train.setup import set_up
from mixcd.run.outcome.evaluation import Evaluation
from mixcd.run.outcome.held_out import evaluate_held_out, predict_held_out
from mixcd.run.outcome.run_folder import RunFolder, write_evaluation
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_support import collect_held_out, rule_of
from mixcd.words.errors import RunFolderError, SettingError, shorten


def evaluate_run(run: Path, model: Path | None, output: Path | None) -> Evaluation:
    """Judge a model as the run judged its own; the run's files are left as they are.

    Args:
        model: The model; the run's fine-tuned one by default.
        output: A new folder for `evaluation.json` and `damaged.parquet`, if they are wanted.

    Raises:
        RunFolderError: If the folder holds no run, or the run has no fine-tuned model yet.
        SettingError: If the output exists, the model cannot be loaded, or no prior data were held out.
    """
    folder = RunFolder(run)
    record = folder.require()
    tuned = model or folder.model
    if model is None and not tuned.exists():
        raise RunFolderError(
            f"There is no model `{tuned}`: the run {folder.describe_progress(record)}. Go on with `{record['go_on']}`, "
            "or name another model with `--model`."
        )
    if output is not None and output.exists():
        raise SettingError(f"`{output}` exists already, and nothing is overwritten. Name a new folder.")
    config = read_config(folder.config)
    setup = set_up(config, make_arguments(config))
    if setup.held_out_prior is None:
        raise SettingError(f"The run `{run}` held out no prior data, so there is nothing to judge on. Set `held_out`.")
    strategy, trainer = config.partition, setup.trainer
    judged: Any = load_tuned(config, tuned, "--model")
    base: Any = trainer.model
    if not isinstance(judged, Path) and judged.config.label2id != base.config.label2id:
        raise SettingError(
            f"`--model` is `{tuned}`, which knows {shorten(judged.config.label2id, 20)}, but the base model knows "
            f"{shorten(base.config.label2id, 20)}. Name a model with the same classes in the same order."
        )
    held_out = collect_held_out(trainer, setup.held_out_prior, None, strategy.column_names)
    rule = rule_of(trainer, held_out["prior"], setup.correctness)
    infer = partial(inference_of, trainer, rule=rule)
    generate = config.rehearsal.generate
    predicted = predict_held_out(infer, held_out, config.cache_folder, generate)
    take_model(trainer, judged, "--model")
    columns = config.rehearsal.report_columns
    evaluation = evaluate_held_out(infer, predicted, strategy, columns=columns, generate=generate is not None)
    if output is not None:
        output.mkdir(parents=True)
        write_evaluation(evaluation, output / "evaluation.json", output / "damaged.parquet")
    return evaluation
