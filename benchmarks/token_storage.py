"""Bits that the prediction cache takes for each target token, over 10⁵ of them.

Made-up rows of log-normal length (σ = 1), all of whose tokens but the first are targets, for a small causal model with
the default rule. Counted are the files of bits, and the column `target_count` as the parts hold it, compressed; not the
loss and the other columns, which every task has.

    python benchmarks/token_storage.py --json benchmarks/results/token_storage.json
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models
from transformers import DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixcd.matter.base_model.prediction_cache import TARGET_COUNT
from mixcd.matter.base_model.prior_predictions import predict_prior
from side_by_side import describe_machine, make_parser, publish, say_machine

TOKENS = 100_000
MEDIANS = (16, 64, 256)
"""Median tokens a row."""
LONGEST, VOCABULARY = 2048, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": LONGEST,
}


def make_rows(median: int, rng: np.random.Generator) -> Dataset:
    """Make rows until they have as many target tokens as are wanted."""
    rows: list[list[int]] = []
    while sum(map(len, rows)) - len(rows) < TOKENS:
        length = int(np.clip(round(median * np.exp(rng.normal())), 2, LONGEST))
        rows.append(rng.integers(0, VOCABULARY, length).tolist())
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def measure(median: int) -> Mapping[str, float]:
    """Return the rows, the target tokens, and the bits that each takes in all and in the files of bits."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES)
    rows = make_rows(median, np.random.default_rng(0))
    words = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))  # noqa: S106
    collate_fn = DataCollatorForSeq2Seq(PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"))  # noqa: S106
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        found = predict_prior(LlamaForCausalLM(config), rows, cache, collate_fn=collate_fn, batch_size=16)
        assert found.right_tokens is not None  # noqa: S101
        tokens = int(found.right_tokens.counts.sum())
        bits = 8 * sum(path.stat().st_size for path in cache.glob("part-*.bits"))
        column = 8 * sum(_column_size(path) for path in cache.glob("part-*.parquet"))
    return {"rows": len(rows), "tokens": tokens, "bits": (bits + column) / tokens, "own_bits": bits / tokens}


def _column_size(part: Path) -> int:
    """The bytes of the counts of target tokens in a part."""
    groups = pq.ParquetFile(part).metadata
    columns = (
        groups.row_group(group).column(number)
        for group in range(groups.num_row_groups)
        for number in range(groups.num_columns)
    )
    return sum(column.total_compressed_size for column in columns if column.path_in_schema == TARGET_COUNT)


def main() -> None:
    """Measure, and print the figures."""
    settings = make_parser(__doc__).parse_args()
    disable_progress_bars()
    machine = describe_machine()
    say_machine(machine)
    figures = {str(median): measure(median) for median in MEDIANS}
    for median, one in figures.items():
        told = f"{one['tokens']:,} target tokens in {one['rows']:,} rows, {one['bits']:.3f} bits each"
        print(f"median of {median} tokens: {told}, {one['own_bits']:.3f} of them their own")
    publish(settings, machine, figures)


if __name__ == "__main__":
    main()
