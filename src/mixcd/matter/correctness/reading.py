"""What is read off a forward pass, and the interface of the rules that read it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from mixcd.words.errors import DataError, UnsupportedTrainerError, shorten
from mixcd.words.vocabulary import Flags, Floats, Ids, Observation

LABEL_KEYS = ("labels", "label")
"""Where a batch may keep its labels."""
NO_TARGET = -1
"""What stands in `Reading.tokens` where no token is a target."""
Targets = Mapping[str, torch.Tensor]
"""What a batch's samples are judged against, by the names that the rule gives them."""


@dataclass(frozen=True)
class Reading:
    """What a forward pass shows of each sample of its batch; tensors on the model's device.

    Args:
        correct: Whether it is right, shape (samples,).
        loss: Its loss, single precision, shape (samples,).
        prediction: The class it is given, shape (samples,); None where predictions are no class.
        logits: What drift is forecast of: the class logits, shape (samples, classes), or what `weigh_wrong` makes;
            None where correctness follows from neither.
        share: The share of its target tokens that are right, shape (samples,); None for other tasks.
        head_mask: Which inputs of the head its targets are predicted from, shape (samples, tokens); None for all
            that are no padding.
        has_target: Whether it has a target that a model could predict, shape (samples,); None where all have.
        tokens: In language models 1 where a target token is right, 0 where it is wrong and `NO_TARGET` elsewhere, of 8
            bits, shape (samples, tokens); None for other tasks.
    """

    correct: torch.Tensor
    loss: torch.Tensor
    prediction: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    share: torch.Tensor | None = None
    head_mask: torch.Tensor | None = None
    has_target: torch.Tensor | None = None
    tokens: torch.Tensor | None = None


class CorrectnessRule(ABC):
    """Says which samples a model gets right, by its forward pass; the same for base and fine-tuned model."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The rule in words: predictions cached under another rule are refused."""

    @property
    def is_graded(self) -> bool:
        """Whether damage is counted by token, and a sample's is a share; else a sample is damaged or not."""
        return False

    @property
    def has_logits(self) -> bool:
        """Whether readings bring logits, so that drift can be forecast."""
        return True

    @property
    def loss_tolerance(self) -> float | None:
        """How much larger than the base model's a loss may be and still be right; None where losses do not matter."""
        return None

    @property
    def withheld(self) -> tuple[str, ...]:
        """What of a batch is kept from the model when it only predicts: targets, from which it would make a loss."""
        return LABEL_KEYS

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the model is called with besides the batch when it only predicts."""
        return MappingProxyType({})

    @property
    def untargeted(self) -> str:
        """What a sample has that no model can get right, in words; empty where each has a target."""
        return ""

    def find_targets(self, batch: Mapping[str, Any], data_name: str) -> Targets:
        """Return what the samples of a batch are judged against, the labels; a `DataError` if it is not there."""
        return {"labels": find_target(batch, LABEL_KEYS, data_name)}

    @abstractmethod
    def require_known(self, targets: Targets, output: Any, sample_ids: Ids, data_name: str) -> None:
        """Refuse targets that the model cannot predict, by a `DataError` that names the samples."""

    @abstractmethod
    def read(self, output: Any, targets: Targets) -> Reading:
        """Read a forward pass, or say by an `UnsupportedTrainerError` why it shows no predictions."""


def apply_tolerance(rule: CorrectnessRule, correct: Flags, loss: Floats, base_loss: Floats) -> Flags:
    """Say which samples are right by their readings, and by the base model's losses where the rule counts these."""
    return correct if rule.loss_tolerance is None else correct & (loss <= base_loss + rule.loss_tolerance)


def judge_by_loss(rule: CorrectnessRule, seen: Observation, base_loss: Floats | None) -> Observation:
    """Judge observed samples by the base model's loss, where the rule does.

    Args:
        base_loss: The base model's loss on each prior sample, shape (samples,); None where losses do not matter.
    """
    if base_loss is None:
        return seen
    return replace(seen, correct=apply_tolerance(rule, seen.correct, seen.loss, base_loss[seen.sample_ids]))


_FARTHEST = 1e4
"""Logits are kept in 16 bits, which end at 65,504."""


def weigh_wrong(margins: torch.Tensor) -> torch.Tensor:
    """Return what drift is forecast of where predictions are no class: being right, against each way to be wrong.

    Args:
        margins: How far each way to be wrong is ahead of being right, shape (samples, ways): a sample is right when
            none is positive.

    Returns:
        Logits, shape (samples, 1 + ways): class 0 is to be right, of logit 0.

    Example:
        >>> weigh_wrong(torch.tensor([[-2.0, -1.0], [-2.0, 3.0]])).argmax(-1)
        tensor([0, 2])
    """
    return functional.pad(margins.float().clamp(-_FARTHEST, _FARTHEST), (1, 0))


def find_target(batch: Mapping[str, Any], names: tuple[str, ...], data_name: str) -> torch.Tensor:
    """Return what a batch is judged against, under the first name that is there; a `DataError` if none is."""
    for name in names:
        if name in batch:
            targets: torch.Tensor = batch[name]
            return targets
    raise DataError(
        f"`{data_name}` has no labels: its batches hold {shorten((f'`{name}`' for name in batch), 20)}. Correctness is "
        f"judged against `{names[0]}`. Give every row a {' or '.join(f'`{name}`' for name in reversed(names))} column."
    )


def read_tensor(output: Any, name: str) -> torch.Tensor | None:
    """Return one of a model's outputs, or None when it has none of this name."""
    found: torch.Tensor | None = output.get(name) if isinstance(output, Mapping) else None
    return found


def refuse_output(kind: str, task: str, wanted: str) -> UnsupportedTrainerError:
    """Return the error about an output that shows no predictions.

    Args:
        kind: What the model returned.
        task: What mixcd took the task for.
        wanted: What it would need to see.
    """
    return UnsupportedTrainerError(
        f"The model returned {kind}. mixcd reads correctness off the forward pass of {task}: {wanted}. Use such a "
        "model, and leave `return_dict` on."
    )


def refuse_logits(logits: torch.Tensor | None, labels: torch.Tensor, task: str, wanted: str) -> UnsupportedTrainerError:
    """Return the error about logits that are not there, or do not fit the labels; see `refuse_output`."""
    shape = "no `logits`" if logits is None else f"`logits` of shape {tuple(logits.shape)}"
    return refuse_output(f"{shape} for labels of shape {tuple(labels.shape)}", task, wanted)


def require_all_samples(found: int, wanted: int) -> None:
    """Refuse results that are not one a sample: they must never be spread over the samples of a batch."""
    if found != wanted:
        raise UnsupportedTrainerError(
            f"A batch of {wanted} samples came back from the model as results of {found}. mixcd reads one prediction a "
            "sample, in the order of the batch. Use a collator that keeps one row a sample, and give the model all "
            "rows of a batch at once."
        )
