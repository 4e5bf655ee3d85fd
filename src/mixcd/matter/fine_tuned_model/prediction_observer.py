"""The prediction observer: reads off the training forward which rehearsed samples are still right."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixcd.matter.base_model.inference import CompareTokens
from mixcd.matter.base_model.token_bits import split_tokens
from mixcd.matter.correctness import CorrectnessRule, TokenRule
from mixcd.matter.correctness.reading import Targets, require_all_samples
from mixcd.matter.fine_tuned_model.head_reader import HeadReader, read_pass
from mixcd.matter.model_shape.joined_rows import mark_own
from mixcd.words.errors import PlanError
from mixcd.words.vocabulary import Floats, Observation, TokenChange

logger = logging.getLogger(__name__)

NEW_SAMPLE = -1
"""The id under which an observed new sample is kept."""


class PredictionObserver:
    """Collects every trained row's correctness and loss from the forward pass that trains on it.

    No inference happens here. What is read starts on its way to the processor at once, and `take` waits for it alone:
    by then a GPU may still be busy with the backward pass.

    A training step may call its model several times, such as for a term that keeps it near the base model. The pass
    that counts is the one that gradients flow back through; of several, the first that shows every row.

    Paper: fine-tuned model f'; its predictions on rehearsed samples fall out of training.

    Args:
        with_logits: Whether logits are wanted, too.
        compare: Compares target tokens with the base model's, where damage is counted by token.
    """

    def __init__(self, rule: CorrectnessRule, with_logits: bool = False, compare: CompareTokens | None = None) -> None:
        self.forward_count = 0
        self._rule = rule
        self._with_logits = with_logits
        self._compare = compare
        self._seen: list[list[_Pass]] = []
        self._warned = False
        self._head: HeadReader | None = None

    @property
    def reads_head(self) -> bool:
        """Whether a pass was read off the input of the model's head, for it showed no logits."""
        return self._head is not None and self._head.score_count > 0

    @contextmanager
    def watch(self, model: torch.nn.Module, sample_ids: torch.Tensor, batch: Mapping[str, Any]) -> Iterator[None]:
        """Read the forward passes with gradients that the model makes inside the block.

        The backward pass may follow inside the block or after it.

        Args:
            sample_ids: The rows' prior sample ids, `NEW_SAMPLE` for new rows; shape (rows,).

        Raises:
            DataError: If the batch has no labels.
            UnsupportedTrainerError: If the output of the only pass shows no predictions, or not of every row.
        """
        targets = self._rule.find_targets(mark_own(batch, len(sample_ids)), "trainer.train_dataset")
        passes: list[_Pass] = []
        head = self._watch_head(model)

        def read(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                return
            self.forward_count += 1
            passes.append(_Pass(self._read(sample_ids, targets, output)))
            passes[-1].follow(output, passes)

        hook = model.register_forward_hook(read)
        try:
            with nullcontext() if head is None else head.watch():
                yield
        finally:
            hook.remove()
            if passes:
                self._seen.append(passes)
        if len(passes) == 1:
            passes[0].require_rows()

    def take(self) -> torch.Tensor:
        """Return what was seen since the last call, and forget it; call it after the backward pass.

        Returns:
            One row a trained sample, on the processor, shape (rows, 3), (rows, 3 + classes) or (rows, 7), integers: its
            prior sample id, whether it was right, and the bits of its single-precision loss and logits, or the counts
            of a `TokenChange`. Integers, so that one gather over processes moves all exactly. `read` reads them.

        Raises:
            PlanError: If no forward pass was seen, or several of which none was trained on.
            UnsupportedTrainerError: If the output that was trained on shows no predictions, or not of every row.
        """
        if not self._seen:
            raise PlanError(
                "No forward pass was observed in this step: the training step never called the model that it was "
                "given. Rehearsal reads predictions off that call. Let `training_step` call its `model` argument."
            )
        seen, self._seen = self._seen, []
        rows = [self._finish(self._choose(passes).require_rows()) for passes in seen]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def read(self, rows: torch.Tensor) -> Observation:
        """Read what `take` returned, possibly of several processes: rows of new samples, too."""
        seen = rows.cpu().numpy()
        loss, rest = _as_floats(seen[:, 2:3])[:, 0], seen[:, 3:]
        ids, correct = seen[:, 0], seen[:, 1].astype(bool)
        if self._compare is not None:
            return Observation(ids, correct, loss, tokens=TokenChange(*rest.T))
        return Observation(ids, correct, loss, _as_floats(rest) if rest.shape[1] else None)

    def read_rehearsed(self, rows: torch.Tensor) -> Observation:
        """Read those rows of `take` that are of prior samples, in their order."""
        rows = rows.cpu()
        return self.read(rows[rows[:, 0] != NEW_SAMPLE])

    def _finish(self, seen: "_Seen") -> torch.Tensor:
        """Return the rows of a pass once they have arrived, with what became of their target tokens where it counts."""
        rows = seen.rows.wait()
        if self._compare is None or seen.tokens is None:
            return rows
        change = self._compare(rows[:, 0].numpy(), split_tokens(seen.tokens.wait().numpy()).tolist())
        counts = np.stack(list(vars(change).values()), axis=1)
        return torch.cat([rows, torch.from_numpy(counts)], dim=1)

    def _choose(self, passes: "list[_Pass]") -> "_Pass":
        """Return the pass that was trained on: the only one, or the first that gradients came back to."""
        if len(passes) == 1:
            return passes[0]
        trained = [one for one in passes if one.is_trained] or [one for one in passes if one.is_reached]
        if not trained:
            raise PlanError(
                f"The model was called {len(passes)} times with gradients on one batch, and no gradient came back to "
                "any of these passes, so which of them trains is not known. Rehearsal reads predictions off that one. "
                "Compute the other passes under `torch.no_grad()`, and commit a step after its backward pass."
            )
        if len(trained) > 1 and not self._warned:
            self._warned = True
            logger.warning(
                "%d forward passes on one batch are trained on. Whether a rehearsed sample is right is read off the "
                "first of them that shows every row.",
                len(trained),
            )
        return next((one for one in trained if isinstance(one.rows, _Seen)), trained[0])

    def _watch_head(self, model: torch.nn.Module) -> HeadReader | None:
        """Return what reads the head of a model, made once for each model."""
        if isinstance(self._rule, TokenRule) and (self._head is None or self._head.model is not model):
            self._head = HeadReader(model)
        return self._head

    @torch.no_grad()
    def _read(self, sample_ids: torch.Tensor, targets: Targets, output: Any) -> "_Seen | Exception":
        """Return what a pass shows; where that fails, why: it matters only if the pass is the one that trains."""
        try:
            reading = read_pass(self._rule, output, targets, self._head, sample_ids != NEW_SAMPLE)
            require_all_samples(len(reading.loss), len(sample_ids))
        except Exception as error:  # raised by `require_rows`; a rule may stumble over a pass of other rows
            return error.with_traceback(None)  # which holds the output
        numbers = reading.loss[:, None]
        if self._with_logits and reading.logits is not None:
            numbers = torch.cat([numbers, reading.logits.float()], dim=1)
        columns = (sample_ids.to(numbers.device)[:, None], reading.correct[:, None], numbers.view(torch.int32))
        tokens = None if self._compare is None or reading.tokens is None else _Copy(reading.tokens)
        return _Seen(_Copy(torch.cat(columns, dim=1)), tokens)  # of the widest type: 64-bit integers


class _Pass:
    """One forward pass with gradients: what it showed, and whether gradients came back to it."""

    def __init__(self, rows: "_Seen | Exception") -> None:
        self.rows = rows
        self._is_zero: list[bool | torch.Tensor] = []

    def follow(self, output: Any, beside: "list[_Pass]") -> None:
        """Notice the gradients of a model's output.

        Args:
            beside: All passes on the same batch: with several, a gradient of zeros is told apart.
        """

        def reach(gradient: torch.Tensor) -> None:
            self._is_zero.append(~gradient.any() if len(beside) > 1 else False)  # on the device: nobody waits for it

        for tensor in _find_tensors(output):
            if tensor.grad_fn is not None:
                tensor.register_hook(reach)  # type: ignore[no-untyped-call]

    @property
    def is_reached(self) -> bool:
        """Whether a gradient came back."""
        return bool(self._is_zero)

    @property
    def is_trained(self) -> bool:
        """Whether a gradient came back that is not zero: a pass that weighs nothing in the loss trains nothing."""
        return not all(map(bool, self._is_zero))

    def require_rows(self) -> "_Seen":
        """Return what the pass showed, or raise why it shows nothing."""
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


def _find_tensors(output: Any) -> Iterator[torch.Tensor]:
    """Find the tensors of a model's output, in tuples and mappings, too."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _find_tensors(part)


class _Copy:
    """A copy of a tensor on its way from the model's device to the processor; a GPU makes it when its turn comes."""

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


@dataclass(frozen=True)
class _Seen:
    """What a pass showed of each row, and of its target tokens where that is wanted."""

    rows: _Copy
    tokens: _Copy | None


def _as_floats(bits: NDArray[np.int64]) -> Floats:
    return bits.astype(np.int32, order="C").view(np.float32).astype(np.float64)
