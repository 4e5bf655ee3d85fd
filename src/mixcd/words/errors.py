"""Every error that mixcd raises: which value, what was expected, what to do."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

WRONG_PLACE = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
"""Faults of the system that mean that a file or folder was badly chosen."""


class RehearsalError(Exception):
    """Base of all errors raised by mixcd; its message is one complete sentence or more."""


class SettingError(RehearsalError, ValueError):
    """A value that the caller chose is outside what makes sense."""


class DataError(RehearsalError, ValueError):
    """The prior or new data are not what rehearsal needs."""


class UnknownSampleError(RehearsalError, LookupError):
    """A sample id lies outside the prior data."""


class CacheError(RehearsalError, ValueError):
    """A prediction cache is damaged, incomplete, or was made from something else."""


class FolderInUseError(RehearsalError, RuntimeError):
    """Another process is writing to the folder."""


class RunFolderError(RehearsalError, ValueError):
    """A run folder is not what the command needs: foreign, finished, unfinished, or of another configuration."""


class UnsupportedTrainerError(RehearsalError, TypeError):
    """The trainer does something that rehearsal cannot follow, so it is refused."""


class AlreadyAttachedError(RehearsalError, RuntimeError):
    """The trainer already rehearses."""


class PlanError(RehearsalError, RuntimeError):
    """A step was planned, observed or committed out of turn."""


class MissingExtraError(RehearsalError, ImportError):
    """A package of an extra is not installed."""


class SweepError(RehearsalError, RuntimeError):
    """Runs of a sweep failed."""


class ResumeError(RehearsalError, RuntimeError):
    """A checkpoint does not fit the run that wants to continue from it."""


def shorten(names: Iterable[object], most: int = 5) -> str:
    """List the first few names, and how many more there are.

    Example:
        >>> shorten(range(10), most=3)
        '0, 1, 2 and 7 more'
    """
    listed = [str(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Say which known name comes nearest to an unknown one, or which names are known.

    Example:
        >>> nearest_name("mixratio", ["mix_ratio", "lag"])
        ', did you mean `mix_ratio`?'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (known: {shorten((f'`{key}`' for key in known), 12)})"


def end_sentence(text: str) -> str:
    """Put a full stop after a sentence that has no end yet.

    Example:
        >>> end_sentence("nothing is there"), end_sentence("did you mean `lag`?")
        ('nothing is there.', 'did you mean `lag`?')
    """
    return text if text.endswith(("?", ".")) else f"{text}."


def plain_name(name: str, most: int | None = None) -> str:
    r"""Return a text on one line, cut to `most` characters, without those that a terminal would obey.

    Example:
        >>> plain_name("red: \x1b[31m", most=6)
        'red: …'
    """
    plain = "".join(one if one.isprintable() else " " for one in name)
    return plain if most is None or len(plain) <= most else f"{plain[: most - 1]}…"
