"""What samples say, as texts to show; in language models also what should come of them, and what comes instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mixcd.matter.base_model.batched_inference import list_inputs
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.sample_tokens import SampleTokens, is_paired, predict_wrong
from mixcd.matter.model_shape.fresh_adapter import bare_model
from mixcd.matter.model_shape.model_kind import is_token_classifier
from mixcd.words.vocabulary import Flags, Ids

TEXT_START = 400
"""Characters of a text that are kept."""
_BEFORE, _AFTER = 24, 72
"""Target tokens that are shown before the first damaged one, and from it on."""
_CUT = "…"


@dataclass(frozen=True)
class DamagedText:
    """What a damaged sample of a language model says.

    Args:
        prompt: What the model is given before it is to answer.
        answer: What it should say, in pieces around the first damaged token: the second, the fourth and so on are
            damaged; joined they are the text.
        now: What the fine-tuned model predicts at the first damaged token; None where no token is damaged.
    """

    prompt: str
    answer: tuple[str, ...]
    now: str | None


def text_of(row: Any, tokenizer: Any) -> str:
    """Return how the text of a prepared row starts: its longest text, or what its tokens say; else nothing."""
    if not isinstance(row, Mapping):
        return ""
    texts = [value for value in row.values() if isinstance(value, str)]
    if texts:
        return max(texts, key=len)[:TEXT_START]
    if tokenizer is not None and "input_ids" in row:
        texts = [_decode(tokens, tokenizer, with_special=False) for tokens in list_inputs(row)]
        return " | ".join(texts)[:TEXT_START]
    return ""


def describe_damaged(
    now: Inference, sample_ids: Ids, before: Sequence[Flags], after: Sequence[Flags]
) -> list[DamagedText]:
    """Describe damaged samples of a language model, at the cost of a forward pass over them.

    Args:
        now: How the fine-tuned model predicts them; it must know its tokenizer.
        before: Which target tokens of each the base model had right.
        after: Which of them the fine-tuned model has right.
    """
    damaged = [was & ~still for was, still in zip(before, after, strict=True)]
    firsts = np.array([int(np.argmax(one)) for one in damaged], dtype=np.int64)
    samples = predict_wrong(now, sample_ids, firsts)
    names = _class_names(now)
    return [
        DamagedText(
            prompt=_show_prompt(sample, now),
            answer=tuple(mark_answer(sample, flags, now.tokenizer, names)),
            now=_tell_rival(sample, now.tokenizer, names) if flags.any() else None,
        )
        for sample, flags in zip(samples, damaged, strict=True)
    ]


def mark_answer(sample: SampleTokens, damaged: Flags, tokenizer: Any, class_names: Mapping[int, str]) -> list[str]:
    """Return what a model should say of a sample, in pieces around the first damaged token; see `DamagedText`.

    Args:
        damaged: Which of its targets are damaged, shape (targets,).
        tokenizer: Makes texts of tokens; special ones are shown, too, for a model may no longer end its text.
        class_names: The names of classes, where each token is given one; then tokens are shown with their classes.
    """
    first = int(np.argmax(damaged))  # 0 where none is
    start, stop = max(0, first - _BEFORE), min(len(damaged), first + _AFTER)
    flags, targets = damaged[start:stop], sample.targets[start:stop]
    borders = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    if class_names:
        words = _tell_classes(sample.inputs[sample.places[start:stop]], targets, tokenizer, class_names)
        ends = ["".join(words[:border]) for border in borders]
    else:
        ends = [_decode(targets[:border], tokenizer) for border in borders]
    cuts = [_count_same(ends[-1], end) for end in ends]  # decoded alone, a piece would lose the space before it
    pieces = [ends[-1][cut:after] for cut, after in pairwise(cuts)]
    pieces = _move_spaces(["", *pieces] if flags[0] else pieces)
    return _shorten(pieces, is_begun=start > 0, is_cut=stop < len(damaged))


def _class_names(now: Inference) -> Mapping[int, str]:
    """The names of the classes of tokens; none where targets are tokens themselves."""
    config: Any = bare_model(now.model).config if is_token_classifier(now.model) else None
    return {} if config is None else {int(number): str(name) for number, name in config.id2label.items()}


def _show_prompt(sample: SampleTokens, now: Inference) -> str:
    """The prompt: how it ends, for what is asked stands there, or how the one text of other models starts."""
    text = _decode(sample.prompt, now.tokenizer, with_special=False).strip()
    if len(text) <= TEXT_START or is_paired(now.model) or is_token_classifier(now.model):
        return text[:TEXT_START]
    return _CUT + text[len(_CUT) - TEXT_START :]


def _tell_rival(sample: SampleTokens, tokenizer: Any, class_names: Mapping[int, str]) -> str:
    """What the model predicts at the target that was asked about, a class or a token; a blank one in quotes."""
    rival = np.array([sample.rival])
    text = class_names.get(int(rival[0]), str(rival[0])) if class_names else _decode(rival, tokenizer)
    return text.strip() or repr(text)


def _decode(tokens: Ids, tokenizer: Any, *, with_special: bool = True) -> str:
    listed = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    return str(tokenizer.decode(listed, skip_special_tokens=not with_special))


def _tell_classes(tokens: Ids, classes: Ids, tokenizer: Any, class_names: Mapping[int, str]) -> list[str]:
    return [
        f"{_decode(tokens[place : place + 1], tokenizer).strip()}/{class_names.get(number, number)} "
        for place, number in enumerate(classes.tolist())
    ]


def _count_same(text: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(text, other, strict=False)
    return next((count for count, (one, two) in enumerate(pairs) if one != two), min(len(text), len(other)))


def _move_spaces(pieces: list[str]) -> list[str]:
    """Give the space before a damaged word, which most tokens begin with, to the piece before it."""
    for place in range(1, len(pieces), 2):
        word = pieces[place].lstrip()
        if word:
            pieces[place - 1] += pieces[place][: -len(word)]
            pieces[place] = word
    return pieces


def _shorten(pieces: Sequence[str], *, is_begun: bool, is_cut: bool) -> list[str]:
    """Cut pieces to as many characters as are kept of a text, and say where something is left out."""
    kept: list[str] = []
    room = TEXT_START
    for piece in pieces:
        if room <= 0:
            is_cut = True
            break
        is_cut = is_cut or len(piece) > room
        kept.append(piece[:room])
        room -= len(piece)
    kept[0] = _CUT + kept[0] if is_begun else kept[0]
    if not is_cut:
        return kept
    return [*kept[:-1], kept[-1] + _CUT] if len(kept) % 2 else [*kept, _CUT]
