"""Building what a config asks for: data, model, tokenizer, trainer."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from mixcd.config import Config, DataConfig, HeldOutConfig, ModelConfig
from mixcd.data_preparation import ColumnNames, prepare_rows, split_held_out
from mixcd.data_source import open_data
from mixcd.errors import SettingError, shorten

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json")
_NO_LIMIT = 10**9  # tokenizers without a limit say 10³⁰


@dataclass(frozen=True)
class RunSetup:
    """What a config asked for.

    Args:
        trainer: The trainer, with the base model and the new data.
        prior: Prepared prior data; by name when there are several.
        held_out_prior: Prepared held-out prior data, likewise; None when nothing is held out.
        draw_seed: The seed of the draws and of the held-out split.
    """

    trainer: Trainer
    prior: Any
    held_out_prior: Any
    draw_seed: int


def set_up(config: Config, arguments: TrainingArguments) -> RunSetup:
    """Build data, model, tokenizer and trainer; nothing is written to the run folder.

    Args:
        config: The config.
        arguments: Its TrainingArguments.

    Returns:
        What was built.

    Raises:
        SettingError: If the model or tokenizer cannot be loaded, or is no classifier.
        DataError: If data cannot be read or prepared.
    """
    model = load_model(config.model, config.model.path)
    tokenizer = _load_tokenizer(config.model)
    draw_seed = _first(config.rehearsal.seed, arguments.data_seed, arguments.seed)
    max_length = _first(config.model.max_length, _longest(tokenizer, model))
    tokenizing = deepcopy(tokenizer)  # a call leaves its truncation in the tokenizer; the one that is saved has none

    def prepare(source: DataConfig, place: str, number: int) -> tuple[Dataset, Dataset | None]:
        label_ids: Any = model.config.label2id
        return _prepare(source, place, number, label_ids, tokenizing, max_length, draw_seed)

    with arguments.main_process_first(local=True, desc="preparing the data"):
        new, held_out_new = prepare(config.new, "new", 0)
        prior = {
            source.name or "prior": prepare(source, f"prior.{number}", number + 1)
            for number, source in enumerate(config.prior)
        }
    try:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=new,
            eval_dataset=held_out_new,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
    except ValueError as error:
        raise SettingError(
            f"transformers refuses to build a Trainer: {' '.join(str(error).split())}. Correct the config's `training`."
        ) from error
    held_out_prior = {name: held_out for name, (_, held_out) in prior.items() if held_out is not None}
    return RunSetup(
        trainer=trainer,
        prior=_only({name: rows for name, (rows, _) in prior.items()}),
        held_out_prior=_only(held_out_prior) if held_out_prior else None,
        draw_seed=draw_seed,
    )


def load_model(config: ModelConfig, path: str | Path) -> PreTrainedModel:
    """Load a sequence classifier.

    Args:
        config: How; the base model's.
        path: Folder or hub name.

    Returns:
        The model.

    Raises:
        SettingError: If there is none, or it has no trained classification head.
    """
    place = Path(path).expanduser()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            str(place) if place.exists() else str(path),
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise SettingError(
            f"`model.path` is `{path}`, but no model can be loaded from there: {_first_line(error)}. Name a folder "
            "written by `save_pretrained`, or a model on the hub that can be reached."
        ) from error
    if report["missing_keys"]:
        raise SettingError(
            f"The model `{path}` has no trained weights for {shorten(sorted(report['missing_keys']), 3)}, so it does "
            "not know the prior task yet. Fine-tune it on the prior task first, and name that model."
        )
    return model  # type: ignore[no-any-return]


def _load_tokenizer(config: ModelConfig) -> Any:
    path = config.tokenizer or config.path
    place = Path(path).expanduser()
    if place.is_dir() and not any(any(place.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise SettingError(
            f"The folder `{path}` has no tokenizer: none of {shorten(_TOKENIZER_FILES, 9)} is there. Inputs are made "
            "and padded by the model's tokenizer. Set `model.tokenizer` to a folder or hub name that has it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(place) if place.exists() else path, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise SettingError(
            f"No tokenizer can be loaded from `{path}`: {_first_line(error)}. Set `model.tokenizer` to a folder or hub "
            "name that has it."
        ) from error
    if tokenizer.pad_token is None:
        raise SettingError(
            f"The tokenizer `{path}` has no padding token, but samples of several lengths share a batch. Set its "
            "`pad_token` and save it again."
        )
    return tokenizer


def _prepare(
    source: DataConfig,
    place: str,
    number: int,
    label_ids: dict[str, int],
    tokenizer: Any,
    max_length: int | None,
    seed: int,
) -> tuple[Dataset, Dataset | None]:
    """Open and prepare one data set: the rows to train on, and those held out."""

    def open_rows(path: str | list[str], split: str | None, subset: str | None, name: str) -> Dataset:
        return prepare_rows(
            open_data(path, name=name, split=split, subset=subset),
            name=name,
            columns=ColumnNames(**source.columns.model_dump()),
            label_ids=label_ids,
            tokenizer=tokenizer,
            max_length=max_length,
        )

    rows = open_rows(source.path, source.split, source.subset, f"{place}.path")
    held_out = source.held_out
    if not isinstance(held_out, HeldOutConfig):
        return split_held_out(rows, held_out, seed=seed, number=number, name=f"{place}.path")
    path = held_out.path or source.path
    subset = held_out.subset if held_out.path or held_out.subset else source.subset
    return rows, open_rows(path, held_out.split, subset, f"{place}.held_out")


def _only(named: dict[str, Dataset]) -> Any:
    """One data set alone, several by name."""
    return named if len(named) > 1 else next(iter(named.values()))


def _longest(tokenizer: Any, model: PreTrainedModel) -> int | None:
    """The longest input that tokenizer and model both take, when either says."""
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)


def _first(*values: int | None) -> Any:
    return next((value for value in values if value is not None), None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
