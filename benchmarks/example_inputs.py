"""Tiny models, tokenizers, data files and metrics for the example scripts of transformers and TRL.

In each task a target follows from words by a rule; the new task has another rule on partly the same words, so that
fine-tuning damages some of what the base model knew. Every tenth row is noise.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

Row = dict[str, Any]
WORD_COUNT = 40
WORDS = [f"w{number}" for number in range(WORD_COUNT)]
NAMED = {
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
}
SPECIAL = [*NAMED.values(), "<user>", "<assistant>"]
GOOD = {"prior": "w3", "new": "w4"}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": len(SPECIAL) + WORD_COUNT,
    "max_position_embeddings": 64,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user> {{ message['content'] }} {% else %}"
    "<assistant> {% generation %}{{ message['content'] }} </s> {% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PAIRED = {"single": "<cls> $A <sep>", "pair": "<cls> $A <sep> $B:1 <sep>:1"}
ENDED = {"single": "$A </s>", "pair": "$A </s> $B </s>"}


def make_tokenizer(template: Mapping[str, str] | None = None) -> PreTrainedTokenizerFast:
    """One token a word, with the special tokens that the template names."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, NAMED["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        named = [(word, vocabulary[word]) for word in SPECIAL]
        tokenizer.post_processor = processors.TemplateProcessing(**template, special_tokens=named)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMED, chat_template=CHAT, model_max_length=64)


def save_bert(kind: Any, folder: Path, **more: Any) -> None:
    """Save an encoder of one kind and its tokenizer."""
    _save(kind(BertConfig(**SIZES, **STILL, **more)), make_tokenizer(PAIRED), folder)


def save_llama(folder: Path) -> None:
    """Save a causal language model and its tokenizer, which knows conversations."""
    config = LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=1)
    _save(LlamaForCausalLM(config), make_tokenizer(), folder)


def save_t5(folder: Path) -> None:
    """Save an encoder-decoder and its tokenizer."""
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(vocab_size=SIZES["vocab_size"], decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    _save(T5ForConditionalGeneration(config), make_tokenizer(ENDED), folder)


def save_vit(folder: Path) -> None:
    """Save an image classifier and its image processor."""
    sizes = {name: SIZES[name] for name in SIZES.keys() - {"vocab_size", "max_position_embeddings"}}
    config = ViTConfig(**sizes, **STILL, image_size=16, patch_size=8, num_labels=3)
    _save(ViTForImageClassification(config), ViTImageProcessor(size={"height": 16, "width": 16}), folder)


def _save(model: torch.nn.Module, processor: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


SAVE_MODEL: dict[str, Callable[[Path], None]] = {
    "classes": lambda folder: save_bert(BertForSequenceClassification, folder, num_labels=3),
    "answers": lambda folder: save_bert(BertForQuestionAnswering, folder),
    "tags": lambda folder: save_bert(BertForTokenClassification, folder, num_labels=3),
    "choices": lambda folder: save_bert(BertForMultipleChoice, folder),
    "pairs": save_t5,
    "tokens": save_llama,
    "images": save_vit,
}
"""A function from a folder to a model with random weights in it, by what the model predicts."""


def words(rng: np.random.Generator, task: str, count: int) -> list[int]:
    """Draw words: prior ones are 5 to 24, new ones 15 to 34."""
    low = 5 if task == "prior" else 15
    return list(map(int, rng.integers(low, low + 20, count)))


def shift_of(rng: np.random.Generator, task: str) -> int:
    """How a target follows from a word: otherwise in the new task, and arbitrarily in every tenth row."""
    return int(rng.integers(1, 9)) if rng.random() < 0.1 else {"prior": 1, "new": 2}[task]


def say(numbers: Sequence[int]) -> str:
    """Words as a text."""
    return " ".join(WORDS[number % WORD_COUNT] for number in numbers)


def class_row(rng: np.random.Generator, task: str) -> Row:
    """A text and its class."""
    drawn = words(rng, task, rng.integers(2, 7))
    return {"sentence": say(drawn), "label": (drawn[0] + shift_of(rng, task)) % 3}


def pair_class_row(rng: np.random.Generator, task: str) -> Row:
    """Two texts and the class of their pair."""
    first, second = words(rng, task, rng.integers(2, 5)), words(rng, task, rng.integers(1, 4))
    return {"sentence1": say(first), "sentence2": say(second), "label": (first[0] + shift_of(rng, task)) % 3}


def answer_row(rng: np.random.Generator, task: str) -> Row:
    """A question with its answer in a context, where it follows a word; some answers are a context's last word."""
    drawn = words(rng, task, rng.integers(4, 8))
    if rng.random() < 0.1:
        place, length = len(drawn) - 1, 1
    else:
        place, length = (drawn[0] + shift_of(rng, task)) % 3, int(rng.integers(1, 3))
    text = say(drawn[place : place + length])
    start = len(say([*drawn[:place], 0])) - len(say([0]))
    return {
        "id": str(rng.integers(10**9)),
        "question": say(drawn[:1]),
        "context": say(drawn),
        "answers": {"text": [text], "answer_start": [start]},
    }


def choice_row(rng: np.random.Generator, task: str) -> Row:
    """A context with four endings, of which the right one has the task's own word."""
    label = int(rng.integers(4))
    endings = [words(rng, task, 3) for _ in range(4)]
    good = int(rng.integers(4)) if rng.random() < 0.1 else label
    texts = [say(ending) + (f" {GOOD[task]}" if place == good else "") for place, ending in enumerate(endings)]
    named = {f"ending{place}": text for place, text in enumerate(texts)}
    return {"sent1": say(words(rng, task, 3)), "sent2": say(words(rng, task, 1)), **named, "label": label}


def tagged_row(rng: np.random.Generator, task: str) -> Row:
    """Words, and a tag of each."""
    drawn = words(rng, task, rng.integers(3, 8))
    shift = shift_of(rng, task)
    tags = [("O", "B-X", "B-Y")[(word + shift) % 3] for word in drawn]
    return {"tokens": say(drawn).split(), "ner_tags": tags}


def translated_row(rng: np.random.Generator, task: str) -> Row:
    """A text in two languages."""
    drawn, shift = words(rng, task, rng.integers(1, 3)), shift_of(rng, task)
    return {"translation": {"en": say(drawn), "fr": say([drawn[0] + shift])}}


def summary_row(rng: np.random.Generator, task: str) -> Row:
    """A text and its summary."""
    drawn = words(rng, task, rng.integers(1, 3))
    return {"text": say(drawn), "summary": say([drawn[0] + shift_of(rng, task)])}


def text_row(rng: np.random.Generator, task: str) -> Row:
    """A text whose words follow from each other."""
    return {"text": say(np.arange(12) * shift_of(rng, task) + words(rng, task, 1)[0])}


def chat_row(rng: np.random.Generator, task: str) -> Row:
    """A conversation of one question and its answer."""
    asked = words(rng, task, 1)[0]
    said = say([asked + shift_of(rng, task), asked])
    return {"messages": [{"role": "user", "content": say([asked])}, {"role": "assistant", "content": said}]}


def talk_row(rng: np.random.Generator, task: str) -> Row:
    """A conversation of one to three questions with their answers."""
    turns = (chat_row(rng, task)["messages"] for _ in range(rng.integers(1, 4)))
    return {"messages": [message for turn in turns for message in turn]}


def completion_row(rng: np.random.Generator, task: str) -> Row:
    """A prompt and its completion."""
    asked, answer = (message["content"] for message in chat_row(rng, task)["messages"])
    return {"prompt": asked, "completion": f" {answer}"}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a file by its ending: CSV, lines of text, SQuAD's JSON, or one JSON a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        elif path.suffix == ".txt":
            file.writelines(f"{row['text']}\n" for row in rows)
        elif "answers" in rows[0]:
            json.dump({"data": rows}, file)
        else:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)


def write_images(folder: Path, rng: np.random.Generator, task: str, count: int) -> None:
    """Write an image folder: a class is a colour, and other colours stand for the classes of the new task."""
    for place in range(count):
        colour = int(rng.integers(3))
        label = (colour + shift_of(rng, task)) % 3
        pixels = rng.integers(0, 80, (20, 20, 3), dtype=np.uint8)
        pixels[:, :, colour] += 150
        path = folder / "abc"[label] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


METRIC = """\
import datasets
import evaluate
import numpy as np

class Metric(evaluate.Metric):
    def _info(self):
        kinds = {{"predictions": {predictions}, "references": {references}}}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(kinds))

    def _compute(self, predictions, references, **settings):
        right = float(np.mean([{right} for said, true in zip(predictions, references)]))
        return {{name: right for name in {names}}}
"""
NUMBER, TEXT = "datasets.Value('int64')", "datasets.Value('string')"
TAGS = f"datasets.Sequence({TEXT})"
ANSWER = f"{{'id': {TEXT}, 'prediction_text': {TEXT}}}"
ANSWERS = f"{{'id': {TEXT}, 'answers': {{'text': {TAGS}, 'answer_start': datasets.Sequence({NUMBER})}}}}"
METRICS = {
    "accuracy": (NUMBER, NUMBER, "said == true", ["accuracy"]),
    "seqeval": (TAGS, TAGS, "said == true", [f"overall_{name}" for name in ("precision", "recall", "f1", "accuracy")]),
    "squad": (ANSWER, ANSWERS, "said['prediction_text'] in true['answers']['text']", ["exact_match", "f1"]),
    "sacrebleu": (TEXT, TAGS, "said in true", ["score"]),
    "rouge": (TEXT, TEXT, "said == true", ["rouge1"]),
}


def write_metrics(folder: Path) -> None:
    """Write local folders of metrics, each the share of right predictions under the names that the scripts read."""
    for metric, (predictions, references, right, names) in METRICS.items():
        (folder / metric).mkdir()
        code = METRIC.format(predictions=predictions, references=references, right=right, names=names)
        (folder / metric / f"{metric}.py").write_text(code, "utf-8")


def write_punkt(folder: Path) -> None:
    """Write the files by which NLTK splits sentences, with no abbreviation in them."""
    for name in ("punkt", "punkt_tab"):
        language = folder / "tokenizers" / name / "english"
        language.mkdir(parents=True)
        for file in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
            (language / file).write_text("", "utf-8")
