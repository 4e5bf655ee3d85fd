"""Three stages of question answering through `mixcd train`: Wikipedia, then news, then Reddit, each on the last.

    python benchmarks/stages.py
    python benchmarks/stages.py --seeds 100 --ways uniform --base-steps 20 --steps 5    # a trial

A base model learns questions on Wikipedia. Stage one fine-tunes it on news, with Wikipedia as prior data; stage two
fine-tunes the product of stage one on Reddit, with Wikipedia and news as prior data. Both are runs of `mixcd train`, so
the record of the second tells the lineage of its base model. Plain fine-tuning, without rehearsal, is the same two
stages by `transformers.Trainer`. Finished stages are found again in `benchmarks/work/stages/`.

Prints, for each way to rehearse, the share of held-out answers found exactly (R[t, i] of the last stage), average,
backward transfer and forgetting over seeds. The data are of `bigbench`: see `tasks/task_data.py`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding

from mixcd.edge.config.config import Config
from mixcd.edge.demo.demo_data import find_minilm
from mixcd.edge.stages.ledger import Ledger, make_ledger
from mixcd.edge.train.arguments import make_arguments
from mixcd.edge.train.setup import set_up
from mixcd.edge.train.training_run import run_training
from mixcd.matter.correctness import RightSpan
from mixcd.matter.prior_and_new_data.preparation.spans import SpanColumns, prepare_spans
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trainer_predictions import predict_now
from side_by_side import make_parser, publish

sys.path.insert(0, str(Path(__file__).parent / "tasks"))

import answers
from base_model import train_base_model
from package_files import read_member
from task_data import BIGBENCH, TASK_FOLDER
from text_pool import TextPool

HERE = Path(__file__).parent
SOURCES: Mapping[str, Sequence[str]] = {
    "wikipedia": ("squaddev_v1.1", "new_wiki_v1.0"),
    "news": ("nyt_v1.0",),
    "reddit": ("reddit_v1.0",),
}
"""The stages' tasks, in order; the first is the base model's."""
MOST_TOKENS, LAYERS, HELD_OUT = 128, 3, 1000
MIX_RATIO = 0.125
TRAINING = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "learning_rate": 2e-4,
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
PLAIN = "none"


def write_data(folder: Path, seed: int) -> None:
    """Write each task's questions to train on, and those held out, passages whole, in SQuAD's columns."""
    for name, sources in SOURCES.items():
        contents = [read_member(BIGBENCH, f"{TASK_FOLDER}/squad_shifts/{source}.json") for source in sources]
        asked = answers.read_questions(contents)
        groups = np.unique([one.group for one in asked], return_inverse=True)[1]
        pool = TextPool(name, [()] * len(asked), np.zeros(len(asked), dtype=np.int64), HELD_OUT, groups=groups)
        for part, chosen in zip(("train", "held-out"), pool.split(seed), strict=True):
            rows = [_to_row(asked[number]) for number in chosen]
            Dataset.from_list(rows).to_parquet(folder / f"{name}-{part}.parquet")


def _to_row(one: answers.Question) -> dict[str, Any]:
    place = {"text": [one.passage[one.start : one.stop]], "answer_start": [one.start]}
    return {"question": one.text, "context": one.passage, "answers": place}


def make_base_model(folder: Path, seed: int, steps: int) -> None:
    """Train the base model on the first task, and save it with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(find_minilm())
    first = next(iter(SOURCES))
    data = Dataset.from_parquet(str(folder / f"{first}-train.parquet"))
    rows = prepare_spans(data, name=first, columns=SpanColumns(), tokenizer=tokenizer, max_length=MOST_TOKENS)
    train_base_model(
        folder / "base",
        lambda: AutoModelForQuestionAnswering.from_pretrained(find_minilm(), num_hidden_layers=LAYERS),
        rows,
        {**TRAINING, "max_steps": steps, "seed": seed, "save_strategy": "no"},
        DataCollatorWithPadding(tokenizer),
    )
    tokenizer.save_pretrained(folder / "base")


def make_config(folder: Path, way: str, stage: int, seed: int, steps: int) -> Config:
    """Return the config of a stage: its base model is the product of the stage before."""
    names = list(SOURCES)

    def describe(name: str) -> dict[str, Any]:
        return {
            "path": str(folder / f"{name}-train.parquet"),
            "held_out": {"path": str(folder / f"{name}-held-out.parquet")},
        }

    return Config.model_validate(
        {
            "run": str(folder / way / names[stage]),
            "task": "question-answering",
            "model": {
                "path": str(folder / "base" if stage == 1 else folder / way / names[stage - 1] / "model"),
                "max_length": MOST_TOKENS,
            },
            "new": describe(names[stage]),
            "prior": [{"name": name, **describe(name)} for name in names[:stage]],
            "rehearsal": {"mix_ratio": MIX_RATIO, "estimator": "auto" if way == PLAIN else way},
            "training": {**TRAINING, "max_steps": steps, "seed": seed},
        }
    )


def run_stage(config: Config, way: str) -> list[float]:
    """Run a stage, or find it finished; return the score on each task so far, the new one last, after it."""
    if way == PLAIN:
        return _run_plain(config)
    run_training(config, resume=config.run_folder.joinpath("run.json").exists(), overwrite=False, say=lambda _: None)
    found = json.loads(config.run_folder.joinpath("evaluation.json").read_text("utf-8"))
    prior = found.get("prior_sets") or {config.prior[0].name: found["prior"]}
    return [*(prior[one.name]["score_after"] for one in config.prior), found["new"]["score_after"]]


def _run_plain(config: Config) -> list[float]:
    kept = config.run_folder / "scores.json"
    if not kept.exists():
        setup = set_up(config, make_arguments(config))
        setup.trainer.train()
        model: Any = setup.trainer.model
        model.save_pretrained(config.run_folder / "model")
        tokenizer: Any = setup.trainer.processing_class
        tokenizer.save_pretrained(config.run_folder / "model")
        kept.write_text(json.dumps(_score(setup.trainer, setup.held_out_prior, setup.trainer.eval_dataset)), "utf-8")
    scores: list[float] = json.loads(kept.read_text("utf-8"))
    return scores


def _score(trainer: Any, prior: Any, new: Any) -> list[float]:
    every = [*(prior.values() if isinstance(prior, Mapping) else [prior]), new]
    data = [PriorDataset(rows) for rows in every]
    return [float(predict_now(trainer, rows, RightSpan())["correct"].mean()) for rows in data]


def run_chain(way: str, seed: int, settings: Any) -> Ledger:
    """Run all stages of one way to rehearse and seed."""
    folder = HERE / "work" / "stages" / f"{seed}-{settings.base_steps}-{settings.steps}"
    if not (folder / "base").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_data(folder, seed)
    make_base_model(folder, seed, settings.base_steps)
    count = len(SOURCES)
    scores = np.full((count, count), np.nan)
    for stage in range(1, count):
        config = make_config(folder, way, stage, seed, settings.steps)
        scores[stage, : stage + 1] = run_stage(config, way)
        if stage == 1:
            scores[0, 0] = _score_base(config)
    return make_ledger(scores, tuple(SOURCES))


def _score_base(config: Config) -> float:
    kept = config.run_folder.parents[1] / "base-score.json"
    if not kept.exists():
        setup = set_up(config, make_arguments(config))
        kept.write_text(json.dumps(_score(setup.trainer, setup.held_out_prior, setup.trainer.eval_dataset)[0]), "utf-8")
    score: float = json.loads(kept.read_text("utf-8"))
    return score


def main() -> None:
    """Run every way and seed, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102], help="reporting seeds")
    parser.add_argument("--ways", nargs="+", default=[PLAIN, "uniform", "paper", "drift"], help="how to rehearse")
    parser.add_argument("--base-steps", type=int, default=800, help="steps of the base model")
    parser.add_argument("--steps", type=int, default=200, help="steps of a stage")
    settings = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    figures = {}
    for way in settings.ways:
        ledgers = [run_chain(way, seed, settings) for seed in settings.seeds]
        figures[way] = {
            "last": [ledger.scores[-1].tolist() for ledger in ledgers],
            "average": [ledger.average for ledger in ledgers],
            "backward_transfer": [ledger.backward_transfer for ledger in ledgers],
            "forgetting": [ledger.forgetting for ledger in ledgers],
        }
        told = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in figures[way].items() if name != "last")
        last = " ".join(f"{score:.3f}" for score in np.mean(figures[way]["last"], axis=0))
        print(f"{way}: last stage {last}; {told}")
    publish(settings, {}, figures)


if __name__ == "__main__":
    main()
