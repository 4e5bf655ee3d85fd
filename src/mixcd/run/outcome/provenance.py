"""Which software a result was made with."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("mixcd", "torch", "transformers", "accelerate", "datasets", "numpy", "pyarrow", "scikit-learn")


@cache
def describe_software() -> dict[str, str]:
    """Return versions by name, and as "commit" that of mixcd's own source where it runs from a checkout.

    A commit that ends in `-dirty` had changes that were not committed.
    """
    commit = _find_commit(Path(__file__))
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **({"commit": commit} if commit else {}),
    }


def _find_commit(file: Path) -> str | None:
    """Return the commit of the checkout that tracks a file; None where none does, or without git."""
    tracked = _ask_git(file, "ls-files", "--error-unmatch", file.name)  # a package that lies in some other checkout
    return tracked and _ask_git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _ask_git(file: Path, *question: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603
            ["git", "-C", str(file.parent), *question],  # noqa: S607
            capture_output=True,
            check=False,
            text=True,
        )
    except OSError:
        return None  # there is no git
    return answer.stdout.strip() if answer.returncode == 0 else None
