"""What a model writes by itself: greedy exact match, length and loops, before fine-tuning and after."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixcd.matter.base_model.flat_array import RESTORE
from mixcd.matter.base_model.greedy_texts import Question, ask, find_ends, require_generating, write_greedily
from mixcd.matter.base_model.inference import Infer, Inference
from mixcd.matter.base_model.prediction_cache import TEXTS
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import CacheError, DataError, SettingError
from mixcd.words.files import replace_file
from mixcd.words.vocabulary import Ids

_LEAST_PHRASE, _LEAST_TIMES = 2, 3


@dataclass(frozen=True)
class GenerationChange:
    """What a model wrote by itself on held-out samples, greedily, before fine-tuning and after.

    Where the true tokens before each one are given, as in scores and damage, a model that goes astray after its first
    mistake, or never ends, looks no worse. This shows it.

    Args:
        sample_count: Samples that were written.
        exact_before: Texts of the base model that are the gold answer, token by token.
        exact_after: Those of the fine-tuned model.
        looping_before: Texts of the base model that end in a loop, as `ends_in_loop` says.
        looping_after: Those of the fine-tuned model.
        length_before: Mean length of the base model's texts, in tokens.
        length_after: That of the fine-tuned model's.
        length_gold: That of the gold answers.
    """

    sample_count: int
    exact_before: int
    exact_after: int
    looping_before: int
    looping_after: int
    length_before: float
    length_after: float
    length_gold: float

    def __str__(self) -> str:
        count = self.sample_count
        return (
            f"written greedily: exact match {self.exact_before / count:.3f} → {self.exact_after / count:.3f}, "
            f"{self.length_before:.1f} → {self.length_after:.1f} tokens (gold {self.length_gold:.1f}), "
            f"{self.looping_before / count:.1%} → {self.looping_after / count:.1%} end in a loop, {count} samples"
        )


@dataclass(frozen=True)
class BaseTexts:
    """What the base model wrote.

    Args:
        sample_ids: The samples that it was asked, ascending, shape (samples,).
        texts: The tokens of each text, without its end.
    """

    sample_ids: Ids
    questions: Sequence[Question]
    texts: Sequence[Ids]


def ends_in_loop(text: Ids) -> bool:
    """Whether a text ends in a phrase of two tokens or more that stands there three times in a row.

    So Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration", count repetition.

    Example:
        >>> ends_in_loop(np.array([7, 1, 2, 1, 2, 1, 2])), ends_in_loop(np.array([7, 1, 2, 1, 2, 1]))
        (True, False)
    """
    for size in range(_LEAST_PHRASE, text.size // _LEAST_TIMES + 1):
        phrases = text[-_LEAST_TIMES * size :].reshape(_LEAST_TIMES, size)
        if (phrases == phrases[0]).all():
            return True
    return False


def require_generation(infer: Infer, held_out: Mapping[str, PriorDataset], generate: int | None) -> None:
    """Refuse, before any pass, to let a model write that cannot, or nothing to measure by.

    Args:
        generate: How many samples of each task are to be written; None for none.

    Raises:
        SettingError: If there is nothing held out, or the model writes no text.
    """
    if generate is None:
        return
    if isinstance(generate, bool) or not isinstance(generate, int) or generate < 1:
        raise SettingError(
            f"`generate` is {generate!r}, but it is how many held-out samples of each task the model writes answers "
            "to. Pass 100, say, or leave it out."
        )
    if not held_out:
        raise SettingError(
            f"`generate` is {generate}, but no prior data are held out that the model could write answers to. Pass "
            "`held_out=`, too."
        )
    for data in held_out.values():
        require_generating(infer(data).checked())


def write_base_texts(inference: Inference, sources: Mapping[str, str], folder: Path, count: int) -> BaseTexts:
    """Let the base model write, or read from its cache what it wrote; it cannot any more when it is trained.

    Args:
        sources: Fingerprints of what the held-out predictions were made from.
        folder: The cache of these predictions.
        count: How many samples are written, evenly spaced; all where there are fewer.

    Raises:
        CacheError: If the file was altered.
        DataError: If no sample has anything to write.
    """
    total = len(inference.data)
    ids = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    questions = ask(inference, ids)
    kept = [place for place, one in enumerate(questions) if one.gold.size or one.is_ended]
    if not kept:
        raise DataError(
            f"`{inference.data.name}` has no answer that the model could be asked to write: none of {ids.size} samples "
            "has a target token. Leave `generate` out, or give samples with targets."
        )
    ids, questions = ids[kept], [questions[place] for place in kept]
    key = _make_key(sources, ids, questions, find_ends(inference.model))
    texts = _read(folder / TEXTS, key)
    inference.processes.wait()  # until all have looked
    if texts is None:
        texts = write_greedily(inference, ids, questions)
        if inference.processes.rank == 0:
            _write(folder / TEXTS, key, texts)
    inference.processes.wait()
    return BaseTexts(ids, questions, texts)


def compare_texts(now: Inference, base: BaseTexts) -> GenerationChange:
    """Let the model as it is now write what the base model wrote, and compare."""
    texts = write_greedily(now, base.sample_ids, base.questions)
    exact, looping = (
        [sum(map(judge, each, base.questions)) for each in (base.texts, texts)]
        for judge in (lambda text, one: one.is_answered(text), lambda text, _: ends_in_loop(text))
    )
    golds = [one.gold for one in base.questions]
    lengths = [float(np.mean([text.size for text in each])) for each in (base.texts, texts, golds)]
    return GenerationChange(len(texts), *exact, *looping, *lengths)


def generation_to_json(change: GenerationChange) -> dict[str, Any]:
    """Return what was written as JSON values, with the shares."""
    shares = {
        f"{kind}_share_{when}": getattr(change, f"{kind}_{when}") / change.sample_count
        for kind in ("exact", "looping")
        for when in ("before", "after")
    }
    return {**asdict(change), **shares}


def generation_from_json(values: Mapping[str, Any]) -> GenerationChange:
    """Return what `generation_to_json` was given."""
    return GenerationChange(**{name: values[name] for name in GenerationChange.__dataclass_fields__})


def _make_key(sources: Mapping[str, str], ids: Ids, questions: Sequence[Question], ends: tuple[int, ...]) -> str:
    """What the texts follow from, besides mixcd's own settings: other texts are written for another key."""
    asked = [[one.prompt.tolist(), one.limit] for one in questions]
    content = json.dumps([dict(sources), ids.tolist(), asked, list(ends)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _read(path: Path, key: str) -> list[Ids] | None:
    """What the base model wrote; None where it wrote nothing of this key."""
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored["checksum"] != _checksum(stored["key"], stored["texts"]):
            raise ValueError("it was altered after it was written")
        found = [np.array(text, dtype=np.int64) for text in stored["texts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"`{path}` cannot be read: {error}. {RESTORE}") from error
    return found if stored["key"] == key else None


def _write(path: Path, key: str, texts: Sequence[Ids]) -> None:
    tokens = [text.tolist() for text in texts]
    with replace_file(path) as unfinished:
        unfinished.write_text(json.dumps({"checksum": _checksum(key, tokens), "key": key, "texts": tokens}), "utf-8")


def _checksum(key: str, texts: Any) -> str:
    return hashlib.sha256(json.dumps([key, texts]).encode()).hexdigest()
