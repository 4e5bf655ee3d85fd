"""Frozen features of texts: MiniLM's last states averaged over tokens, computed once and kept."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from package_files import cache_folder
from safetensors.torch import load_file, save_file
from text_pool import TextPool
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from mixcd.edge.demo.demo_data import find_minilm
from mixcd.matter.base_model.batched_inference import batch_by_tokens
from mixcd.words.files import replace_file

MAX_TOKENS = 64
_BATCH_SIZE = 32
_DIGITS = 12


def features_of(pool: TextPool) -> torch.Tensor:
    """Return a pool's features, from the cache when they were computed before.

    A second process that asks meanwhile waits for the first.

    Args:
        pool: The texts.

    Returns:
        Shape (rows, 384), or twice as many for pairs that are compared, in single precision; they were rounded to half
        precision in the cache.
    """
    file = _file_of(pool)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            compute = compare_features if pool.is_compared else compute_features
            features = compute(pool.texts, pool.name).half()
            with replace_file(file) as unfinished:
                save_file({"features": features}, unfinished)
    return load_file(file)["features"].float()


def compute_features(texts: Sequence[tuple[str, ...]], name: str) -> torch.Tensor:
    """Average MiniLM's last hidden states over the tokens of each text, or of each pair of texts.

    Args:
        texts: One text, or a pair, a row.
        name: What the progress bar is called.

    Returns:
        Shape (rows, 384).
    """
    tokenizer = AutoTokenizer.from_pretrained(find_minilm())
    model = AutoModel.from_pretrained(find_minilm()).eval()
    rows = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=MAX_TOKENS)
    lengths = [len(ids) for ids in rows["input_ids"]]
    features = torch.empty(len(lengths), model.config.hidden_size)
    with torch.inference_mode(), tqdm(total=len(lengths), desc=f"features of {name}", disable=None) as bar:
        for numbers in batch_by_tokens(lengths, _BATCH_SIZE):
            batch = tokenizer.pad({key: [rows[key][n] for n in numbers] for key in rows}, return_tensors="pt")
            features[torch.from_numpy(numbers)] = _average(model, batch)
            bar.update(numbers.size)
    return features


def compare_features(pairs: Sequence[tuple[str, ...]], name: str) -> torch.Tensor:
    """Tell how the two texts of each pair differ: |u − v| and u · v of their features u and v.

    Args:
        pairs: A pair of texts a row; a text that occurs again is not computed again.
        name: What the progress bar is called.

    Returns:
        Shape (rows, 768).
    """
    texts = sorted({text for pair in pairs for text in pair})
    number_of = {text: number for number, text in enumerate(texts)}
    features = compute_features([(text,) for text in texts], name)
    first, second = (features[[number_of[text] for text in side]] for side in zip(*pairs, strict=True))
    return torch.cat([(first - second).abs(), first * second], dim=1)


def _average(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    mask = batch["attention_mask"][..., None]
    return (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def _file_of(pool: TextPool) -> Path:
    recipe = f"{MAX_TOKENS} {list(pool.texts)!r}{' compared' * pool.is_compared}"
    digest = hashlib.sha256(recipe.encode("utf-8", "surrogatepass")).hexdigest()
    return cache_folder() / "features" / f"{pool.name}-{digest[:_DIGITS]}.safetensors"
