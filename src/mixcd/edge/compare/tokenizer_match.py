"""Whether two tokenizers make the same tokens of the same text."""

import json
from typing import Any

from mixcd.words.errors import DataError, shorten

_OF_A_CALL = ("truncation", "padding", "added_tokens", "model", "version")
"""Settings of a tokenizer that do not say how a text is cut, or are compared by its tokens."""


def require_same_tokens(base: Any, tuned: Any) -> None:
    """Refuse a fine-tuned model whose tokenizer gives texts other tokens than the base model's.

    Tokens that were added for the new task are no difference: prior texts are made of the base model's.

    Raises:
        DataError: If they differ; says in what.
    """
    if base is None or tuned is None:
        return
    known, others = base.get_vocab(), tuned.get_vocab()
    moved = [token for token, number in known.items() if others.get(token) != number]
    if moved:
        named = shorten((f"`{token}`" for token in moved), 3)
        raise DataError(
            f"The models have different tokenizers: the fine-tuned model numbers {named} differently from the base "
            "model, or lacks it. Both are given the same tokens. Name a model that was fine-tuned from the base model."
        )
    changed = [name for name, value in _settings_of(base).items() if _settings_of(tuned).get(name) != value]
    if changed:
        raise DataError(
            f"The models have different tokenizers: their {' and '.join(f'`{name}`' for name in changed)} differ. Both "
            "are given the same tokens. Name a model that was fine-tuned from the base model, or save the base model's "
            "tokenizer with it."
        )


def _settings_of(tokenizer: Any) -> dict[str, Any]:
    """How a text is cut, for tokenizers that say so."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    settings = {} if backend is None else json.loads(backend.to_str())
    return {name: value for name, value in settings.items() if name not in _OF_A_CALL}
