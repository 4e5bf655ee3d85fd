"""What a sweep's config names: functions of the user's own files, and tasks."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from mixcd.edge.bench.sweep.sweep_task import MakeTask, SweepTask
from mixcd.edge.config.config import read_config
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.edge.train.arguments import make_arguments, resolve_arguments
from mixcd.edge.train.setup import load_base, set_up
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, SettingError, end_sentence, nearest_name
from mixcd.words.keyed_random import Stream, keyed_generator

_NO_SAVING = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
}
"""What a run of a sweep does not do, whatever the config of `mixcd train` says."""


def load_function(text: str) -> Callable[..., Any]:
    """Load the function that "FILE.py:FUNCTION" names; the file's folder can be imported from.

    Raises:
        SettingError: If there is no such file or function, or the file cannot be loaded.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise SettingError(f"There is no file `{file or text}`. Write FILE.py:FUNCTION, seen from the sweep's folder.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:  # it is anyone's code
        raise SettingError(
            f"`{file}` cannot be loaded: {type(error).__name__}: {error}. It must be a Python file that can be "
            "imported. Correct it."
        ) from error
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise SettingError(f"`{file}` has the name of another module, `{module.__file__}`. Rename the file.")
    function = getattr(module, name, None)
    if not callable(function):
        functions = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise SettingError(end_sentence(f"`{file}` has no function `{name}`{nearest_name(name, functions)}"))
    return cast(Callable[..., Any], function)


def find_task(text: str) -> MakeTask:
    """Return the function that makes a sweep's task.

    Args:
        text: FILE.py:FUNCTION, or a config of `mixcd train`, CONFIG.toml.

    Raises:
        SettingError: If file or function are missing, or the config sets no steps.
    """
    if not text.endswith(".toml"):
        return load_function(text)
    config = read_config(Path(text))
    if config.training.get("max_steps", -1) < 1:
        raise SettingError(
            f"`{text}` sets no `training.max_steps`, but a sweep compares methods at equal compute. Set it."
        )
    return lambda seed, folder: _task_of_config(Path(text), seed, folder)


def _task_of_config(path: Path, seed: int, folder: Path) -> SweepTask:
    config = read_config(path, [f"training.seed={seed}", f"run={json.dumps(str(folder / 'run'))}"])
    kind, arguments = TASK_KINDS[config.task], make_arguments(config)
    setup = set_up(config, arguments)
    trainer = setup.trainer
    if setup.held_out_prior is None or trainer.eval_dataset is None:
        raise DataError(f"`{path}` holds out no data of one of the tasks, but a sweep judges on them. Set `held_out`.")
    model = load_base(config, arguments)  # again, for TRL's trainer has put a head of its own on the other
    settings = {key: value for key, value in resolve_arguments(config).items() if key != "output_dir"}
    return SweepTask(
        model=model,
        new=trainer.train_dataset,
        prior=setup.prior,
        held_out_new=_shuffle(trainer.eval_dataset, seed),
        held_out_prior=_shuffle(setup.held_out_prior, seed),
        training={**settings, **_NO_SAVING},
        collate_fn=kind.make_collator(trainer.processing_class, model),
        processing_class=trainer.processing_class,
        correctness=setup.correctness,
        trainer_class=kind.trainer_class(),
        arguments_class=kind.arguments_class(),
    )


def _shuffle(data: Any, seed: int) -> list[Any]:
    """The rows in random order, so that the validation and the test half are alike."""
    rows = PriorDataset(data)
    return rows.rows(keyed_generator(seed, 0, Stream.CONTROLS).permutation(len(rows)).tolist())
