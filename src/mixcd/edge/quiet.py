"""Libraries that keep to themselves, so that an error is one line; what mixcd has to say goes to stdout."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from typing import TextIO

import datasets
from datasets.utils import logging as datasets_logging
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_libraries(told: TextIO | None = None) -> Iterator[None]:
    """Hold back log lines that repeat an error which is raised as well, and progress bars where nobody watches.

    Lines that mixcd logs, such as the failure signs, are printed by the first process.

    Args:
        told: Where to; stdout by default.
    """
    log, handler = logging.getLogger("mixcd"), logging.StreamHandler(told or sys.stdout)
    log_level = log.level
    if os.environ.get("RANK", "0") == "0":
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    level, watched = datasets_logging.get_verbosity(), sys.stderr.isatty()
    bars = datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    hub_level = hub_logging.get_verbosity()
    datasets_logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    if not watched:
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(log_level)
        datasets_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if not bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def hold_back_warnings() -> Iterator[None]:
    """Show what transformers warns of after the block; when the block fails, its error is all there is to say."""
    logger, held = logging.getLogger("transformers"), BufferingHandler(10**6)
    handlers, logger.handlers = logger.handlers, [held]
    try:
        with warnings.catch_warnings(record=True) as warned:
            yield
    finally:
        logger.handlers = handlers
    for record in held.buffer:
        logger.handle(record)
    for one in warned:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
