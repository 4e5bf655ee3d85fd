"""Batched inference: a model's predictions on rows of mixed length, without gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixcd.matter.base_model.head_features import pool_head_input
from mixcd.matter.base_model.token_bits import split_tokens
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.correctness.reading import require_all_samples
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS, mark_own, name_collator, require_known_starts
from mixcd.matter.prior_and_new_data.packed_rows import count_samples, count_tokens
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, RehearsalError, UnsupportedTrainerError
from mixcd.words.vocabulary import Ids

GROUP_ROWS, GROUP_TOKENS = 4096, 2**20
"""The most rows, and the tokens after which no more are read, that are sorted by length together."""
GROUP_BYTES = 2**28
"""The bytes of images after which no more rows are read, whatever they are sorted with."""
_BYTES_A_NUMBER = 32
"""What a float takes in a list of Python's."""
_MOST_AXES = 3
"""The axes of a mask of tokens: rows, in multiple choice choices, and tokens. One of pairs of tokens has more."""

Collate = Callable[[list[Any]], Mapping[str, Any]]


def read_groups(
    data: PriorDataset, sample_ids: Ids, batch_size: int, *, at_once: bool = False
) -> Iterator[tuple[Ids, list[Any]]]:
    """Read samples in groups that fit in memory, as many as sorting by length gains from: yield their ids and rows.

    Rows without tokens, such as images, are not worth sorting: one batch each.

    Args:
        at_once: Whether only images make a group end, and all other rows are sorted together.
    """
    rows: list[Any] = []
    first = token_count = byte_count = 0
    for start in range(0, len(sample_ids), batch_size):
        found = data.rows(sample_ids[start : start + batch_size].tolist())
        rows += found
        token_count += sum(map(count_padded, found))
        byte_count += sum(map(count_bytes, found))
        is_full = len(rows) + batch_size > GROUP_ROWS or token_count >= GROUP_TOKENS or not _has_tokens(rows[0])
        ends = byte_count >= GROUP_BYTES or (is_full and not at_once)
        if ends or start + batch_size >= len(sample_ids):
            yield sample_ids[first : first + len(rows)], rows
            first, token_count, byte_count, rows = first + len(rows), 0, 0, []


def put_results(
    arrays: dict[str, NDArray[Any]], positions: Ids | slice, found: Mapping[str, NDArray[Any]], row_count: int
) -> None:
    """Put the results of some rows where they belong, in `arrays` of all rows by name, made of the first results.

    Arrays are filled in place: small ones kept from each batch would lie where its logits were, and the heap would grow
    by as much with every batch.

    Raises:
        UnsupportedTrainerError: If they are not one a row found.
    """
    wanted = len(range(row_count)[positions]) if isinstance(positions, slice) else len(positions)
    for values in found.values():
        require_all_samples(len(values), wanted)
    if not arrays:
        arrays.update({name: np.empty((row_count, *one.shape[1:]), one.dtype) for name, one in found.items()})
    for name, values in found.items():
        arrays[name][positions] = values


def batch_by_tokens(lengths: Sequence[int], batch_size: int) -> Iterator[Ids]:
    """Sort rows by length, and yield batches of so many padded tokens at most, from the longest rows to the shortest.

    Args:
        lengths: Each row's length in tokens.
        batch_size: Rows a batch at the longest length; this times the longest length is the bound.

    Example:
        >>> [batch.tolist() for batch in batch_by_tokens([1, 4, 2, 1, 1], batch_size=1)]
        [[1], [2, 0], [3, 4]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    bound = batch_size * max(lengths)
    start = 0
    while start < order.size:
        stop = start + max(1, bound // max(1, lengths[order[start]]))
        yield order[start:stop]
        start = stop


def collate(collate_fn: Collate, rows: list[Any]) -> Mapping[str, Any]:
    """Make a batch of copies of some rows: collators may change what they are given.

    Raises:
        UnsupportedTrainerError: If the collator returns no mapping, or joins the rows without saying where each starts.
    """
    batch = collate_fn([dict(row) if isinstance(row, Mapping) else row for row in rows])
    if not isinstance(batch, Mapping):
        raise UnsupportedTrainerError(
            f"The collator returned a {type(batch).__name__}, but mixcd needs a mapping of names to tensors, to find "
            "the labels and to carry the sample ids. Use a collator that returns a dict."
        )
    require_known_starts(batch, sum(map(count_samples, rows)), name_collator(collate_fn))
    return batch


def run_model(
    model: torch.nn.Module, rule: CorrectnessRule, batch: Mapping[str, Any], sample_count: int
) -> tuple[Mapping[str, Any], Any]:
    """Call a model with a batch, on any device, as every pass that only predicts does.

    Returns:
        The batch on the model's device, marked where samples share a row, and what the model returned.

    Raises:
        DataError: If the model refuses the batch.
    """
    device = next(model.parameters()).device
    tensors = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    marked = mark_own(tensors, sample_count)
    inputs = {name: value for name, value in tensors.items() if name not in rule.withheld} | dict(rule.settings)
    if OWN_TOKENS in marked and getattr(getattr(model, "config", None), "use_cache", False):
        inputs["use_cache"] = False  # with a cache, transformers lets tokens attend to the samples before their own
    return marked, _call_model(model, inputs, sample_count)


def _call_model(model: torch.nn.Module, inputs: Mapping[str, Any], sample_count: int) -> Any:
    try:
        return model(**inputs)
    except (RehearsalError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:  # each model in its own way
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"The model refuses a batch of {sample_count} sample(s): {reason}. Prepare the rows as for this model, and "
            "give its config what it lacks, such as a `pad_token_id`."
        ) from error


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; every module's own mode of before after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def predict_batch(
    model: torch.nn.Module,
    rule: CorrectnessRule,
    batch: Mapping[str, Any],
    rows: Sequence[Any],
    sample_ids: Ids,
    data_name: str,
    head_inputs: list[torch.Tensor] | None = None,
) -> dict[str, NDArray[Any]]:
    """Predict one batch: return its arrays, and raise errors, as `Inference.predict_rows` does.

    Args:
        rows: What the batch was made of.
        head_inputs: What `watch_head` collects, where the input of the model's head is wanted.
    """
    marked, output = run_model(model, rule, batch, len(sample_ids))
    targets = rule.find_targets(marked, data_name)
    rule.require_known(targets, output, sample_ids, data_name)
    reading = rule.read(output, targets)
    found = {"loss": reading.loss, "correct": reading.correct}
    if reading.prediction is not None:
        found["prediction"] = reading.prediction.to(torch.int32)
    if reading.share is not None:
        found["share_right"] = reading.share
    if reading.has_target is not None:
        found["has_target"] = reading.has_target
    if reading.tokens is not None:
        found["right_tokens"] = reading.tokens
    found["token_count"] = _count_tokens(marked, rows)
    if head_inputs is not None:
        found["head_input"] = pool_head_input(head_inputs, marked, len(sample_ids), reading.head_mask)
        if reading.logits is not None:
            found["logits"] = reading.logits.float()
    arrays = {name: value.cpu().numpy() for name, value in found.items()}
    if reading.tokens is not None:
        arrays["right_tokens"] = split_tokens(arrays["right_tokens"])
    return arrays


def _count_tokens(batch: Mapping[str, Any], rows: Sequence[Any]) -> torch.Tensor:
    """Input tokens that are no padding, by the rows where the batch does not say; 1 for rows without tokens."""
    mask: torch.Tensor | None = batch.get(OWN_TOKENS, batch.get("attention_mask"))
    if mask is None or mask.ndim > _MOST_AXES:
        return torch.from_numpy(count_tokens(rows)).to(torch.int32)
    return mask.flatten(1).count_nonzero(-1).to(torch.int32)


def list_inputs(row: Mapping[str, Any]) -> list[Any]:
    """Return the token lists of a prepared row: a single one, or one a choice in multiple choice.

    Example:
        >>> list_inputs({"input_ids": [7, 8]}), list_inputs({"input_ids": [[7], [8]]})
        ([[7, 8]], [[7], [8]])
    """
    inputs = row["input_ids"]
    return list(inputs) if len(inputs) and np.ndim(inputs[0]) else [inputs]


def _has_tokens(row: Any) -> bool:
    return isinstance(row, Mapping) and "input_ids" in row


def count_inputs(row: Any) -> list[int]:
    """Input tokens of a row, or of each of its choices; 1 for rows without tokens."""
    return [len(tokens) for tokens in list_inputs(row)] if _has_tokens(row) else [1]


def count_padded(row: Any) -> int:
    """Tokens of a row as it is padded, those of its target included; 1 for rows without tokens."""
    counts = count_inputs(row)
    count = max(counts, default=0) * len(counts)
    target = row.get("labels") if isinstance(row, Mapping) else None
    if not isinstance(target, Sized) or getattr(target, "ndim", 1) == 0:  # a tensor of one label is Sized, too
        return count
    return count + len(target)


def count_bytes(value: Any) -> int:
    """Return about how many bytes the images of a row take: all but numbers, texts and flat lists, such as of tokens.

    Nested lists of numbers are taken for even ones.

    Example:
        >>> row = {"input_ids": np.ones(9), "pixel_values": np.ones((3, 8, 8), np.float32), "image": b"GIF"}
        >>> count_bytes(row), count_bytes([[0.5, 0.5]] * 3)
        (771, 192)
    """
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.nbytes if value.ndim > 1 else 0
    if isinstance(value, Mapping):
        return sum(map(count_bytes, value.values()))
    if isinstance(value, list | tuple) and value:
        if isinstance(value[0], list | tuple):
            return len(value) * (count_bytes(value[0]) or _BYTES_A_NUMBER * len(value[0]))
        return 0 if isinstance(value[0], int | float | str) else sum(map(count_bytes, value))
    if hasattr(value, "getbands"):  # of Pillow, which need not be installed, and may not have decoded it yet
        return int(value.width * value.height * len(value.getbands()))
    return 0
