#!/usr/bin/env bash
# datasets 5.2.0: a stream that is shuffled with a seed comes in another order from a `DataLoader` with one worker than
# from one with none, and each order is the same every time. A single worker has the stream to itself, and one would
# guess that the seed decides the order. So a run that is resumed with another number of workers reads other rows.
# Seen: "no worker: [9, 0, 8, 1, 17, 18] one worker: [23, 9, 24, 16, 0, 1], each the same twice".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 torch==2.13.0
cat > "$work/read.py" <<'PY'
import datasets
from torch.utils.data import DataLoader


def read(stream, worker_count):
    return [row["x"] for row in DataLoader(stream, batch_size=None, num_workers=worker_count)]


if __name__ == "__main__":
    rows = datasets.Dataset.from_dict({"x": list(range(30))})
    stream = rows.to_iterable_dataset(num_shards=4).shuffle(seed=1, buffer_size=8)
    none, one = read(stream, 0), read(stream, 1)
    if (none, one) != (read(stream, 0), read(stream, 1)):
        raise SystemExit("an order differs from one reading to the next now")
    if none == one or sorted(none) != sorted(one):
        raise SystemExit(f"it changed: {none}, {one}")
    print(f"no worker: {none[:6]} one worker: {one[:6]}, each the same twice")
PY
HF_DATASETS_CACHE="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore "$work/read.py"
