"""The tutorial's data and model: short film reviews, and a BERT small enough to train on a CPU in seconds."""

import random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

FILMS = ["thriller", "comedy", "drama"]
PRAISE = {
    "thriller": ["unpredictable", "dark", "tense", "loud"],
    "comedy": ["funny", "witty", "charming", "silly"],
    "drama": ["moving", "honest", "subtle", "slow"],
    "car": ["safe", "quiet", "reliable", "roomy", "smooth", "sturdy"],
}
BLAME = {
    "thriller": ["safe", "quiet", "tame", "predictable"],
    "comedy": ["dull", "clumsy", "lame", "stale"],
    "drama": ["shallow", "cold", "vague", "hollow"],
    "car": ["unpredictable", "loud", "rusty", "thirsty", "cramped", "bumpy"],
}
FILLERS = ["it", "is", "this", "was", "really", "quite", "rather", "so", "very", "we", "found", "all", "of"]
WORDS = sorted({*FILLERS, *PRAISE, *(word for table in (PRAISE, BLAME) for said in table.values() for word in said)})


def make_tokenizer():
    """A tokenizer with a number for each word."""
    numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


TOKENIZER = make_tokenizer()


def make_reviews(kinds, count, seed):
    """Tokenised reviews with a label, 1 for praise and 0 for blame; one word in ten says the opposite."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        kind, label = rng.choice(kinds), rng.randrange(2)
        said = [rng.choice((PRAISE if (rng.random() < 0.9) == label else BLAME)[kind]) for _ in range(3)]
        rows.append({"text": " ".join([kind, *rng.sample(FILLERS, 2), *said]), "label": label, "kind": kind})
    return Dataset.from_list(rows).map(lambda row: TOKENIZER(row["text"]))


def make_model():
    """A small BERT with random weights."""
    set_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    return BertForSequenceClassification(BertConfig(vocab_size=len(TOKENIZER), num_labels=2, **sizes))


def make_trainer(model, reviews, folder, test=None):
    """A plain Hugging Face trainer; nothing in it is mixcd's."""
    args = TrainingArguments(
        folder,
        max_steps=200,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    return Trainer(model, args, train_dataset=reviews, eval_dataset=test, processing_class=TOKENIZER)
