"""The ledger of a chain of runs, each on the product of the one before, read from their run folders alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixcd.edge.stages.ledger import Ledger, make_ledger
from mixcd.edge.stages.lineage import describe_stage
from mixcd.run.outcome.run_folder import RunFolder
from mixcd.words.errors import DataError, RunFolderError

_Stage = Mapping[str, Any]
_Scores = Mapping[str, Mapping[str, Any]]
"""What became of each set of held-out data, by where the set's data are."""


def read_ledger(run: Path) -> Ledger:
    """Read what a chain of runs kept of each task; no model is run.

    Task 0 is what the first run's base model knew: all its prior data together. Each run adds the task of its new
    data. Data are the same task's when they have the same path in the configs. Scores are token accuracies where every
    run counts damage by token, else the shares of samples that are right.

    Args:
        run: The folder of the last run.

    Returns:
        The ledger: one row for the first base model and one a run, one column a task.

    Raises:
        RunFolderError: If a folder of the chain holds no finished run.
        DataError: If a run did not measure one of the earlier tasks.
    """
    folder = RunFolder(run)
    record = folder.require()
    stages = [*record.get("lineage", []), describe_stage(folder, record)]
    first = [_key(source["path"]) for source in _require_described(stages[0])["prior"]]
    tasks = [first, *([_key(_require_described(stage)["new"])] for stage in stages)]
    scores = np.full((len(tasks), len(tasks)), np.nan)
    by_stage = [_read_scores(stage) for stage in stages]
    is_by_token = all(one.get("tokens", {}).get("is_graded", False) for found in by_stage for one in found.values())
    for row, (stage, found) in enumerate(zip(stages, by_stage, strict=True), 1):
        if is_by_token:
            found = {key: one["tokens"] for key, one in found.items()}
        scores[row, : row + 1] = [_mean_score(found, keys, "score_after", stage) for keys in tasks[: row + 1]]
        if row == 1:
            scores[0, 0] = _mean_score(found, first, "score_before", stage)
    first_name = " + ".join(source["name"] or "prior" for source in stages[0]["prior"])
    names = (first_name, *(Path(stage["run"]).name for stage in stages))
    return make_ledger(scores, names, is_by_token=is_by_token)


def _require_described(stage: _Stage) -> _Stage:
    if "new" not in stage:
        raise RunFolderError(
            f"The config of the run `{stage['run']}` cannot be read, so its tasks are not known. Restore the folder, "
            "or run the stage again."
        )
    return stage


def _read_scores(stage: _Stage) -> _Scores:
    """The held-out scores of a run, by the path of the data that are held out of."""
    file = RunFolder(Path(stage["run"])).evaluation
    try:
        evaluation = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"The evaluation `{file}` cannot be read: {error}. Every run of the chain must be finished, and lie where "
            "it was made. Finish the run, or call from the folder that its paths start from."
        ) from error
    sets = evaluation.get("prior_sets") or {stage["prior"][0]["name"]: evaluation.get("prior")}
    by_path = {_key(source["path"]): sets.get(source["name"]) for source in stage["prior"]}
    by_path[_key(stage["new"])] = evaluation.get("new")
    return {key: change for key, change in by_path.items() if change is not None}


def _mean_score(found: _Scores, keys: Sequence[str], which: str, stage: _Stage) -> float:
    """The score over the held-out samples of several sets."""
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(
            f"The run `{stage['run']}` did not measure `{missing[0]}`, but a ledger needs every earlier task after "
            "every run. Give the data of all earlier tasks as `prior`, each with held-out samples, and run the stage "
            "again."
        )
    counts = [found[key].get("target_count", found[key]["sample_count"]) for key in keys]
    return float(np.average([found[key][which] for key in keys], weights=counts))


def _key(path: Any) -> str:
    return path if isinstance(path, str) else ", ".join(path)
