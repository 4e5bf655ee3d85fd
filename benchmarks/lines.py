"""Lines of the library: code, docstrings, comments and blank ones: `python benchmarks/lines.py [--checkout FOLDER]`."""

import argparse
import ast
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def count_lines(path):
    """Count the kinds of lines of a file."""
    text = path.read_text("utf-8")
    docstring = set()
    for node in ast.walk(ast.parse(text)):
        for inner in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if (
                isinstance(inner, ast.Expr)
                and isinstance(inner.value, ast.Constant)
                and isinstance(inner.value.value, str)
            ):
                docstring |= set(range(inner.lineno, inner.end_lineno + 1))
    kinds = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        kind = "docstring" if number in docstring else "blank" if not line.strip() else "code"
        kinds["comment" if kind == "code" and line.lstrip().startswith("#") else kind] += 1
    return kinds


def main():
    """Count all files, and print the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=HERE)
    files = sorted((parser.parse_args().checkout / "src" / "mixcd").rglob("*.py"))
    kinds = sum((count_lines(path) for path in files), Counter())
    print(f"{len(files)} files: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())))


if __name__ == "__main__":
    main()
