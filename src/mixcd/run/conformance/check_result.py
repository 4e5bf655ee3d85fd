"""What a check of the conformance suite found."""

from dataclasses import dataclass


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


def require_conformance(results: list[CheckResult]) -> None:
    """Raise an `AssertionError` that names the checks that failed.

    Args:
        results: What `check_trainer` or `check_estimator` returned.

    Raises:
        AssertionError: If one failed.
    """
    faults = [f"{result.name}: {result.fault}" for result in results if not result.passed]
    if faults:
        raise AssertionError("Checks failed: " + "; ".join(faults))
