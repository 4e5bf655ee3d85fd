"""New rows that come as a stream: row i is the i-th that it yields, whoever asks, and however often it is opened."""

import json
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.matter.prior_and_new_data.fingerprint import fingerprint_value
from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers
from mixcd.words.errors import DataError

logger = logging.getLogger(__name__)

FIRST_ROWS = 16
"""How many rows of a stream are read, and compared, whenever it is opened at its start."""
_NEXT_ROWS = 2
"""Rows that a resumed stream must go on with: a shuffle buffer that is filled again yields others, sooner or later."""


def is_stream(data: Any) -> bool:
    """Whether data can only be read in their own order: an iterable dataset of torch or of `datasets`."""
    return isinstance(data, torch.utils.data.IterableDataset | datasets.IterableDataset)


class FirstRows(list[Any]):
    """The first rows of a stream, and what the stream says about its columns."""

    def __init__(self, rows: Sequence[Any], stream: Any) -> None:
        super().__init__(rows)
        self.features = getattr(stream, "features", None)


@dataclass(frozen=True)
class StreamPlace:
    """A place between two rows of a stream: where a step ends.

    Args:
        row: The number of the row that follows.
        state: The stream's own state there, JSON values; None where it has none that brings it back.
        next_prints: Fingerprints of a few rows that follow; none where they were not read.
        fault: Why the steps after this one cannot be had; empty where they can.
        is_short: Whether this step itself cannot be had.
    """

    row: int
    state: Any = None
    next_prints: Sequence[str] = ()
    fault: str = ""
    is_short: bool = False

    def to_text(self) -> str:
        """Return the place as JSON: a batch carries it from the worker that read the rows."""
        return json.dumps(vars(self))


class StreamedRows(Dataset[Any]):
    """The rows of a stream behind a map-style face, read once from its start on, a step ahead of what is asked for.

    Rows that are not asked for are read, too, and dropped: only so is row i the same one for every number of processes.
    One reader keeps the order, so of one process at most one data-loader worker may read. A worker opens the stream
    itself.

    Args:
        stream: An iterable dataset of torch or of `datasets`. Its first rows are read three times.
        name: What messages call it.

    Raises:
        DataError: If it has no rows, or yields other rows when it is opened again.

    Example:
        >>> stream = datasets.Dataset.from_dict({"x": [3, 4, 5]}).to_iterable_dataset()
        >>> rows = StreamedRows(stream, "new_data")
        >>> rows.first_rows, rows.keeps_state
        ([{'x': 3}, {'x': 4}, {'x': 5}], True)
        >>> rows.plan = BatchPlan(2, 9, mix_ratio=0.5, micro_batch_size=2, micro_batch_count=1, seed=0, in_order=True)
        >>> rows.read_step(1)
        >>> rows[1], rows.place.row
        ({'x': 4}, 2)
    """

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self.name = stream, name
        self.plan: BatchPlan
        """Says where steps end; set it before rows are read."""
        rows, state = _look(stream, seed=0)
        if not rows:
            raise DataError(f"`{name}` is an empty stream, but at least one row is needed. Pass data with rows.")
        self.first_rows = FirstRows(rows, stream)
        """The first rows that it yields; reading them takes nothing from training."""
        self._first_prints = [fingerprint_value(row) for row in rows]
        self._compare_first([fingerprint_value(row) for row in _look(stream, seed=1)[0]])
        self.keeps_state = state is not None and _comes_back(stream, state, self._first_prints)
        """Whether the stream's own state brings it back to a row; rows are read again and dropped otherwise."""
        self.rewind()

    def rewind(self, start: StreamPlace | None = None) -> None:
        """Begin again at the first row, or at a place in a checkpoint, when the next rows are asked for."""
        self._start = start or StreamPlace(0)
        self._close()

    def _close(self) -> None:
        self._opened: Any = None
        self._reader: Any = None
        self._opened_by: int = 0
        self._step: int = -1
        self._read: int = 0
        self._fault: str = ""
        self._rows: dict[int, Any] = {}
        self._states: dict[int, Any] = {}
        self._place = self._start

    @property
    def first_print(self) -> str:
        """A fingerprint of the first rows."""
        return fingerprint_value(self._first_prints)

    @property
    def place(self) -> StreamPlace:
        """Where the last step ends that was read."""
        return self._place

    def __len__(self) -> int:
        return self.plan.new_count

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return rows of the step that was read last; where they are missing, stand-ins that are not trained on."""
        return [self._rows.get(number, self.first_rows[0]) for number in numbers]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_reader": None, "_opened": None, "_opened_by": 0}  # who takes it opens it again

    def read_step(self, step: int) -> None:
        """Read the rows of a step, and those of the step after it: so a stream's end shows while there is time.

        Args:
            step: From 0; the same again, or a later one.
        """
        if self._opened_by != os.getpid():
            self._open()
        elif step == self._step:
            return
        self._step, plan = step, self.plan
        first, last, ahead = (plan.new_rows_before(min(step + more, plan.steps_per_epoch)) for more in range(3))
        self._rows = {number: row for number, row in self._rows.items() if number >= first}
        self._states = {number: state for number, state in self._states.items() if number >= first}
        for stop in (last, ahead):
            self._read_to(stop, first)
        following = range(last, min(last + _NEXT_ROWS, self._read))
        prints = [fingerprint_value(self._rows[number]) for number in following]
        self._place = StreamPlace(last, self._states.get(last), prints, self._fault, self._read < last)

    def _open(self) -> None:
        self._close()  # one reader at a time: those of an interleaved stream of `datasets` share its state
        if not self._open_by_state():
            self._opened, self._read = _view(self._stream), 0
            self._reader = _iterate(self._opened)
        self._opened_by = os.getpid()

    def _open_by_state(self) -> bool:
        """Go on where a checkpoint's state says, if the rows are there that followed then."""
        start = self._start
        if start.state is None or not start.next_prints:
            return False
        try:
            self._opened, self._read = _view(self._stream), start.row
            self._opened.load_state_dict(deepcopy(start.state))
            self._reader = _iterate(self._opened)
            rows = list(islice(self._reader, len(start.next_prints)))
        except Exception as error:  # of a stream of another make: what comes is raised
            logger.warning("`%s` does not take the checkpoint's state (%r): its rows are read again.", self.name, error)
            return False
        if [fingerprint_value(row) for row in rows] != list(start.next_prints):
            logger.warning("`%s` is not brought back by the checkpoint's state: its rows are read again.", self.name)
            return False
        self._rows = dict(enumerate(rows, start.row))
        self._read += len(rows)
        return True

    def _read_to(self, stop: int, first: int) -> None:
        """Read on until the row before `stop`; rows before `first` are dropped."""
        while self._read < stop and not self._fault:
            row = next(self._reader, self)
            if row is self:
                self._fault = self._say_ended()
                return
            self._fault = self._find_other(row)
            if self._read >= first:
                self._rows[self._read] = row
            self._read += 1
        if self._read == stop and self.keeps_state and stop not in self._states:
            self._states[stop] = self._opened.state_dict()

    def _find_other(self, row: Any) -> str:
        """Say what is wrong when a row is not the one that it was before."""
        for start, prints in ((0, self._first_prints), (self._start.row, self._start.next_prints)):
            place = self._read - start
            if 0 <= place < len(prints) and fingerprint_value(row) != prints[place]:
                return self._say_other(self._read)
        return ""

    def _compare_first(self, prints: Sequence[str]) -> None:
        if list(prints) != self._first_prints:
            pairs = enumerate(zip(self._first_prints, prints, strict=False))
            raise DataError(self._say_other(next((n for n, (one, two) in pairs if one != two), len(prints))))

    def _say_other(self, number: int) -> str:
        return (
            f"`{self.name}` yields other rows when it is opened again: row {number} differs. Every process opens the "
            "stream itself, and so does a resumed run, so its rows must be the same ones in the same order. Shuffle "
            "with a fixed seed, do not split it over processes yourself, and leave random changes to the collator."
        )

    def _say_ended(self) -> str:
        plan = self.plan
        steps = bisect_right(range(plan.steps_per_epoch + 1), self._read, key=plan.new_rows_before) - 1
        return (
            f"`{self.name}` ended after {self._read} rows, but `max_steps={plan.steps_per_epoch}` needs "
            f"{plan.new_count} new rows; there are enough for {steps} steps. Training saves a checkpoint there and "
            f"stops. Set `max_steps={max(steps, 1)}`, or pass a longer stream, such as `stream.repeat(None)` of "
            "`datasets`, and resume."
        )


def _view(stream: Any) -> Any:
    """Return the stream as an object of its own: reading it, or giving it a state, leaves the caller's as it was."""
    view = object.__new__(type(stream))
    vars(view).update(vars(stream))
    return view


def _iterate(view: Any) -> Iterator[Any]:
    """Read a stream as its process would: left to itself, `datasets` shuffles otherwise in a data-loader worker."""
    if isinstance(view, datasets.IterableDataset):
        return ({name: values[0] for name, values in batch.items()} for batch in view.iter(batch_size=1))
    return iter(view)


def _look(stream: Any, seed: int) -> tuple[list[Any], Any]:
    """Return a stream's first rows, and its state after half of them; None where it has no state of JSON values."""
    view = _view(stream)
    with fixed_random_numbers(seed):
        reader = _iterate(view)
        rows = list(islice(reader, FIRST_ROWS // 2))
        state = _state_of(view)
        return rows + list(islice(reader, FIRST_ROWS - FIRST_ROWS // 2)), state


def _state_of(view: Any) -> Any:
    if not hasattr(view, "state_dict") or not hasattr(view, "load_state_dict"):
        return None
    state = view.state_dict()
    try:
        return state if isinstance(state, Mapping) and json.loads(json.dumps(state)) == state else None
    except (TypeError, ValueError):
        return None


def _comes_back(stream: Any, state: Any, prints: Sequence[str]) -> bool:
    """Whether a stream goes on after half of its first rows when it is given its state there."""
    view = _view(stream)
    with fixed_random_numbers(0):
        view.load_state_dict(deepcopy(state))
        rest = islice(_iterate(view), FIRST_ROWS - FIRST_ROWS // 2)
        return [fingerprint_value(row) for row in rest] == list(prints[FIRST_ROWS // 2 :])
