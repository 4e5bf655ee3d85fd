"""`Config`: what `mixcd train` is asked to do, checked as a whole before anything runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mixcd.edge.config.data_config import DataConfig, PriorConfig, Task, find_foreign_columns
from mixcd.edge.config.named_settings import make_settings
from mixcd.edge.config.toml_file import Section, read_section
from mixcd.ideas.collateral_damage_estimator import AUTO, ESTIMATORS
from mixcd.ideas.partition_strategy import parse_partition, partition_examples
from mixcd.ideas.probe import Probe
from mixcd.run.rehearsal_loop.row_kind import MixUnit
from mixcd.words.errors import nearest_name
from mixcd.words.vocabulary import EstimatorSettings, PartitionStrategy

FORMAT = 1
_ESTIMATOR_SCHEMA: list[Any] = [
    {"enum": [AUTO, *ESTIMATORS]},
    {"type": "object", "properties": {"name": {"enum": [*ESTIMATORS]}}, "required": ["name"]},
]
_JUDGED_BY_TOKENS = ("sequence-to-sequence", "text-generation")


class ModelConfig(Section):
    """The base model, of the config's task: it knows the prior data's samples already."""

    path: str = Field(
        min_length=1, description="A folder that save_pretrained wrote, or a name on the Hugging Face hub."
    )
    tokenizer: str | None = Field(None, min_length=1, description="Where the tokenizer is; the model's own by default.")
    max_length: int | None = Field(
        None, ge=1, description="Longest input in tokens; what model and tokenizer allow by default."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")


class AdapterConfig(Section):
    """A fresh LoRA adapter on the base model, trained in its place; the model that is saved has it merged."""

    rank: int = Field(8, ge=1, description="Rank of the adapter's matrices.")
    alpha: float = Field(16, gt=0, description="Their scale, times the rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before them.")
    target_modules: list[str] | str | None = Field(
        None, min_length=1, description='Which modules have one, or "all-linear"; what PEFT chooses by default.'
    )


class ProbeConfig(Section):
    """Extra inference on uniformly drawn prior samples while training: `mixcd.Probe`."""

    sample_count: int = Field(ge=1, description="Samples a probing.")
    every: int = Field(1, ge=1, description="Steps from one probing to the next.")
    use: Literal["audit", "estimate"] = Field("audit", description="Whether it only checks the estimator, or feeds it.")


class RehearsalConfig(Section):
    """How prior samples are rehearsed."""

    mix_ratio: float = Field(gt=0, lt=1, description="Share of prior samples in what is trained on, β.")
    mix_unit: MixUnit | None = Field(
        None,
        description="What it is a share of: rows, or tokens; tokens by default where new rows are packed, else rows.",
    )
    partition: list[str] | None = Field(
        None,
        min_length=1,
        description=f"What the prior data are cut by: {partition_examples()}; several are combined. "
        "Ten bins of loss by default.",
    )
    estimator: str | dict[str, Any] = Field(
        AUTO,
        description='Who chooses samples: "auto" for drift, or counts when a partition is named (factored for '
        f"several); or one of {', '.join(ESTIMATORS)}; or a table of such a `name` with its settings, as in "
        '{ name = "counts", discount = 0.98 }.',
        json_schema_extra={"anyOf": _ESTIMATOR_SCHEMA},
    )
    floor: float | None = Field(None, ge=0, le=1, description="Share of the draws that ignores the belief, ε.")
    features: int | None = Field(None, ge=0, description="Features a sample to cache; 64 where something reads them.")
    probe: ProbeConfig | None = Field(None, description="Extra inference, to compare the free damage rates with.")
    lag: int | None = Field(None, ge=1, description="Steps between an observation and the draws that use it.")
    seed: int | None = Field(None, ge=0, lt=2**64, description="Seed of draws and held-out split; the trainer's own.")
    generate: int | None = Field(
        None, ge=1, description="Held-out samples of each task that a language model also answers by itself."
    )
    report_columns: list[str] = Field([], description="Columns of held-out prior data to show damage by.")
    cache: str | None = Field(None, min_length=1, description="Prediction cache; the run's folder `cache` by default.")
    cache_columns: list[str] = Field([], description="More columns to cache, for `mixcd partition`.")

    correctness: str | dict[str, Any] | None = Field(
        None,
        description='When a sample is right; by default what the task is made for, for texts "each-token": damage is '
        'counted by token. Or "right-class", "right-labels", "right-span", "right-tokens"; or a table of a `name` with '
        'settings, as in { name = "near-target", tolerance = 0.5 }.',
    )
    least_share: float | None = Field(
        None, gt=0, le=1, description="τ: judge whole samples, right with this share of their target tokens right."
    )
    loss_tolerance: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="δ: judge whole samples, right up to a loss of the base model's plus this, in nats a token.",
    )

    @field_validator("estimator")
    @classmethod
    def _is_an_estimator(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        name, known = value if isinstance(value, str) else value.get("name"), (AUTO, *ESTIMATORS)
        if name not in known:
            raise ValueError(f"is {name!r}, which is not an estimator{nearest_name(str(name), known)}")
        parse_estimator(value)
        return value

    @field_validator("correctness", "partition")
    @classmethod
    def _can_be_made(cls, value: Any, info: ValidationInfo) -> Any:
        parse: Callable[[Any], object] = parse_correctness if info.field_name == "correctness" else parse_partition
        if value is not None:
            parse(value)
        return value


class Config(Section):
    """A config of `mixcd train`: base model, new and prior data, rehearsal, and transformers' TrainingArguments."""

    format: int = Field(FORMAT, ge=1, le=FORMAT, description="The version of this format.")
    run: str = Field(min_length=1, description="The folder of the run: everything it writes lies there.")
    task: Task = Field("classification", description="What the model does, with prior and new data alike.")
    batch_size: int | None = Field(
        None, ge=2, description="Rows a step over all processes; sets gradient_accumulation_steps."
    )
    model: ModelConfig = Field(description="The base model.")
    adapter: AdapterConfig | None = Field(None, description="A LoRA adapter to train instead of the model's weights.")
    new: DataConfig = Field(description="Data of the new task.")
    prior: list[PriorConfig] = Field(min_length=1, description="Data of the prior task, or of several.")
    rehearsal: RehearsalConfig = Field(description="How prior samples are rehearsed.")
    training: dict[str, Any] = Field({}, description="transformers.TrainingArguments, by name.")

    @model_validator(mode="after")
    def _does_not_contradict_itself(self) -> "Config":
        faults = [*self._find_contradictions(), *find_foreign_columns(self.new, "new", self.task)]
        for number, prior in enumerate(self.prior):
            faults += find_foreign_columns(prior, f"prior.{number}", self.task)
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _find_contradictions(self) -> Iterator[str]:
        names, wanted = [prior.name for prior in self.prior], self.rehearsal
        graded = [key for key in ("least_share", "loss_tolerance") if getattr(wanted, key) is not None]
        if len(names) > 1 and (None in names or len(set(names)) < len(names)):
            yield f"`prior` has {len(names)} data sets, so each needs a `name` of its own"
        if self.batch_size is not None and "gradient_accumulation_steps" in self.training:
            yield (
                "`batch_size` and `training.gradient_accumulation_steps` contradict each other: the first sets the "
                "second; remove one"
            )
        if graded and wanted.correctness is not None:
            yield f"`rehearsal.correctness` and `rehearsal.{graded[0]}` are two rules, but one must judge; remove one"
        if self.task not in _JUDGED_BY_TOKENS:
            for key in graded:
                yield f"`rehearsal.{key}` grades target tokens, which samples of `{self.task}` do not have; remove it"
            if wanted.generate is not None:
                yield f"`rehearsal.generate` lets a model write texts, which one of `{self.task}` does not; remove it"
        elif len(graded) > 1:
            yield "`rehearsal.least_share` and `rehearsal.loss_tolerance` are two rules, but one must judge; remove one"

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return Path(self.run).expanduser()

    @property
    def estimator(self) -> str | EstimatorSettings:
        """Who chooses samples, as `attach` takes it."""
        return parse_estimator(self.rehearsal.estimator)

    @property
    def probe(self) -> Probe | None:
        """Extra inference while training, as `attach` takes it."""
        probe = self.rehearsal.probe
        return None if probe is None else Probe(**probe.model_dump())

    @property
    def partition(self) -> PartitionStrategy:
        """The bins that damage is counted in."""
        return parse_partition(self.rehearsal.partition or ["loss:10"])

    @property
    def cache_folder(self) -> Path:
        """The folder of the prediction cache."""
        cache = self.rehearsal.cache
        return Path(cache).expanduser() if cache is not None else self.run_folder / "cache"


def parse_estimator(value: str | Mapping[str, Any]) -> str | EstimatorSettings:
    """Return what `attach` is to be given as the estimator.

    Args:
        value: A name, or a table of a `name` and settings.

    Raises:
        SettingError: If there is no such estimator, or it has no such setting.

    Example:
        >>> parse_estimator({"name": "drift", "discount": 0.9})
        Drift(discount=0.9, ridge=3.0, noise=1.0, score='chance')
    """
    settings = {"name": value} if isinstance(value, str) else dict(value)
    name = str(settings.pop("name", AUTO))
    return AUTO if name == AUTO and not settings else make_settings(ESTIMATORS, name, settings, "estimator")


def parse_correctness(value: str | Mapping[str, Any]) -> Any:
    """Return the rule that a config names.

    Args:
        value: A name, or a table of a `name` and settings.

    Raises:
        SettingError: If there is no such rule, or it has no such setting.

    Example:
        >>> parse_correctness({"name": "near-target", "tolerance": 0.5})
        NearTarget(tolerance=0.5)
    """
    from mixcd.matter.correctness import RULES  # with torch, for which most configs need not wait

    settings = {"name": value} if isinstance(value, str) else dict(value)
    return make_settings(RULES, str(settings.pop("name", "")), settings, "rule")


def read_config(path: Path, settings: Sequence[str] = ()) -> Config:
    """Read a config of `mixcd train`, with changes to it; a `SettingError` tells all its faults at once."""
    return read_section(Config, path, settings, FORMAT)


def render(config: Config) -> str:
    """Write a config as TOML, defaults filled in; it is itself a valid config."""
    import tomli_w  # of the extra `cli`; models are loaded, and so this module imported, without it

    return tomli_w.dumps(config.model_dump(exclude_none=True))


def list_values(config: Config) -> dict[str, Any]:
    """List a config's values by dotted key.

    Returns:
        Values such as `{"rehearsal.mix_ratio": 0.25, "prior.0.path": "old.csv"}`.
    """
    return dict(_flatten(config.model_dump(exclude_none=True), ""))


def _flatten(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value):
            yield from _flatten(inner, f"{key}.{number}")
    else:
        yield key, value
