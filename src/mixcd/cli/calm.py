"""Libraries that keep to themselves, so that an error is one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL

import datasets
from datasets.utils import logging as datasets_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def calm_libraries() -> Iterator[None]:
    """Hold back log lines that repeat an error which is raised as well, and progress bars where nobody watches."""
    level, watched = datasets_logging.get_verbosity(), sys.stderr.isatty()
    bars = datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    datasets_logging.set_verbosity(CRITICAL)
    if not watched:
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        datasets_logging.set_verbosity(level)
        if not bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
