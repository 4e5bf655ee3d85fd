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
MINORS = range(11, 20)
"""Of Python 3, what mixcd supports."""


def run(*command):
    """Run a command in an empty folder, so that nothing of the checkout is on Python's path."""
    with tempfile.TemporaryDirectory() as folder:
        code = subprocess.run([str(one) for one in command], cwd=folder, check=False).returncode
    if code:
        sys.exit(code)


def find_pythons():
    """Return the Pythons of this machine that mixcd supports, by minor version, oldest first."""
    found = {sys.version_info.minor: sys.executable}
    for minor in MINORS:
        name = f"python3.{minor}"
        for place in (shutil.which(name), *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}")):
            if place and subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
                found.setdefault(minor, place)  # pyenv's command of this name may refuse to work
    return dict(sorted(found.items()))


def install(python, *what):
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", *what)


def make_environment(python, minor, wheel):
    """Return the Python of an environment that has what mixcd needs."""
    folder = ROOT / f".venv-bare-3.{minor}"
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
    for minor in sorted({min(pythons), max(pythons)}):
        python = make_environment(pythons[minor], minor, wheel)
        for package, *check in (
            (archive, "-c", "import mixcd; print(mixcd.__version__)"),
            (wheel, ROOT / "tests" / "bare_install.py"),
        ):
            install(python, "--force-reinstall", "--no-deps", package)
            sys.stdout.write(f"Python 3.{minor}, {package.name}: ")
            sys.stdout.flush()
            run(python, "-I", *check)
    if len(pythons) == 1:
        sys.stdout.write("There is one Python here that mixcd supports, so no newer one was tried.\n")


if __name__ == "__main__":
    main()
