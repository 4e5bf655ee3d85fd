"""What a check of the conformance suite found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Found = TypeVar("Found")


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Args:
        name: What must hold.
        fault: What did not; empty when it holds.
    """

    name: str
    fault: str

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return not self.fault


def or_fault(find: Callable[[], Found]) -> Found | str:
    """Return what was found, or the error of the code under test as a fault, whatever it raised."""
    try:
        return find()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def require_conformance(results: list[CheckResult]) -> None:
    """Raise an `AssertionError` that names the checks that failed."""
    faults = [f"{result.name}: {result.fault}" for result in results if not result.passed]
    if faults:
        raise AssertionError("Checks failed: " + "; ".join(faults))
