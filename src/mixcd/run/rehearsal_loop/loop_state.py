"""All that a rehearsal loop has learnt: a value, how a checkpoint holds it, and which run may take it over."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from mixcd.ideas.packing import Mixture
from mixcd.run.rehearsal_loop.rehearsal_health import DamageHistory
from mixcd.words.errors import ResumeError
from mixcd.words.state_json import decode, encode
from mixcd.words.vocabulary import Belief, CollateralDamageEstimator, Partition

_FORMAT = 8
_MOST_VALUES = 1 << 20


@dataclass(frozen=True)
class LoopState:
    """All that a loop has learnt: a value.

    Args:
        steps_done: Completed optimizer steps.
        estimator_state: The estimator's state after them.
        beliefs: The beliefs that coming steps are planned with, by the number of steps they rest on.
        history: What was observed and damaged, for the metrics and the failure signs.
        probed: What a probe observed and found damaged on uniformly drawn prior samples.
        mixture: What the steps done hold, where rows are packed or the mix ratio counts tokens.
    """

    steps_done: int
    estimator_state: Any
    beliefs: Mapping[int, Belief]
    history: DamageHistory
    probed: DamageHistory
    mixture: Mixture


def write_state(
    state: LoopState, estimator: CollateralDamageEstimator[Any], lag: int, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a state as JSON values; arrays as base64 of little-endian float64.

    Args:
        identity: All that decides what the loop draws, by name; JSON values.
    """
    return {
        "format": _FORMAT,
        "identity": dict(identity),
        "lag": lag,
        "steps_done": state.steps_done,
        "estimator_state": estimator.write_state(state.estimator_state),
        "beliefs": {str(step): encode(belief) for step, belief in state.beliefs.items()},
        "history": encode(state.history),
        "probed": encode(state.probed),
        "mixture": encode(state.mixture),
    }


def read_state(stored: Mapping[str, Any], estimator: CollateralDamageEstimator[Any], like: LoopState) -> LoopState:
    """Read a state from a checkpoint.

    Args:
        like: A state of the same loop, which gives shapes and types; its belief after no step is there.
    """
    return LoopState(
        int(stored["steps_done"]),
        estimator.read_state(stored["estimator_state"]),
        {int(step): decode(like.beliefs[0], belief) for step, belief in stored["beliefs"].items()},
        decode(like.history, stored["history"]),
        decode(like.probed, stored["probed"]),
        decode(like.mixture, stored["mixture"]),
    )


def require_resumable(
    stored: Mapping[str, Any], identity: Mapping[str, Any], steps_done: int, wanted_lag: int | None, look_ahead: int
) -> None:
    """Refuse a checkpoint with which a run would not draw as the interrupted one would have.

    Args:
        steps_done: The completed steps that the trainer counts.

    Raises:
        ResumeError: If the checkpoint is of another format, of a run of another shape or after other steps, or its lag
            is too short for the data loader.
    """
    if stored["format"] != _FORMAT:
        raise ResumeError(
            f"The checkpoint's rehearsal state has format {stored['format']}, but this version of mixcd reads "
            f"format {_FORMAT}. Resume with the version of mixcd that wrote it, or start afresh."
        )
    before = stored["identity"]
    for name in {**identity, **before}:
        if before.get(name) != identity.get(name):
            raise ResumeError(
                f"The checkpoint was written with {name} {before.get(name)}, but this run has {identity.get(name)}. A "
                "resumed run must draw as the interrupted one would have. Resume with the same setting, or start "
                "afresh."
            )
    lag = int(stored["lag"])
    if look_ahead > lag or wanted_lag not in (None, lag):
        raise ResumeError(
            f"The checkpoint was planned with a lag of {lag} steps, but this run asks for {wanted_lag or look_ahead}. "
            f"The lag is fixed at the first start. Resume with a lag of {lag} and no more data-loader workers than it "
            "covers."
        )
    if stored["steps_done"] != steps_done:
        raise ResumeError(
            f"The checkpoint's rehearsal state is after {stored['steps_done']} steps, but the trainer's after "
            f"{steps_done}. They must agree. Resume from another checkpoint."
        )


def identify_estimator(estimator: CollateralDamageEstimator[Any]) -> dict[str, str]:
    """Identify an estimator, so that a checkpoint of another one is told apart.

    Args:
        estimator: The estimator; a frozen dataclass, or it is identified by the name of its class alone.

    Returns:
        `estimator`: its class and settings, in words; `estimator arrays`: a hexadecimal SHA-256 of its arrays and bins.
    """
    names: list[str] = [field.name for field in fields(estimator)] if is_dataclass(estimator) else []
    values = {name: getattr(estimator, name) for name in names}
    settings = [f"{name}={value!r}" for name, value in values.items() if isinstance(value, int | float | str)]
    digest = hashlib.sha256()
    for name, value in values.items():
        digest.update(name.encode())
        _add_arrays(digest, value)
    return {
        "estimator": f"{type(estimator).__name__}({', '.join(settings)})",
        "estimator arrays": digest.hexdigest()[:16],
    }


def _add_arrays(digest: Any, value: Any) -> None:
    """Add arrays and bins to a digest; of arrays that are huge, and may be memory-mapped, spaced values."""
    if isinstance(value, np.ndarray):
        spaced = value.reshape(-1)[:: max(1, value.size // _MOST_VALUES)]
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(spaced).data)
    elif isinstance(value, Partition):
        _add_arrays(digest, value.bin_ids)
    elif isinstance(value, tuple):
        for one in value:
            _add_arrays(digest, one)
