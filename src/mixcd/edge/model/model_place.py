"""Where a model lies: a folder or a name on the Hugging Face hub, and why nothing can be loaded from there."""

import textwrap
from pathlib import Path

import datasets

from mixcd.matter.prior_and_new_data.data_source import reach_hub
from mixcd.words.errors import SettingError, end_sentence

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json")
"""What a folder with a tokenizer has one of."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds files of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES)


def locate(path: str, name: str) -> tuple[str, dict[str, bool]]:
    """Return the folder, or the hub name and whether to look for a downloaded copy only.

    Args:
        path: Folder or hub name.

    Raises:
        SettingError: If there is no such folder.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return str(place), {}
    if place.exists():
        raise SettingError(f"`{name}` is `{path}`, which is a file, but a folder is needed there. Name the folder.")
    depth = path.count("/")
    if path[0] in "./~" or path[-1] == "/" or depth > 1 or (depth and place.parent.exists()):
        raise SettingError(f"`{name}` is `{path}`, but there is no such folder. Correct the path.")
    return path, {"local_files_only": datasets.config.HF_HUB_OFFLINE or not reach_hub()}


def explain(error: Exception, choices: dict[str, bool]) -> str:
    """Return why nothing could be loaded.

    Args:
        choices: What `locate` returned.
    """
    if isinstance(error, OSError) and choices.get("local_files_only"):
        return "no such folder is here, no copy was downloaded, and the Hugging Face hub is not reached."
    return reason_of(error)


def reason_of(error: BaseException) -> str:
    """Return what an error of a library says, short and on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return end_sentence(textwrap.shorten(text, 300).rstrip("."))
