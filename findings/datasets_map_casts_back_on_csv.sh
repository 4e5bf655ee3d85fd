#!/usr/bin/env bash
# datasets 5.2.0: texts of a CSV file are `large_string`, and a `map` that replaces such a column by lists of integers
# gets texts back; the same `map` on the same texts from a dict gives integers. So labels that a script has numbered are
# texts again, and its collator fails ("too many dimensions 'str'").
# Seen: "large_string -> large_string: ['1', '0']" and "string -> int64: [1, 0]".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0
printf 'sentence,label\nw1,yes\nw2,no\n' > "$work/x.csv"
HF_DATASETS_CACHE="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work/x.csv" <<'PY'
import sys

import datasets

datasets.disable_progress_bars()
number = {"yes": 1, "no": 0}
from_csv = datasets.load_dataset("csv", data_files=sys.argv[1])["train"]
from_dict = datasets.Dataset.from_dict({"sentence": ["w1", "w2"], "label": ["yes", "no"]})
kinds = []
for rows in (from_csv, from_dict):
    mapped = rows.map(lambda batch: {"label": [number[one] for one in batch["label"]]}, batched=True)
    kinds.append(mapped.features["label"].dtype)
    print(f"{rows.features['label'].dtype} -> {kinds[-1]}: {mapped['label'][:]}")
assert kinds == ["large_string", "int64"], kinds
PY
