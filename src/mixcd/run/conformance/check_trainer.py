"""`check_trainer`: does rehearsal follow a trainer?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback

from mixcd.matter.base_model.batched_inference import evaluating
from mixcd.matter.correctness import CorrectnessRule
from mixcd.run.conformance.check_result import CheckResult, or_fault
from mixcd.run.trainer.attach import Rehearsal, attach
from mixcd.run.trainer.same_as_training import OwnStep
from mixcd.words.vocabulary import Observation

MIX_RATIO = 0.25
STEPS = 8
_HALF = STEPS // 2
_LAG = 8
_NULL_ROWS, _ROUNDING = 16, 1e-6

Rule = CorrectnessRule | str | None
MakeTrainer = Callable[[Path, Mapping[str, Any]], Trainer]
"""Makes a trainer whose model has the same weights every time, of an output folder and changes to its arguments."""


@dataclass(frozen=True)
class _Run:
    """What one training showed.

    Args:
        blocks: The row numbers of each step; those of a pack's samples one by one.
        observed: The rehearsed samples that each step observed.
        mix_error: By how many tokens the prior data are ahead of their share, and the tokens of the longest row; None
            where the mix ratio counts rows.
        counts: Observed and damaged samples of each bin.
        forward_count: Forward passes with gradients.
        seen_count: Those that were observed.
    """

    blocks: Mapping[int, list[int]]
    observed: list[list[int]]
    counts: list[list[float]]
    weights: Mapping[str, torch.Tensor]
    forward_count: int
    seen_count: int
    new_count: int
    mix_error: tuple[float, int] | None


def check_trainer(
    make_trainer: MakeTrainer, prior_data: Any, folder: Path, *, correctness: Rule = None
) -> list[CheckResult]:
    """Train several times with rehearsal, and check what every supported trainer must do.

    Args:
        make_trainer: Makes a fresh trainer of an output folder and some changes to its arguments. It must set no
            `max_steps`, and have data to evaluate on.
        prior_data: The prior data, as `attach` takes them.
        correctness: When a prediction is right, as `attach` takes it.

    Returns:
        One result a check, in this order: one forward pass a micro-batch; the mix ratio is exact; the ids arrive; the
        same draws for 0 and 2 workers; an interrupted run goes on as if it had not been; evaluation leaves the counts
        alone; `detach` gives the trainer back; nothing is damaged at learning rate 0 without dropout, and the held-out
        losses are the trainer's own within 1e-6. What makes training itself fail is a fault of every check that needs
        it.
    """

    def run(name: str, resume: str | None = None, **changes: Any) -> _Run | str:
        return or_fault(lambda: _train(make_trainer, prior_data, folder / name, correctness, changes, resume))

    plain = run("plain", gradient_accumulation_steps=2)
    workers = run("workers", gradient_accumulation_steps=2, dataloader_num_workers=2)
    whole = run("whole", save_strategy="steps", save_steps=_HALF)
    resumed = run("whole", resume=str(folder / "whole" / f"checkpoint-{_HALF}"))
    evaluated = run("evaluated", eval_strategy="steps", eval_steps=2, gradient_accumulation_steps=2)
    given = (make_trainer, prior_data, folder, correctness)
    faults = {
        "one forward pass a micro-batch": _judge(_find_extra_forwards, plain),
        "the mix ratio is exact": _judge(_find_other_mix, plain),
        "the ids arrive": _judge(_find_lost_ids, plain),
        "the same draws for 0 and 2 workers": _judge(_find_other_draws, plain, workers),
        "an interrupted run goes on as if it had not been": _judge(_find_other_end, whole, resumed),
        "evaluation leaves the counts alone": _judge(_find_other_counts, plain, evaluated),
        "`detach` gives the trainer back": or_fault(partial(_find_remains, *given)),
        "nothing is damaged at learning rate 0": or_fault(partial(_find_noise, *given)),
    }
    return [CheckResult(name, fault) for name, fault in faults.items()]


class _CountForwards(TrainerCallback):
    """Counts the forward passes with gradients of the whole model, whoever makes them."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Hook the model."""
        model.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += torch.is_grad_enabled()


def _train(
    make_trainer: MakeTrainer,
    prior_data: Any,
    folder: Path,
    correctness: Rule,
    changes: Mapping[str, Any],
    resume: str | None,
) -> _Run:
    trainer = make_trainer(folder, {"max_steps": STEPS, **changes})
    rehearsal = _attach(trainer, prior_data, correctness)
    blocks, observed = _record(rehearsal)
    forwards = _CountForwards()
    trainer.add_callback(forwards)
    trainer.train(resume_from_checkpoint=resume)
    counts = rehearsal.counts
    model = cast(torch.nn.Module, trainer.model)
    return _Run(
        blocks,
        [one.sample_ids.tolist() for one in observed],
        [counts.observed_count.tolist(), counts.damaged_count.tolist()],
        {name: value.detach().clone() for name, value in model.state_dict().items()},
        forwards.count,
        rehearsal.forward_count,
        rehearsal._loop.plan.new_count,
        _measure_mix(rehearsal),
    )


def _measure_mix(rehearsal: Rehearsal) -> tuple[float, int] | None:
    loop = rehearsal._loop
    if loop.packed is None or loop.plan.by_rows:
        return None
    return loop.state.mixture.error(MIX_RATIO), loop.packed.packing.longest_row


def _attach(trainer: Trainer, prior_data: Any, correctness: Rule, held_out: Any = None) -> Rehearsal:
    return attach(
        trainer, prior_data, mix_ratio=MIX_RATIO, correctness=correctness, held_out=held_out, lag=_LAG, seed=0
    )


def _record(rehearsal: Rehearsal) -> tuple[dict[int, list[int]], list[Observation]]:
    """Return what fills, while training, with the planned blocks and what was observed."""
    loop, blocks, observed = rehearsal._loop, dict[int, list[int]](), list[Observation]()
    plan, learn = loop.block, loop.learn

    def block(step: int) -> Any:
        planned = plan(step)
        if step < STEPS:
            blocks[step] = [one for row in planned.tolist() for one in (row if isinstance(row, tuple) else (row,))]
        return planned

    def record(observation: Any, *rest: Any) -> Any:
        observed.append(observation)
        return learn(observation, *rest)

    setattr(loop, "block", block)  # noqa: B010
    setattr(loop, "learn", record)  # noqa: B010
    return blocks, observed


def _judge(find: Callable[..., str], *runs: _Run | str) -> str:
    failed = [run for run in runs if isinstance(run, str)]
    return failed[0] if failed else find(*runs)


def _find_extra_forwards(run: _Run) -> str:
    wanted = 2 * STEPS
    if (run.forward_count, run.seen_count) != (wanted, wanted):
        return f"{run.forward_count} forward passes, {run.seen_count} of them observed, in {wanted} micro-batches"
    return ""


def _find_other_mix(run: _Run) -> str:
    if run.mix_error is not None:
        error, longest = run.mix_error
        ahead = (
            f"the prior data are {error:.0f} tokens ahead of their share, more than the {longest} of the longest row"
        )
        return ahead if abs(error) > longest else ""
    shares = [sum(number >= run.new_count for number in block) for block in run.blocks.values()]
    rows = sum(len(block) for block in run.blocks.values())
    if abs(sum(shares) - MIX_RATIO * rows) > 1 or max(shares) - min(shares) > 1:
        return f"{sum(shares)} of {rows} rows are prior, from {min(shares)} to {max(shares)} a step"
    return ""


def _find_lost_ids(run: _Run) -> str:
    if len(run.observed) != STEPS:
        return f"{len(run.observed)} of {STEPS} steps were observed"
    for step, ids in enumerate(run.observed):
        planned = sorted(number - run.new_count for number in run.blocks[step] if number >= run.new_count)
        if sorted(ids) != planned:
            return f"step {step} planned the prior samples {planned} and observed {sorted(ids)}"
    return ""


def _find_other_draws(one: _Run, other: _Run) -> str:
    different = [step for step in range(STEPS) if one.blocks[step] != other.blocks[step]]
    return f"the draws differ from step {different[0]} on" if different else ""


def _find_other_end(whole: _Run, resumed: _Run) -> str:
    different = [step for step in range(_HALF, STEPS) if whole.blocks[step] != resumed.blocks.get(step)]
    if different:
        return f"the draws differ from step {different[0]} on"
    changed = [name for name, value in whole.weights.items() if not torch.equal(value, resumed.weights[name])]
    return f"`{changed[0]}` has other values after resuming" if changed else _find_other_counts(whole, resumed)


def _find_other_counts(one: _Run, other: _Run) -> str:
    return "" if one.counts == other.counts else "the observed and damaged counts differ"


def _find_remains(make_trainer: MakeTrainer, prior_data: Any, folder: Path, correctness: Rule) -> str:
    trainer = make_trainer(folder / "detached", {"max_steps": 1})
    before = set(vars(trainer))
    rehearsal = _attach(trainer, prior_data, correctness)
    rehearsal.detach()
    left = sorted(set(vars(trainer)) - before)
    trainer.train()
    if rehearsal.forward_count:
        return "training was observed after `detach`"
    return f"`{left[0]}` is left on the trainer" if left else ""


def measure_false_damage(
    make_trainer: MakeTrainer, prior_data: Any, folder: Path, *, correctness: Rule = None, dropout: float = 0.1
) -> float:
    """Train at learning rate 0 with dropout: what is damaged then, no training has damaged.

    Args:
        make_trainer: As in `check_trainer`, like the rest.
        dropout: The share that every dropout of the model drops.

    Returns:
        The share of the rehearsed samples that looks damaged.
    """
    _, rehearsal, _ = _train_still(make_trainer, prior_data, folder / "noisy", correctness, dropout)
    return float(rehearsal.counts.damaged_count.sum() / rehearsal.counts.observed_count.sum())


def _find_noise(make_trainer: MakeTrainer, prior_data: Any, folder: Path, correctness: Rule) -> str:
    """The null check: a model that does not change loses nothing, and is judged as its trainer judges it."""
    trainer, rehearsal, seen = _train_still(make_trainer, prior_data, folder / "still", correctness, 0.0)
    change, before = rehearsal.evaluate().prior, rehearsal._opened.held_out["prior"].before
    step = OwnStep(trainer, rehearsal._opened.held_out["prior"].data, rehearsal._opened.rule)
    with evaluating(step.model):
        own = [step.predict_by_trainer(step.data[row])[0] for row in range(_NULL_ROWS)]
    damaged = rehearsal.counts.damaged_count.sum()
    if damaged or change.damaged_count or change.gained_count:
        return (
            f"{damaged:g} damaged in training; {change.damaged_count} damaged and {change.gained_count} gained after it"
        )
    tokens = [one.tokens for one in seen if one.tokens is not None]
    lost, gained = (sum(int(getattr(one, name).sum()) for one in tokens) for name in ("lost_count", "gained_count"))
    if lost or gained or (change.tokens and (change.tokens.lost_count or change.tokens.gained_count)):
        after = f"{change.tokens.lost_count} lost and {change.tokens.gained_count} gained" if change.tokens else "none"
        return f"{lost} target tokens lost and {gained} gained in training; {after} after it"
    for row, (loss, is_right) in enumerate(own):
        if abs(loss - before.loss[row]) > _ROUNDING or is_right != before.correct[row]:
            return f"held-out row {row} has a loss of {before.loss[row]:.8g}, and {loss:.8g} by the trainer's own step"
    return ""


def _train_still(
    make_trainer: MakeTrainer, prior_data: Any, folder: Path, correctness: Rule, dropout: float
) -> tuple[Trainer, Rehearsal, list[Observation]]:
    """Train at learning rate 0, and return what was observed of the rehearsed samples, too."""
    trainer = make_trainer(folder, {"max_steps": STEPS, "learning_rate": 0.0})
    _set_dropout(cast(torch.nn.Module, trainer.model), dropout)
    rehearsal = _attach(trainer, prior_data, correctness, held_out=prior_data)
    _, observed = _record(rehearsal)
    trainer.train()
    return trainer, rehearsal, observed


def _set_dropout(model: torch.nn.Module, share: float) -> None:
    """Set all dropout: of modules made for it, and the shares that other modules hold."""
    for module in model.modules():
        held = [name for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
        for name in [*held, *(["p"] if isinstance(module, torch.nn.Dropout) else [])]:
            setattr(module, name, share)
