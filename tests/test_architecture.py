"""The house: imports only fall, ideas stand alone, every public name is documented."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mixcd

SOURCE = Path(mixcd.__file__).parent

LAYERS = {
    "words": {"errors", "keyed_random", "replace_file", "small_matrices", "vocabulary"},
    "ideas": {
        "batch_plan",
        "collateral_damage_estimator",
        "correctness",
        "ledger",
        "lift",
        "pareto_frontier",
        "partition_strategy",
        "probe",
        "rival_estimators",
        "sampling_scheduler",
        "seed_interval",
    },
    "matter": {
        "batched_inference",
        "correctness_rule",
        "data_preparation",
        "data_source",
        "fingerprint",
        "fixed_random_numbers",
        "flat_array",
        "fresh_adapter",
        "head_features",
        "prediction_cache",
        "prediction_observer",
        "joined_rows",
        "lock_folder",
        "label_names",
        "model_limits",
        "prior_dataset",
        "prior_pass",
        "prior_predictions",
        "reading_noise",
        "split_choice",
        "require_apart",
        "wise_ft",
    },
    "run": {
        "audit",
        "estimator_choice",
        "evaluation",
        "followed_trainers",
        "hand_rehearsal",
        "held_out",
        "mixed_data",
        "rehearsal",
        "rehearsal_health",
        "same_as_training",
        "loop_state",
        "rehearsal_loop",
        "sft_trainer",
        "shared_arrays",
        "report",
        "run_folder",
        "run_findings",
        "run_page",
        "state_json",
        "step_record",
        "provenance",
        "testing",
        "trainer_predictions",
        "trainer_seam",
        "trainer_support",
    },
    "edge": {
        "__init__",
        "__main__",
        "adapter",
        "cli",
        "comparison",
        "config",
        "data_config",
        "demo",
        "frontier",
        "lineage",
        "model_loading",
        "model_place",
        "run_data",
        "run_ledger",
        "run_setup",
        "saved_adapter",
        "stop_signals",
        "sweep",
        "task_kind",
        "toml_file",
        "training_arguments",
        "training_run",
        "tuned_model",
    },
}
HEIGHT = {module: height for height, modules in enumerate(LAYERS.values()) for module in modules}
OUTSIDE = {  # what each layer may import besides the standard library
    "words": {"numpy", "threadpoolctl"},
    "ideas": {"numpy", "scipy"},
    "matter": {"numpy", "scipy", "torch", "datasets", "pyarrow", "safetensors", "sklearn", "tqdm", "filelock"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path):
    """The top-level module a file belongs to: a folder counts as one."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path):
    tree = ast.parse(path.read_text("utf-8"))
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module


def test_every_file_has_a_layer():
    assert {room_of(path) for path in FILES} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_fall(path):
    room = room_of(path)
    for name in imports_of(path):
        if not name.startswith("mixcd."):
            continue
        other = name.split(".")[1]
        if other != room:
            assert HEIGHT[other] <= HEIGHT[room], f"{room} imports {other} from a higher layer"
            if room in LAYERS["ideas"]:
                assert other in LAYERS["words"], f"the idea {room} imports the idea {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_layer_keeps_to_its_libraries(path):
    layer = next(layer for layer, rooms in LAYERS.items() if room_of(path) in rooms)
    if layer not in OUTSIDE:
        return
    found = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"mixcd"}
    assert found <= OUTSIDE[layer]


def test_ideas_run_without_torch():
    rooms = sorted(LAYERS["words"] | LAYERS["ideas"])
    code = f"import sys\nfor room in {rooms!r}: __import__('mixcd.' + room)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_and_its_help_import_no_torch():
    code = "import sys, mixcd, mixcd.cli\nassert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_documented():
    for name in mixcd.__all__:
        value = getattr(mixcd, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mixcd.nothing  # noqa: B018


def test_every_public_callable_documents_its_arguments():
    for info in pkgutil.walk_packages([str(SOURCE)], "mixcd."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value) or getattr(value, "__module__", "") != info.name:
                continue
            assert value.__doc__, f"{info.name}.{name}"


def test_nothing_is_pickled_or_loaded_unsafely():
    for path in FILES:
        text = path.read_text("utf-8")
        assert "trust_remote_code=True" not in text, path
        for word in ("pickle", "torch.load", "allow_pickle", "eval("):
            assert word not in text.replace("free of pickle", "").replace(".eval()", ""), f"{path}: {word}"
