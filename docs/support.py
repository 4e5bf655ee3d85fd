"""Writes `docs/support.md`: which trainers rehearsal follows, by running the conformance suite on each.

python docs/support.py
"""

import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from example_table import show_examples  # noqa: E402

from mixcd.testing import CheckResult, check_trainer, measure_false_damage  # noqa: E402
from mixcd.words.files import replace_file  # noqa: E402
from supported_trainers import KNOWN_FAULTS, TRAINERS  # noqa: E402

INTRODUCTION = """\
# What rehearsal follows

This page is made by `python docs/support.py`, which runs the conformance suite `mixcd.testing.check_trainer` on tiny
models; `make test` runs it again, and compares. Whoever writes a trainer can run it on theirs:

```python
from mixcd.testing import check_trainer, require_conformance

require_conformance(check_trainer(make_trainer, prior_data, tmp_path))
```

`make_trainer(folder, changes)` returns a fresh trainer with the same weights every time. An interrupted run ends with
the same weights to the bit. Versions: `constraints.txt`.

"""
NOISE = """\
## False damage by dropout

At learning rate 0 nothing is damaged (the last column). With every dropout at .1 some samples look damaged all the
same, for training sees the model in train mode. Of 16 rehearsed samples on these tiny models, so a hint of its size
([more of it](decisions/noise.md)):

| trainer and task | looks damaged |
|---|---|"""
STREAMS = """
## Streams

`train_dataset` may be an iterable dataset, torch's or a streaming one of `datasets`, with `max_steps`. Prior and
held-out data stay map-style. New rows come in the stream's own order, and everything else is as with map-style data:
in the same order these train the same weights, to the bit, and so do workers of any number (forked, spawned or
persistent) and a run that is resumed at any step. Two processes draw as one does.

Row i is the i-th of the stream for every number of processes, so each process reads all rows, from the start of the run
to its end, and trains on its share: two processes that need 72 rows read 72 each. Reading shards in their place
(`split_dataset_by_node`) would make the order depend on the number of processes; where shards do not fit these,
`datasets` itself reads all rows, too. Of each process one worker reads, however many are asked for, as far ahead as all
would; without workers, the training process reads. So prepare what is slow beforehand, and shuffle by
`stream.shuffle(seed=…)`: each process fills a buffer of its own.

A resumed run goes on by the stream's `state_dict` where this brings back the rows that followed, and otherwise reads
again what was trained on; the log says which. A shuffle buffer is read again: its state does not hold its rows.

Refused: a stream without `max_steps`; packed, or mixed by tokens; one whose first rows differ when it is opened again,
on another process, or on resume. Random augmentation belongs into the collator. A stream that ends early trains all
steps that it has the rows for; a checkpoint is saved, and a `DataError` says how many rows there were and how many are
needed. Resume with a longer stream or fewer steps. `mixcd.rehearse`, for loops of one's own, takes no streams.
"""
REFUSED = """
## Refused, with the reason

| what | why |
|---|---|
| `packing_strategy="bfd_split"` | cuts samples and packs the pieces apart; use `packing_strategy="bfd"` |
| `sample_packing`, `neat_packing`, `template.packing`, unless rows show it | [borders are hidden](how-to/packing.md) |
| `padding_free=True` with `pad_to_multiple_of` | padding looks like more samples |
| streams of prior data, without `max_steps`, packed, or mixed by tokens | samples are drawn by number |
| `train_sampling_strategy` other than "random", samplers of one's own, replacement | they order the rows themselves |
| `dispatch_batches`, `split_batches` | batches are split after they are drawn |
| context and sequence parallelism | a sample is split over processes |
| losses inside kernels, of models whose logits are not just their head's output | there is nothing to read |
| `DPOTrainer`, `KTOTrainer`, `RewardTrainer`, `GRPOTrainer`, `RLOOTrainer` | their samples have no labels |
| the trainers of sentence-transformers and setfit | their samples are texts that a loss compares or scores itself |
| masks drawn at random (`DataCollatorForLanguageModeling(mlm=True)`) | each pass would have other targets |
| `restore_callback_states_from_checkpoint=True` | replaces rehearsal's callback |

Where a loss inside a kernel shows no logits, or those of some positions only, predictions are read off the input of the
model's head ([how](decisions/correctness.md#losses-that-show-no-logits)). The rows above are stand-ins that return what
Liger's fused loss, Unsloth and ms-swift's `logits_to_keep` return in training. The kernels themselves need a GPU and
were not run.

Not run, and warned of once: FSDP, DeepSpeed. Not run at all: several GPUs, 4-bit base models, Triton kernels.

On one GPU the tests of the trainers are run by hand, as CONTRIBUTING says: this suite passed for all of these trainers
on an NVIDIA H200 (PyTorch 2.11, 26 November 2026).
"""


def main() -> None:
    """Run the suite on every trainer, and write the page."""
    rows, noise, names = [], [], list[str]()
    for name, make in TRAINERS.items():
        make_trainer, make_prior, correctness = make()
        with tempfile.TemporaryDirectory() as folder:
            results = check_trainer(make_trainer, make_prior(), Path(folder), correctness=correctness)
            rate = measure_false_damage(make_trainer, make_prior(), Path(folder), correctness=correctness)
        noise.append(f"| {name} | {rate:.0%} |")
        names = [result.name for result in results]
        rows.append(f"| {name} | {' | '.join(map(_show, results))} |")
        sys.stdout.write(f"{rows[-1]}\n")
    head = [f"| trainer and task | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    faults = [f"*{trainer}*, {check}: {reason}." for (trainer, check), reason in KNOWN_FAULTS.items()]
    table = [*head, *rows, "", *faults, "", NOISE, *noise]
    page = INTRODUCTION + "\n".join(table) + "\n" + show_examples() + STREAMS + REFUSED
    with replace_file(DOCS / "support.md") as unfinished:
        unfinished.write_text(page, "utf-8")


def _show(result: CheckResult) -> str:
    return "yes" if result.passed else "no"


if __name__ == "__main__":
    main()
