"""Streams of new rows, for tests that train on them."""

import torch


class CountingStream(torch.utils.data.IterableDataset):
    """A stream of rows without a state; counts the rows that it yields, however often it is opened."""

    def __init__(self, rows):
        self.rows = list(rows)
        self.counts = []

    def __iter__(self):
        self.counts.append(0)
        place = len(self.counts) - 1
        for row in self.rows:
            self.counts[place] += 1
            yield row


class OnceOnly(torch.utils.data.IterableDataset):
    """A stream that goes on where it was left."""

    def __init__(self, rows):
        self._reader = iter(list(rows))

    def __iter__(self):
        return self._reader


class Shuffled(torch.utils.data.IterableDataset):
    """A stream in another order each time."""

    def __init__(self, rows):
        self.rows = list(rows)

    def __iter__(self):
        return (self.rows[place] for place in torch.randperm(len(self.rows)).tolist())


class Stateful(torch.utils.data.IterableDataset):
    """A stream that can be brought back to any row, or says so."""

    def __init__(self, rows, off_by=0, state=None):
        self.rows = list(rows)
        self.place, self.opened_at = 0, []
        self._off_by, self._state = off_by, state

    def __iter__(self):
        self.opened_at.append(self.place)
        while self.place < len(self.rows):
            self.place += 1
            yield self.rows[self.place - 1]
        self.place = 0

    def state_dict(self):
        return {"place": self.place} if self._state is None else self._state

    def load_state_dict(self, state):
        self.place = state["place"] + self._off_by
