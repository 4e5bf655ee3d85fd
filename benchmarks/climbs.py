"""Calls that climb, from a config and from a trainer to the first training step: `python benchmarks/climbs.py`.

A climb is a call from a file to one in a higher layer: there a reader must go back up. `--checkout FOLDER` counts those
of another checkout, whose layers are its folders or, before they were folders, the table in its
`tests/test_architecture.py`.
"""

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LAYERS = ("words", "ideas", "matter", "run", "edge")


class FirstStepDone(BaseException):
    """Ends the run that is watched."""


def read_heights(checkout):
    """Return the height of each room at the top of a checkout's package."""
    table = checkout / "tests" / "test_architecture.py"
    for node in ast.parse(table.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and node.targets[0].id == "LAYERS":
            layers = ast.literal_eval(node.value).values()
            return {room: height for height, rooms in enumerate(layers) for room in rooms}
    return {layer: height for height, layer in enumerate(LAYERS)}


class Climbs:
    """Counts the calls from a file of the package to one in a higher layer."""

    def __init__(self, package, heights):
        self._package, self._heights = str(package), heights
        self._height_of = {}
        self.pairs = Counter()

    def height_of(self, code):
        """The height of the file that holds some code; None outside the package and for what stands above all."""
        name = code.co_filename
        if name not in self._height_of:
            inside = name.startswith(self._package)
            room = Path(name).relative_to(self._package).parts[0].removesuffix(".py") if inside else None
            self._height_of[name] = self._heights.get(room)
        return self._height_of[name]

    def __call__(self, frame, event, _):
        """Note a call; a library in between, such as the trainer, is passed over."""
        if event != "call" or frame.f_code.co_name == "<module>":
            return
        height = self.height_of(frame.f_code)
        if not height:
            return
        caller = frame.f_back
        while caller is not None and self.height_of(caller.f_code) is None:
            caller = caller.f_back
        if caller is not None and self.height_of(caller.f_code) < height:
            names = (one.f_code.co_filename.removeprefix(self._package + "/") for one in (caller, frame))
            self.pairs[" -> ".join(names)] += 1


def watch(way, checkout, folder):
    """Count the climbs of one way to the first step; runs in a process of its own."""
    from transformers import Trainer

    import mixcd

    climbs = Climbs(Path(mixcd.__file__).parent, read_heights(checkout))
    step = Trainer.training_step

    def step_once(*args, **kwargs):
        step(*args, **kwargs)
        sys.setprofile(None)
        raise FirstStepDone

    if way == "config":
        from mixcd.__main__ import main as run

        sys.argv = ["mixcd", "train", str(folder / "config.toml")]
    else:
        from tiny import make_model, make_rows, make_trainer

        trainer = make_trainer(make_model(), make_rows(240, seed=2, task="new"), folder / "out", max_steps=4)

        def run():
            mixcd.attach(trainer, make_rows(600, seed=1, task="prior"), mix_ratio=0.25)
            trainer.train()

    Trainer.training_step = step_once
    sys.setprofile(climbs)
    try:
        run()
    except FirstStepDone:
        pass
    finally:
        sys.setprofile(None)
    return climbs.pairs


def count_climbs(way, checkout):
    """Count the climbs of one way in a checkout.

    Args:
        way: "config" or "trainer".
        checkout: The checkout.

    Returns:
        The calls, by the pair of files.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sys.path.insert(0, str(HERE / "tests"))
        from tiny import train_base_model
        from workspace import make_workspace

        make_workspace(folder, train_base_model())
        code = (
            f"import sys, json; sys.path[:0] = {[str(HERE / 'benchmarks'), str(HERE / 'tests')]!r}\n"
            "import climbs; from pathlib import Path\n"
            f"found = climbs.watch({way!r}, Path({str(checkout)!r}), Path({place!r}))\n"
            f"Path({place!r}, 'climbs.json').write_text(json.dumps(found))"
        )
        path = f"import sys; sys.path.insert(0, {str(checkout / 'src')!r})\n"
        subprocess.run([sys.executable, "-c", path + code], cwd=folder, check=True, capture_output=True)  # noqa: S603
        return json.loads((folder / "climbs.json").read_text())


def main():
    """Count both ways, and print each pair of files that a call climbs between."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=HERE)
    checkout = parser.parse_args().checkout.resolve()
    for way in ("config", "trainer"):
        pairs = count_climbs(way, checkout)
        print(f"from a {way} to the first step: {len(pairs)} climbs ({sum(pairs.values())} calls)")
        for pair, count in sorted(pairs.items()):
            print(f"  {pair}: {count}")


if __name__ == "__main__":
    main()
