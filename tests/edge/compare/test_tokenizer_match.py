import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mixcd.edge.compare.tokenizer_match import require_same_tokens
from mixcd.words.errors import DataError


def make_tokenizer(words=("[PAD]", "[UNK]", "a", "b"), normalizer=None):
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def test_the_same_tokenizer_passes_and_so_does_none():
    require_same_tokens(make_tokenizer(), make_tokenizer())
    require_same_tokens(None, make_tokenizer())
    require_same_tokens(make_tokenizer(), None)


def test_how_a_tokenizer_was_last_called_makes_no_difference():
    called = make_tokenizer()
    called(["a b a b"], truncation=True, max_length=2, padding=True)
    require_same_tokens(make_tokenizer(), called)


def test_tokens_that_were_added_make_no_difference():
    more = make_tokenizer()
    more.add_tokens(["new"])
    more.add_special_tokens({"eos_token": "<end>"})
    require_same_tokens(make_tokenizer(), more)


def test_tokens_with_other_numbers_are_named():
    other = make_tokenizer(("[PAD]", "[UNK]", "b", "a"))
    with pytest.raises(
        DataError, match="the fine-tuned model numbers `(a`, `b|b`, `a)` differently from the base model"
    ):
        require_same_tokens(make_tokenizer(), other)


def test_another_way_to_cut_texts_is_named():
    with pytest.raises(DataError, match="different tokenizers: their `normalizer` differ"):
        require_same_tokens(make_tokenizer(), make_tokenizer(normalizer=normalizers.Lowercase()))
