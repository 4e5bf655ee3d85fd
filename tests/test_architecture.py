"""The house: imports only fall, ideas stand alone, every public name is documented."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mixcd

SOURCE = Path(mixcd.__file__).parent
LAYERS = ("words", "ideas", "matter", "run", "edge")
ABOVE = ("__init__", "__main__", "testing")
"""What stands at the top beside the layers: public names, the command, the conformance suite."""
OUTSIDE = {  # what each layer may import besides the standard library
    "words": {"numpy", "filelock"},
    "ideas": {"numpy", "scipy", "threadpoolctl"},
    "matter": {"numpy", "scipy", "torch", "datasets", "pyarrow", "safetensors", "sklearn", "tqdm"},
}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(("mixcd", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__") for path in FILES
}


def parts_of(path):
    """Where a file stands: its layer, its room, its name."""
    return path.relative_to(SOURCE).with_suffix("").parts


def imports_of(path, tree=None):
    """The modules that a file imports, inside functions, too; not what only the type checker sees."""
    tree = tree or ast.parse(path.read_text("utf-8"))
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
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def own_imports_of(path):
    """Where the modules of ours stand that a file imports."""
    return [tuple(name.split(".")[1:]) for name in imports_of(path) if name.startswith("mixcd.")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_fall(path):
    layer = parts_of(path)[0]
    for other in own_imports_of(path):
        assert layer in ABOVE or LAYERS.index(other[0]) <= LAYERS.index(layer), f"{other} is in a higher layer"


@pytest.mark.parametrize("path", sorted((SOURCE / "ideas").rglob("*.py")), ids=lambda path: path.stem)
def test_no_idea_imports_another(path):
    for other in own_imports_of(path):
        assert other[0] == "words" or other[1] == parts_of(path)[1]


def test_no_folder_has_a_circle():
    graphs = {}
    for path in FILES:
        for other in own_imports_of(path):
            own = parts_of(path)
            depth = next((i for i, (one, two) in enumerate(zip(own, other, strict=False)) if one != two), None)
            if depth is not None and own[depth] != "__init__":
                graphs.setdefault(own[:depth], {}).setdefault(own[depth], set()).add(other[depth])
    assert len(graphs) > 10
    for graph in graphs.values():
        tuple(TopologicalSorter(graph).static_order())  # raises on a circle, and names it


def test_the_house_has_few_rooms_and_each_layer_says_its_rule():
    rooms = {parts_of(path)[0] for path in FILES}
    assert rooms == {*LAYERS, *ABOVE}
    for folder in {path.parent for path in FILES}:
        text = (folder / "__init__.py").read_text("utf-8")
        assert ast.get_docstring(ast.parse(text)), folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_layer_keeps_to_its_libraries(path):
    layer = parts_of(path)[0]
    if layer not in OUTSIDE:
        return
    found = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"mixcd"}
    assert found <= OUTSIDE[layer]


def test_only_two_commands_reach_the_bench_and_only_when_they_are_called():
    for path in FILES:
        if parts_of(path)[:2] == ("edge", "bench"):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        if path == SOURCE / "edge" / "cli" / "__init__.py":
            tree.body = [node for node in tree.body if getattr(node, "name", None) not in ("sweep", "frontier")]
        assert not [name for name in imports_of(path, tree) if name.startswith("mixcd.edge.bench")], path


def test_ideas_run_without_torch():
    names = sorted(name for name in MODULES if name.split(".")[1:2] in (["words"], ["ideas"]))
    code = f"import sys\nfor name in {names!r}: __import__(name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_and_its_help_import_no_torch():
    code = "import sys, mixcd, mixcd.edge.cli\nassert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_documented():
    for name in mixcd.__all__:
        value = getattr(mixcd, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mixcd.nothing  # noqa: B018


def test_every_public_callable_is_documented():
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
