"""Builds wheel and source archive, and runs them with the oldest and the newest Python here. `make test-wheel`.

The environments hold what `pip install mixcd` brings, and are kept until what it brings changes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST, BEYOND = 11, 20
"""Of Python 3."""


def run(*command):
    """Run a command outside the checkout, with nothing of it on Python's path."""
    subprocess.run([str(one) for one in command], check=True, cwd=tempfile.gettempdir())


def find_pythons():
    """Return the Pythons of this machine that mixcd supports, by version, oldest first."""
    found = {}
    for version in (f"3.{minor}" for minor in range(OLDEST, BEYOND)):
        name = f"python{version}"
        places = [shutil.which(name), *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"))]
        for place in filter(None, places):  # pyenv has a command for each of its Pythons that may refuse to work
            if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
                found[version] = place
    return found


def install(python, *what):
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", *what)


def make_environment(python, version, wheel):
    """Return the Python of an environment that has what mixcd needs."""
    folder = ROOT / f".venv-bare-{version}"
    made_for = folder / "made-for"
    needed = "\n".join((ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "constraints.txt"))
    if not made_for.exists() or made_for.read_text("utf-8") != needed:
        run(python, "-m", "venv", "--clear", folder)
        install(folder / "bin" / "python", wheel)
        made_for.write_text(needed, "utf-8")
    return folder / "bin" / "python"


def main():
    os.environ.pop("PYTHONPATH", None)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--quiet", "--outdir", ROOT / "dist", ROOT)  # the wheel from the archive
    (wheel,), (archive,) = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    pythons = find_pythons()
    for version in dict.fromkeys((next(iter(pythons)), next(reversed(pythons)))):
        python = make_environment(pythons[version], version, wheel)
        for package, *check in (
            (archive, "-c", "import mixcd; mixcd.attach; print(mixcd.__version__)"),
            (wheel, ROOT / "tests" / "bare_install.py"),
        ):
            install(python, "--force-reinstall", "--no-deps", package)
            sys.stdout.write(f"Python {version}, {package.name}: ")
            sys.stdout.flush()
            run(python, "-I", *check)
    if len(pythons) == 1:
        sys.stdout.write("There is one Python here that mixcd supports, so nothing newer was tried.\n")


if __name__ == "__main__":
    main()
