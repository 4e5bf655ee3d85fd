"""Memory and disk of `mixcd predict` on 10⁵ and 10⁶ short rows of made-up tokens.

Prints, for each number of rows, the peak of the process's resident memory, of the part of it that is its own (not
mapped from files, which the system takes back when it needs to), and the bytes a row of the prediction cache.

    python benchmarks/predict_memory.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

WORDS, CLASSES, LONGEST = 1000, 3, 16
ROW_GROUP = 10_000

CONFIG = """\
run = "run"
model.path = "base"
rehearsal.mix_ratio = 0.25
training = { use_cpu = true, per_device_eval_batch_size = 256, disable_tqdm = true }
[new]
path = "new.parquet"
[[prior]]
path = "prior.parquet"
held_out = 0.0
"""


def write_rows(path, count, seed):
    """Write rows of 4 to 16 tokens, in chunks, so that this process stays small, too."""
    rng = np.random.default_rng(seed)
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, ROW_GROUP):
            rows = min(ROW_GROUP, count - start)
            ends = np.concatenate([[0], np.cumsum(rng.integers(4, LONGEST + 1, rows))]).astype(np.int32)
            tokens = pa.array(rng.integers(2, WORDS, ends[-1]).astype(np.int32))
            lists = pa.ListArray.from_arrays(pa.array(ends), tokens)
            writer.write_table(pa.table({"input_ids": lists, "label": rng.integers(0, CLASSES, rows)}, schema=schema))


def write_model(folder):
    """Write a tiny classifier and a tokenizer that pads."""
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=LONGEST,
            num_labels=CLASSES,
        )
    )
    model.save_pretrained(folder)
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{number}": number for number in range(2, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)  # noqa: S106


def predict(folder):
    """Run the command; return its peak resident and own memory in MiB, and its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "mixcd", "predict", "config.toml"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "hf")}
    process = subprocess.Popen(command, cwd=folder, env=environment)  # noqa: S603
    peaks = {"VmHWM": 0, "RssAnon": 0}

    def watch():
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(rest.split()[0]) // 1024)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit("`mixcd predict` failed")
    watcher.join()
    return peaks["VmHWM"], peaks["RssAnon"], time.perf_counter() - start


def main():
    """Measure, and print one line a number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    found = []
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_model(folder / "base")
            write_rows(folder / "prior.parquet", rows, seed=0)
            write_rows(folder / "new.parquet", 1000, seed=1)
            (folder / "config.toml").write_text(CONFIG)
            resident, own, seconds = predict(folder)
            disk = sum(path.stat().st_size for path in (folder / "run" / "cache").iterdir()) / rows
        found.append((resident, own))
        print(f"{rows:>9,} rows: resident {resident} MiB, own {own} MiB, cache {disk:.1f} bytes a row, {seconds:.0f} s")
    for name, values in zip(("resident", "own"), zip(*found, strict=True), strict=True):
        print(f"{name}: last against first {values[-1] / values[0]:.3f}")


if __name__ == "__main__":
    main()
