"""`Probe`: extra inference on uniformly drawn prior samples while training; what it costs is charged."""

from dataclasses import dataclass
from typing import Literal

from mixcd.words.errors import SettingError
from mixcd.words.keyed_random import Stream, choose_distinct
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True)
class Probe:
    """Asks the model about prior samples that it did not just train on.

    The samples are drawn uniformly, by (seed, step), and predicted after the optimizer step, without
    dropout. Unlike the free observations these show the damage of the whole prior data without bias.

    Paper: the unbiased estimate from extra inference, which costs forward passes.

    Args:
        sample_count: Samples a probing; all prior samples when there are fewer.
        every: Steps from one probing to the next; the first is after the first step.
        use: "audit" to compare with the free estimate only; "estimate" to give the estimator these
            observations in the place of the free ones.

    Raises:
        SettingError: If a number is below 1 or the use is unknown.
    """

    sample_count: int
    every: int = 1
    use: Literal["audit", "estimate"] = "audit"

    def __post_init__(self) -> None:
        for name in ("sample_count", "every"):
            if getattr(self, name) < 1:
                raise SettingError(
                    f"The probe's `{name}` is {getattr(self, name)}, but it must be 1 or more. Pass, for "
                    "example, `Probe(64, every=10)`."
                )
        if self.use not in ("audit", "estimate"):
            raise SettingError(
                f'The probe\'s `use` is {self.use!r}, but only "audit" and "estimate" exist. Pass one of them.'
            )


def choose_probed(probe: Probe, sample_count: int, seed: int, step: int) -> Ids | None:
    """Draw the samples that a probe asks about after a step, ascending; None when the probe is not due.

    Example:
        >>> choose_probed(Probe(3, every=10), 100, seed=0, step=20)
        array([43, 82, 94])
        >>> choose_probed(Probe(3, every=10), 100, seed=0, step=21) is None
        True
    """
    if step % probe.every:
        return None
    return choose_distinct(seed, step, Stream.PROBES, probe.sample_count, among=sample_count)


def probe_cost(probe: Probe, *, prior_tokens: float, step_tokens: float) -> float:
    """Return a probe's share of the compute of training, of mean tokens a prior sample and a training step.

    A forward pass costs one unit a token, a backward pass two.

    Example:
        >>> probe_cost(Probe(16), prior_tokens=20, step_tokens=640)
        0.16666666666666666
    """
    return probe.sample_count * prior_tokens / (3 * probe.every * step_tokens)
