"""The prediction observer: reads off the training forward which rehearsed samples are still right."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mixcd.correctness_rule import CorrectnessRule
from mixcd.correctness_rule.reading import Targets
from mixcd.errors import PlanError
from mixcd.vocabulary import Ids, Observation

NEW_SAMPLE = -1
"""The id under which an observed new sample is kept."""


class PredictionObserver:
    """Collects every trained row's correctness and loss from the forward pass that trains on it.

    No inference happens here. What is read starts on its way to the processor at once, and `take` waits for it alone:
    by then a GPU may still be busy with the backward pass.

    Paper: fine-tuned model f'; its predictions on rehearsed samples fall out of training.

    Args:
        rule: Says which samples are right.
        with_logits: Whether to keep the class logits, too.
    """

    def __init__(self, rule: CorrectnessRule, with_logits: bool = False) -> None:
        self.forward_count = 0
        self._rule = rule
        self._with_logits = with_logits
        self._seen: list[_Copy] = []

    @contextmanager
    def watch(self, model: torch.nn.Module, sample_ids: torch.Tensor, batch: Mapping[str, Any]) -> Iterator[None]:
        """Read the first forward pass with gradients that the model makes inside the block.

        Args:
            model: The outermost module, as the training step calls it.
            sample_ids: The rows' prior sample ids, `NEW_SAMPLE` for new rows; shape (rows,).
            batch: The batch, with its labels.

        Raises:
            DataError: If the batch has no labels.
            UnsupportedTrainerError: If the model's output shows no predictions.
        """
        targets = self._rule.find_targets(batch, "trainer.train_dataset")
        seen = len(self._seen)

        def read(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                return
            self.forward_count += 1
            if len(self._seen) == seen:
                self._read(sample_ids, targets, output)

        hook = model.register_forward_hook(read)
        try:
            yield
        finally:
            hook.remove()

    def take(self) -> torch.Tensor:
        """Return what was seen since the last call, and forget it.

        Returns:
            One row a trained sample, on the processor, shape (rows, 3) or (rows, 3 + classes),
            integers: its prior sample id, whether it was right, and the bits of its single-precision loss
            and logits. Integers, so that one gather over processes moves all exactly.

        Raises:
            PlanError: If no forward pass was seen.
        """
        if not self._seen:
            raise PlanError(
                "No forward pass was observed in this step: the training step never called the model that it was "
                "given. Rehearsal reads predictions off that call. Let `training_step` call its `model` argument."
            )
        seen, self._seen = [copy.wait() for copy in self._seen], []
        return torch.cat(seen) if len(seen) > 1 else seen[0]

    @torch.no_grad()
    def _read(self, sample_ids: torch.Tensor, targets: Targets, output: Any) -> None:
        reading = self._rule.read(output, targets)
        numbers = reading.loss[:, None]
        if self._with_logits and reading.logits is not None:
            numbers = torch.cat([numbers, reading.logits.float()], dim=1)
        columns = (sample_ids.to(numbers.device)[:, None], reading.correct[:, None], numbers.view(torch.int32))
        self._seen.append(_Copy(torch.cat(columns, dim=1)))  # of the widest type: 64-bit integers


class _Copy:
    """A copy of a tensor on its way from the model's device to the processor; a GPU makes it when its turn comes.

    Args:
        rows: The tensor.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows.to("cpu", non_blocking=rows.is_cuda)
        self._arrival = torch.cuda.Event() if rows.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record()

    def wait(self) -> torch.Tensor:
        """Return the copy once it is complete."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._rows


def read_rows(rows: torch.Tensor) -> Observation:
    """Read some observed rows, of new samples too.

    Args:
        rows: What `PredictionObserver.take` returned, possibly of several processes.

    Returns:
        One row a trained sample; the id of new samples is `NEW_SAMPLE`.
    """
    return _decode(rows.cpu().numpy())


def read_rehearsed(rows: torch.Tensor) -> Observation:
    """Read those of some observed rows that are of prior samples.

    Args:
        rows: As in `read_rows`.

    Returns:
        One row a rehearsed sample, in their order.
    """
    seen = rows.cpu().numpy()
    return _decode(seen[seen[:, 0] != NEW_SAMPLE])


def _decode(seen: Ids) -> Observation:
    numbers = seen[:, 2:].astype(np.int32, order="C").view(np.float32).astype(np.float64)
    return Observation(
        sample_ids=seen[:, 0],
        correct=seen[:, 1].astype(bool),
        loss=numbers[:, 0],
        logits=numbers[:, 1:] if numbers.shape[1] > 1 else None,
    )
