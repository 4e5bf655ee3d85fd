"""Translation of a user interface: a small encoder-decoder, trained from scratch, learns one more language.

    mixcd sweep benchmarks/sweeps/translation.toml

The prior task is English to French, Spanish and German; the new one English to Italian. The pairs are the short texts
of a home automation's interface; a text is held out in all languages at once. The base model is a T5 of two layers on
each side, trained on the prior pairs; source texts start with a token that names the language, and the prior data
have a column of it to partition by.

Of `home-assistant-frontend`, which states Apache-2.0.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import sacrebleu
import torch
from base_model import train_base_model
from datasets import Dataset
from package_files import Package, cache_folder, read_member
from text_pool import TextPool
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.matter.correctness import EachToken, RightTokens
from mixcd.words.files import replace_file

VERSIONS = {
    "en": "94909bac5e64e02325a35ce1e634366a",
    "fr": "7b39730f10fcbe5706da2ffebf2dbe2d",
    "es": "d820e789d1110327648ab9764aa9fede",
    "de": "cba7defc692673637a96b70570ceef07",
    "it": "90a0d6efcc3c3274c6f0700befa25cde",
}
"""The languages' files carry these names."""
PRIOR_LANGUAGES, NEW_LANGUAGE = ("fr", "es", "de"), "it"
_PARTS = ("", "config/", "developer-tools/", "lovelace/", "page-onboarding/", "profile/")


def _member(part: str, language: str) -> str:
    return f"hass_frontend/static/translations/{part}{language}-{VERSIONS[language]}.json"


HOME_ASSISTANT = Package(
    requirement="home-assistant-frontend==20250109.2",
    archive="home_assistant_frontend-20250109.2-py3-none-any.whl",
    sha256="8c4f3e4336147ed405b86809baf15823367d0ec105a0da4f4bde168e693bdd2b",
    members=tuple(_member(part, language) for part in _PARTS for language in VERSIONS),
)
MOST_WORDS = 8
VOCABULARY = 1500
HELD_OUT, NEW_HELD_OUT = 2400, 800
MEASURED = 300
"""Rows of each task that are translated freely, for BLEU and chrF."""
BASE_STEPS = 4000
WIDTH = 160
TOKEN_HELD_OUT, TOKEN_NEW_HELD_OUT = 1600, 600
TOKEN_WIDTH = 96
TOKEN_TRAINING: Mapping[str, Any] = MappingProxyType({"max_steps": 100, "per_device_train_batch_size": 32})
TOKEN_BASE_TRAINING = {"max_steps": 1200, "per_device_train_batch_size": 32, "warmup_steps": 100, "learning_rate": 3e-3}
"""Of the runs under damage by token, which were made on one processor core."""
LEAST_SHARE = 0.7
"""Of the tokens: then a good half of the prior pairs are right, of all tokens a sixth."""
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 200,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
)
BASE_TRAINING = {
    "max_steps": BASE_STEPS,
    "per_device_train_batch_size": 64,
    "warmup_steps": 200,
    "learning_rate": 2e-3,
}


def interface(seed: int, folder: Path) -> SweepTask:
    """English to French, Spanish and German, then to Italian."""
    tokenizer = _tokenizer()
    prior, held_out_prior = _split(PRIOR_LANGUAGES, HELD_OUT, seed)
    new, held_out_new = _split((NEW_LANGUAGE,), NEW_HELD_OUT, seed)
    collate_fn = DataCollatorForSeq2Seq(tokenizer)
    place = folder / f"base-translation-{seed}"
    train_base_model(place, _make_model, prior, {**TRAINING, **BASE_TRAINING, "seed": seed}, collate_fn)
    measured = {name: _last(rows) for name, rows in (("prior", held_out_prior), ("new", held_out_new))}
    return SweepTask(
        model=T5ForConditionalGeneration.from_pretrained(place),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
        collate_fn=collate_fn,
        processing_class=tokenizer,
        correctness=RightTokens(LEAST_SHARE),
        measure=lambda model: _measure(model, measured),
    )


def interface_by_token(seed: int, folder: Path) -> SweepTask:
    """The same under damage by token, with a narrower model and fewer steps.

    Seeds 0 to 99 share a base model and what is held out, and so do seeds 100 to 199: tuning seeds start from one,
    fresh ones from another. Within a hundred, seeds differ in the order of the data, the draws and dropout.
    """
    base_seed = seed - seed % 100
    tokenizer = _tokenizer()
    prior, held_out_prior = _split(PRIOR_LANGUAGES, TOKEN_HELD_OUT, base_seed)
    new, held_out_new = _split((NEW_LANGUAGE,), TOKEN_NEW_HELD_OUT, base_seed)
    collate_fn = DataCollatorForSeq2Seq(tokenizer)
    place = folder.parent / f"base-translation-{base_seed}"
    base_training = {**TRAINING, **TOKEN_BASE_TRAINING, "seed": base_seed}
    train_base_model(place, lambda: _make_model(TOKEN_WIDTH), prior, base_training, collate_fn)
    return SweepTask(
        model=T5ForConditionalGeneration.from_pretrained(place),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training={**TRAINING, **TOKEN_TRAINING},
        collate_fn=collate_fn,
        processing_class=tokenizer,
        correctness=EachToken(),
    )


def pair_texts(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair the texts of two nested mappings by their keys.

    Args:
        source: English texts.
        target: Their translations.

    Returns:
        The pairs, each once, in order; those that are long or not translated are left out.
    """
    translations = dict(_flatten(target))
    pairs = [(text, translations.get(key)) for key, text in _flatten(source)]
    kept = [(a, b) for a, b in pairs if b and a and a != b and len(a.split()) <= MOST_WORDS]
    return sorted(set(kept))


def _flatten(texts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{above}{key}.")
        elif isinstance(value, str):
            yield above + key, value


@cache
def _read_pairs(language: str) -> Sequence[tuple[str, str]]:
    source, target = (
        {part: json.loads(read_member(HOME_ASSISTANT, _member(part, one))) for part in _PARTS}
        for one in ("en", language)
    )
    return pair_texts(source, target)


@cache
def _tokenizer() -> Any:
    """Byte pairs of all languages' texts, learnt once."""
    file = cache_folder() / f"translation-tokenizer-{VOCABULARY}.json"
    if not file.exists():
        whole = Tokenizer(models.BPE())
        whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        whole.decoder = decoders.ByteLevel()
        special = ["<pad>", "</s>", *(f"<{language}>" for language in VERSIONS)]
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        texts = (
            text for language in (*PRIOR_LANGUAGES, NEW_LANGUAGE) for pair in _read_pairs(language) for text in pair
        )
        whole.train_from_iterator(texts, trainer)
        whole.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", whole.token_to_id("</s>"))]
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as unfinished:
            whole.save(str(unfinished))
    return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<pad>", eos_token="</s>")  # noqa: S106


def _split(languages: tuple[str, ...], held_out_count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Prepare the pairs of some languages: those to train on, and those held out, an English text in all or in none."""
    pairs = [(language, *pair) for language in languages for pair in _read_pairs(language)]
    texts: list[tuple[str, ...]] = [()] * len(pairs)
    labels = np.zeros(len(pairs), dtype=np.int64)
    groups = np.unique([source for _, source, _ in pairs], return_inverse=True)[1]
    pool = TextPool("translation", texts, labels, held_out_count, groups=groups)
    kept, held_out = pool.split(seed)
    return _prepare([pairs[row] for row in kept]), _prepare([pairs[row] for row in held_out])


def _prepare(pairs: Sequence[tuple[str, str, str]]) -> Dataset:
    tokenizer = _tokenizer()
    inputs = tokenizer([f"<{language}>{source}" for language, source, _ in pairs])
    targets = tokenizer([target for _, _, target in pairs])
    return Dataset.from_dict(
        {
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "labels": targets["input_ids"],
            "language": [language for language, _, _ in pairs],
        }
    )


def _last(rows: Dataset) -> Dataset:
    """Some rows of the test half."""
    return rows.select(range(len(rows) - min(MEASURED, len(rows) // 2), len(rows)))


def _make_model(width: int = WIDTH) -> T5ForConditionalGeneration:
    tokenizer = _tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_ff=3 * width,
        d_kv=width // 4,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
        dropout_rate=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def _measure(model: torch.nn.Module, measured: Mapping[str, Dataset]) -> dict[str, float]:
    """Translate freely, greedily; BLEU and chrF of the corpus, from 0 to 1."""
    scores = {}
    for name, rows in measured.items():
        found, wanted = translate(model, rows), [_decode(labels) for labels in rows["labels"]]
        scores[f"{name}_bleu"] = sacrebleu.corpus_bleu(found, [wanted]).score / 100
        scores[f"{name}_chrf"] = sacrebleu.corpus_chrf(found, [wanted]).score / 100
    return scores


@torch.no_grad()
def translate(model: Any, rows: Dataset, batch_size: int = 64) -> list[str]:
    """Translate prepared rows greedily.

    Args:
        model: An encoder-decoder.
        rows: Rows with `input_ids`.
        batch_size: How many at once.

    Returns:
        The translations.
    """
    tokenizer, found = _tokenizer(), []
    for start in range(0, len(rows), batch_size):
        batch = tokenizer.pad({"input_ids": rows[start : start + batch_size]["input_ids"]}, return_tensors="pt")
        made = model.generate(**batch.to(model.device), max_new_tokens=48, do_sample=False, num_beams=1)
        found += [_decode(tokens) for tokens in made.tolist()]
    return found


def _decode(tokens: Sequence[int]) -> str:
    return str(_tokenizer().decode(tokens, skip_special_tokens=True)).strip()
