"""Greedy texts: what a language model writes by itself, token after token, where it should give the gold answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from mixcd.matter.base_model.batched_inference import batch_by_tokens, collate, evaluating
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.sample_tokens import SampleTokens, is_paired, read_samples
from mixcd.matter.correctness import TokenRule
from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.model_shape.fresh_adapter import bare_model
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS
from mixcd.matter.model_shape.model_limits import count_positions
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Ids

_LEAST_TOKENS, _TIMES_GOLD = 32, 2
"""The most tokens that are written: twice those of the gold answer, and at least so many, or a loop would not show."""
_GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "return_dict_in_generate": False,
}
"""What a model's generation config may say otherwise; penalties would hide the loops that are looked for."""
_TEXT_INPUTS = {"input_ids", "attention_mask", "position_ids", "token_type_ids", OWN_TOKENS}
_NOT_GENERATED = {*LABEL_KEYS, "decoder_input_ids", "decoder_attention_mask"}


@dataclass(frozen=True)
class Question:
    """What a model is asked to write.

    Args:
        prompt: The tokens that it is given; of an encoder-decoder, all of its input.
        gold: Those that it should write, the end of the text left out.
        is_ended: Whether the text should end there.
        limit: The most tokens that it may write.
    """

    prompt: Ids
    gold: Ids
    is_ended: bool
    limit: int

    def is_answered(self, text: Ids) -> bool:
        """Whether a text is the gold answer; where that has no end, whether it begins with it."""
        return np.array_equal(text if self.is_ended else text[: self.gold.size], self.gold)


def require_generating(inference: Inference) -> None:
    """Refuse, by a `SettingError`, models that write no text, and inputs that are no text."""
    rule, model = inference.rule, inference.model
    causal = isinstance(rule, TokenRule) and bool(rule.is_shifted)
    if not hasattr(model, "generate") or not isinstance(rule, TokenRule) or not (causal or is_paired(model)):
        raise SettingError(
            f"`generate` lets the model write texts, but a `{type(bare_model(model)).__name__}` that is judged as "
            f'"{rule.name}" writes none. It takes a causal language model or an encoder-decoder of transformers. Leave '
            "`generate` out."
        )
    if causal:
        others = {*collate(inference.collate_fn, [inference.data[0]])} - _TEXT_INPUTS - _NOT_GENERATED
        foreign = sorted(name for name in others if "pixel" in name or "input" in name or "image" in name)
        if foreign:
            raise SettingError(
                f"`generate` gives a causal language model texts alone, but the batches of `{inference.data.name}` "
                f"hold `{foreign[0]}`, too. Leave `generate` out."
            )


def ask(inference: Inference, sample_ids: Ids) -> list[Question]:
    """Make questions of some samples: the prompt is what stands before the first target token.

    Where all tokens but the first are targets, as in plain text, the first half is the prompt. Of several answers, as
    in conversations, the first is asked for.

    Returns:
        The questions; one without a target has no gold.
    """
    most = count_positions(inference.model)
    return [
        _ask(sample, find_ends(inference.model), most, is_paired(inference.model))
        for sample in read_samples(inference, sample_ids)
    ]


def write_greedily(inference: Inference, sample_ids: Ids, questions: Sequence[Question]) -> list[Ids]:
    """Let a model answer by itself, always by its likeliest token; the model's training mode is put back.

    Args:
        sample_ids: The samples that the questions were made of, shape (questions,).

    Returns:
        The tokens of each text without its end.
    """
    written: dict[int, Ids] = {}
    with evaluating(inference.model), inference.autocast():
        for places in _batch(questions, inference.batch_size, count_positions(inference.model)):
            asked = [questions[place] for place in places]
            written.update(zip(places.tolist(), _write(inference, sample_ids[places], asked), strict=True))
    return [written[place] for place in range(len(questions))]


def _batch(questions: Sequence[Question], batch_size: int, most: int | None) -> Iterator[Ids]:
    """Places of questions that are answered together; each alone where together they need too many positions."""
    lengths = [one.prompt.size + one.limit for one in questions]
    for places in batch_by_tokens(lengths, batch_size) if lengths else ():
        asked = [questions[place] for place in places]
        needed = max(one.prompt.size for one in asked) + max(one.limit for one in asked)
        yield from [places] if most is None or needed <= most else places[:, None]


def _write(inference: Inference, sample_ids: Ids, questions: Sequence[Question]) -> list[Ids]:
    inputs, start = _make_inputs(inference, sample_ids, questions)
    model: Any = inference.model
    limit, ends = max(one.limit for one in questions), find_ends(model)
    found = model.generate(**inputs, **_GREEDY, max_new_tokens=limit, pad_token_id=_find_padding(model))
    texts = found[:, start:].cpu().numpy().astype(np.int64)
    return [_cut(text[: one.limit], ends) for one, text in zip(questions, texts, strict=True)]


def find_ends(model: torch.nn.Module) -> tuple[int, ...]:
    """Return the tokens that end a text, by the model's generation config; none where it names none."""
    settings: Any = cast(Any, bare_model(model)).generation_config
    ends = settings.eos_token_id
    return () if ends is None else tuple(np.ravel(ends).tolist())


def _ask(sample: SampleTokens, ends: tuple[int, ...], most: int | None, is_paired: bool) -> Question:
    places, targets, prompt = sample.places, sample.targets, sample.prompt
    if not is_paired and targets.size > 1 and targets.size == sample.inputs.size - 1:
        start = targets.size // 2
        prompt, places, targets = sample.inputs[: places[start]], places[start:], targets[start:]
    gaps = np.flatnonzero(np.diff(places) != 1)
    answer = targets[: gaps[0] + 1] if gaps.size else targets
    gold = _cut(answer, ends)
    limit = max(_LEAST_TOKENS, _TIMES_GOLD * gold.size)
    room = limit if most is None else most - (1 if is_paired else prompt.size)
    return Question(prompt, gold, gold.size < answer.size, max(1, min(limit, room)))


def _cut(tokens: Ids, ends: tuple[int, ...]) -> Ids:
    """The tokens before the first that ends a text."""
    found = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: found[0]] if found.size else tokens


def _make_inputs(
    inference: Inference, sample_ids: Ids, questions: Sequence[Question]
) -> tuple[dict[str, torch.Tensor], int]:
    """What the model is given, padded on the left where it writes on; and where in its output the text starts."""
    device = next(inference.model.parameters()).device
    if is_paired(inference.model):
        batch = collate(inference.collate_fn, inference.data.rows(sample_ids.tolist()))
        inputs = {name: value for name, value in batch.items() if name not in _NOT_GENERATED}
        return {name: value.to(device) for name, value in inputs.items()}, 1  # after the token that starts it
    longest = max(one.prompt.size for one in questions)
    tokens = np.full((len(questions), longest), _find_padding(inference.model))
    mask = np.zeros_like(tokens)
    for row, one in enumerate(questions):
        tokens[row, longest - one.prompt.size :] = one.prompt
        mask[row, longest - one.prompt.size :] = 1
    arrays = {"input_ids": tokens, "attention_mask": mask}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}, longest


def _find_padding(model: torch.nn.Module) -> int:
    """A token to pad with, which is masked: the model's own, or one that ends a text."""
    settings: Any = cast(Any, bare_model(model)).generation_config
    return int(settings.pad_token_id if settings.pad_token_id is not None else (*find_ends(model), 0)[0])
