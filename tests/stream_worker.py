"""One process of `test_streamed_data.py`: trains on a stream, and writes what it read and trained on."""

import argparse
import json
import os
from pathlib import Path

import torch
from datasets.distributed import split_dataset_by_node
from transformers import Trainer

import mixcd
from mixcd.matter.base_model.model_fingerprint import fingerprint_weights
from mixcd.words.errors import RehearsalError
from streams import CountingStream
from tiny import make_model, make_rows, make_trainer, record_blocks

STEPS = 12


class RecordingTrainer(Trainer):
    """Writes down the tokens of every micro-batch."""

    trained: list

    def training_step(self, model, inputs, *rest, **named):
        self.trained.append(inputs["input_ids"].tolist())
        return super().training_step(model, inputs, *rest, **named)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulation", type=int)
    parser.add_argument("--resume", type=int)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--mix-ratio", type=float, default=0.25)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--split", action="store_true", help="give each process other rows of the stream")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = make_rows(args.rows, seed=2, task="new")
    stream = rows.to_iterable_dataset(num_shards=4) if args.workers or args.split else CountingStream(rows)
    if args.split:
        stream = split_dataset_by_node(stream, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    trainer = make_trainer(
        make_model(dropout=0.0),
        stream,
        args.folder,
        RecordingTrainer,
        max_steps=STEPS,
        gradient_accumulation_steps=args.accumulation,
        per_device_train_batch_size=args.batch,
        dataloader_num_workers=args.workers,
        save_strategy="steps",
        save_steps=6,
        ddp_backend="gloo",
    )
    trainer.trained = []
    result = {"error": "", "rank": trainer.args.process_index}
    try:
        rehearsal = mixcd.attach(trainer, make_rows(300, seed=1, task="prior"), mix_ratio=args.mix_ratio)
        blocks = record_blocks(rehearsal, STEPS)
        result |= {"blocks": blocks, "new_count": rehearsal._loop.plan.new_count}
        trainer.train(resume_from_checkpoint=args.resume and str(args.folder / f"checkpoint-{args.resume}"))
    except RehearsalError as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result |= {
        "steps_done": trainer.state.global_step,
        "trained": trainer.trained,
        "read": stream.counts[-1] if isinstance(stream, CountingStream) else None,
        "weights": fingerprint_weights(trainer.model),
    }
    (args.folder / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.barrier()  # no process leaves while another still talks to it
    torch.distributed.destroy_process_group()
    os._exit(0)  # what was asked is written; gloo's threads now and then abort a process that ends by itself


if __name__ == "__main__":
    main()
