"""Lineage: the earlier stages of a model that was fine-tuned on one task after another."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from mixcd.edge.config.config import read_config
from mixcd.edge.model.saved_adapter import find_base, is_adapter
from mixcd.run.outcome.run_folder import RunFolder
from mixcd.words.errors import RunFolderError, SettingError


def trace_lineage(model: str) -> list[dict[str, Any]]:
    """Trace the runs that a base model came from, by the run folder that it lies in.

    A checkpoint lies in its run's folder, too. An adapter in none comes from where the model that it was made for does.

    Args:
        model: The base model: a folder, or a name on the hub.

    Returns:
        The earlier stages, oldest first: `run`, the folder, and `started`; and of those whose config can be read, the
        base model `model`, the new data `new`, and the prior data `prior`, each `name` and `path`. Empty for a model
        that lies in no run folder.
    """
    place = Path(model).expanduser()
    above, further = RunFolder(place.parent), RunFolder(place.parent.parent)
    folder = further if further.checkpoints == place.parent else above
    record = None
    with suppress(RunFolderError):  # somebody else's `run.json`
        record = folder.read() if folder.record.is_file() else None
    if record is not None:
        return [*record.get("lineage", []), describe_stage(folder, record)]
    return trace_lineage(find_base(place)) if is_adapter(place) else []


def describe_stage(folder: RunFolder, record: dict[str, Any]) -> dict[str, Any]:
    """Describe a run as a stage."""
    stage = {"run": str(folder.path), "started": record.get("started")}
    with suppress(SettingError):
        config = read_config(folder.config)
        prior = [{"name": source.name, "path": source.path} for source in config.prior]
        stage |= {"task": config.task, "model": config.model.path, "new": config.new.path, "prior": prior}
    return stage
