"""Raw rows of a causal language model: prepared by TRL's `SFTTrainer`, as in training."""

import tempfile
import warnings
from copy import deepcopy
from typing import Any

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from mixcd.edge.model.model_place import reason_of
from mixcd.edge.task_kind.text_generation import import_trl
from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.words.errors import DataError, RehearsalError


def prepare_conversations(
    rows: Dataset, name: str, tokenizer: Any, max_length: int | None, longest: int | None, assistant_only_loss: bool
) -> Dataset:
    """Tokenise conversations, prompts with completions, or texts; mask what is no target.

    The trainer that does so is given a stand-in for the model: TRL fits the model that it gets with a head of its own.

    Args:
        rows: Raw rows, in one of TRL's formats.
        tokenizer: The models'; it is left as it was.
        max_length: The most tokens of a sample; by default TRL's own limit, or the longest input if that is less.
        longest: The longest input that tokenizer and model take, if they say.
        assistant_only_loss: Whether only what the assistant says is a target, as `SFTConfig` has it.

    Returns:
        Rows with `input_ids` and `labels`, in their order; those whose answer is cut off are left out, and named in
        the log.

    Raises:
        SettingError: If TRL is not installed.
        DataError: If TRL refuses the rows, or none has a target left.
    """
    trl = import_trl()
    limits = [limit for limit in (longest, trl.SFTConfig.max_length) if limit is not None]
    most = max_length or min(limits, default=None)
    with tempfile.TemporaryDirectory() as folder, fixed_random_numbers(0), warnings.catch_warnings(action="ignore"):
        args = trl.SFTConfig(
            folder, max_length=most, assistant_only_loss=assistant_only_loss, report_to="none", use_cpu=True, bf16=False
        )
        try:
            trainer = trl.SFTTrainer(
                model=_make_stand_in(),
                args=args,
                train_dataset=rows.select([0]),  # by which TRL knows the format
                processing_class=deepcopy(tokenizer),
            )
            return prepare_raw(trainer, rows, name)
        except (OSError, RehearsalError):
            raise
        except Exception as error:  # templates and TRL's checks raise almost anything
            raise DataError(
                f"TRL refuses to prepare `{name}`: {reason_of(error)} Correct the data, or the tokenizer's chat "
                "template."
            ) from error


def _make_stand_in() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    return LlamaForCausalLM(config)
