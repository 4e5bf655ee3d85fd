"""Fill the tables of `docs/results.md` and write `docs/results-tables.md`, from the files in `benchmarks/results/`.

    python benchmarks/report.py

The text of `docs/results.md` is written by hand; what stands between `<!-- table: NAME -->` and `<!-- end -->` is not.
Every table says which half of the held-out data, how many seeds, and which interval.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from mixcd.edge.bench.frontier.frontier_report import FrontierReport, PointReport, report_frontier
from mixcd.edge.bench.frontier.frontier_runs import join_results, judge_by
from mixcd.edge.bench.frontier.seed_interval import Estimate
from mixcd.edge.bench.sweep.sweep_results import read_results
from mixcd.words.files import replace_file

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
FAST_TASKS = (
    "tweets",
    "tweets_reversed",
    "newsgroups_r8",
    "newsgroups_r52",
    "questions_amazon",
    "questions_wikipedia",
)
CONTROLS = ("vitaminc_covid", "vitaminc_multirc")
"""Tasks whose base model knows nothing that could be damaged: not part of any mean."""
TOKEN_TASKS = ("translation", "dialogue", "instructions")
"""Those that the measures of damage by token were compared on."""
FAST_SEEDS = 10
"""A point of the fast lane with fewer seeds is part of no mean over tasks."""
BORROWING = ("granularity", "windows", "first_experiments")
BETAS = {0.03125: "1/32", 0.0625: "1/16", 0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 0.0: "–"}
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def points(estimate: Estimate | None, *, signed: bool = True) -> str:
    """Show an estimate in points, with its interval."""
    if estimate is None:
        return "–"
    value = f"{100 * estimate.value:+.2f}" if signed else f"{100 * estimate.value:.1f}"
    if estimate.interval is None:
        return value
    low, high = (f"{100 * bound:+.2f}" if signed else f"{100 * bound:.1f}" for bound in estimate.interval)
    return f"{value} ({low} … {high})"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


@cache
def read(
    kind: str,
    task: str,
    half: str = "test",
    against: str = "uniform",
    measure: str | None = None,
    shows_averages: bool = False,
) -> FrontierReport | None:
    """Report one results file, with averages with the base model if they are wanted; None when the sweep was not run.

    A sweep at one mix ratio borrows uniform rehearsal's curve and the oracle from the fast lane's comparison.
    """
    path = RESULTS / f"{kind}-{task}.parquet"
    if not path.exists():
        return None
    files = [read_results(path)]
    compared = RESULTS / f"fast-{task}.parquet"
    if kind in BORROWING and compared.exists():
        files.append([row for row in read_results(compared) if row["method"] in ("uniform", "oracle-hard")])
    rows = [[row for row in file if shows_averages or row["wise_ft"] == 1.0] for file in files]
    joined = join_results(rows)
    return report_frontier(judge_by(joined, measure) if measure else joined, half, against)


def _matched(point: PointReport) -> str:
    if point.matched is None:
        return "–"
    if point.matched.gain is None:
        return "no match"
    return points(point.matched.gain) + ("†" if point.matched.match == "clamped" else "")


def _headroom(point: PointReport) -> str:
    headroom = point.headroom
    if headroom is None or headroom.is_there is None:
        return "–"
    if not headroom.is_there or headroom.captured is None:
        return "no headroom"
    interval = headroom.captured.interval
    bounds = f" ({100 * interval[0]:.0f} … {100 * interval[1]:.0f})" if interval else ""
    return f"{100 * headroom.captured.value:.0f} %{bounds}"


def whole_table(report: FrontierReport, mix_ratio: float | None = None) -> str:
    """All methods at all mix ratios, or at one."""
    headings = ["method", "β", "prior", "new", "Δ prior", "Δ new", "prior at equal new", "yield", "headroom"]
    rows = []
    for method in report.methods:
        for point in method.points:
            if mix_ratio is not None and point.mix_ratio not in (0.0, mix_ratio):
                continue
            name = method.name + ("" if point.is_charged else " ‡")
            rows.append(
                [
                    name,
                    BETAS[point.mix_ratio],
                    points(point.prior, signed=False),
                    points(point.new, signed=False),
                    points(point.prior_difference),
                    points(point.new_difference),
                    _matched(point),
                    f"{100 * point.yield_rate:.1f} %" if point.yield_rate is not None else "–",
                    _headroom(point),
                ]
            )
    return table(headings, rows)


def _over_tasks(kind: str, tasks: Sequence[str], mix_ratio: float, names: Sequence[str], against: str) -> str:
    """Means over tasks of the paired differences; tasks are independent, and weigh the same."""
    reports = [report for task in tasks if (report := read(kind, task, "test", against))]
    rows = []
    for name in names:
        cells: dict[str, list[Estimate | None]] = {"prior": [], "new": [], "matched": []}
        for point in _find_points(reports, name, mix_ratio):
            cells["prior"].append(point.prior_difference)
            cells["new"].append(point.new_difference)
            cells["matched"].append(point.matched.gain if point.matched else None)
        covered = f" ({len(cells['prior'])} of {len(reports)} tasks)" if len(cells["prior"]) < len(reports) else ""
        rows.append([name + covered, *(_mean_of(values) for values in cells.values())])
    return table(["method", "Δ prior", "Δ new", "prior at equal new"], rows)


def _find_points(reports: Sequence[FrontierReport], name: str, mix_ratio: float) -> list[PointReport]:
    """Return a method's point of each task of the fast lane that has all seeds."""
    return [
        point
        for report in reports
        for method in report.methods
        for point in method.points
        if (method.name, point.mix_ratio) == (name, mix_ratio) and point.prior.seed_count >= FAST_SEEDS
    ]


def _mean_of(estimates: Sequence[Estimate | None]) -> str:
    known = [one for one in estimates if one is not None and one.interval is not None]
    if not known:
        return "–"
    mean = float(np.mean([one.value for one in known]))
    half = float(np.sqrt(sum(((one.interval[1] - one.interval[0]) / 2) ** 2 for one in known)) / len(known))  # type: ignore[index]
    missing = f", {len(known)} of {len(estimates)} tasks" if len(known) < len(estimates) else ""
    return f"{100 * mean:+.2f} ({100 * (mean - half):+.2f} … {100 * (mean + half):+.2f}{missing})"


def fast_summary(against: str = "uniform") -> str:
    """The fast lane, all tasks together, one table a mix ratio."""
    reports = [report for task in FAST_TASKS if (report := read("fast", task))]
    names = [method.name for method in reports[0].methods if method.name not in (against, "none")]
    told = ", ".join(f"{report.task} ({report.base[0].seed_count} seeds)" for report in reports)
    told += f". Methods of fewer than {FAST_SEEDS} seeds on a task are left out there"
    parts = (
        f"β = {BETAS[mix_ratio]}\n\n{_over_tasks('fast', FAST_TASKS, mix_ratio, names, against)}"
        for mix_ratio in (0.0625, 0.125, 0.25)
    )
    return "\n".join([f"Tasks: {told}.\n", *parts])


def against_paper(kind: str, tasks: Sequence[str]) -> str:
    """Drift against the paper's rule."""
    names = ["counts", "drift", "drift-product"]
    return "\n".join(
        f"β = {BETAS[mix_ratio]}\n\n{_over_tasks(kind, tasks, mix_ratio, names, 'paper')}"
        for mix_ratio in (0.0625, 0.125, 0.25)
    )


RIVALS: Sequence[tuple[str, float]] = (
    ("none", 0.0),
    ("none + WiSE-FT 0.8", 0.0),
    ("none + WiSE-FT 0.5", 0.0),
    ("l2-sp", 0.125),
    ("ewc", 0.125),
    ("lora", 0.125),
    ("distillation", 0.125),
    ("uniform", 0.125),
    ("uniform + WiSE-FT 0.8", 0.125),
    ("uniform", 0.25),
    ("uniform", 0.5),
    ("drift", 0.125),
    ("drift + WiSE-FT 0.8", 0.125),
    ("drift-distillation", 0.125),
)
"""What is compared with the most that rehearsal keeps: methods, and their mix ratios."""


def rivals() -> str:
    """Methods in weight or loss space beside rehearsal at its mix ratios: means over the tasks of the fast lane."""
    reports = [report for task in FAST_TASKS if (report := read("fast", task, shows_averages=True))]
    rows = []
    for name, mix_ratio in RIVALS:
        found = _find_points(reports, name, mix_ratio)
        if found:
            covered = f" ({len(found)} of {len(reports)} tasks)" if len(found) < len(reports) else ""
            scores = (
                f"{100 * np.mean([getattr(one, score).value for one in found]):.1f}" if not covered else "–"
                for score in ("prior", "new")
            )
            matched = (
                _mean_of([one.matched.gain if one.matched else None for one in found]) if name != "uniform" else "–"
            )
            rows.append([name + covered, BETAS[mix_ratio], *scores, matched])
    return table(["method", "β", "prior", "new", "prior at equal new"], rows)


def replay() -> str:
    """Selectivity and lift of the estimators on recorded runs."""
    files = sorted(RESULTS.glob("replay-*.json"))
    found = {path.stem.removeprefix("replay-"): json.loads(path.read_text("utf-8")) for path in files}
    rows = []
    for name in max(found.values(), key=len):
        cells = []
        for result in found.values():
            for quantity in ("selectivity", "lift"):
                if name not in result:  # an estimator that was thought of later
                    cells.append("–")
                    continue
                values = np.array([[step[quantity] for step in seed] for seed in result[name]]).mean(1)
                cells.append(f"{values.mean():.2f}" + (f" ± {_half(values):.2f}" if values.size > 1 else ""))
        rows.append([name, *cells])
    return table(["estimator", *(f"{task}, {one}" for task in found for one in ("selectivity", "lift"))], rows)


def replay_tokens() -> str:
    """Selectivity and lifts of draws by each measure of damage by token, on recorded runs."""
    quantities = {"selectivity": "selectivity", "lift": "lift", "token_lift": "lift of tokens lost"}
    found = {
        path.stem.removeprefix("replay_tokens-"): json.loads(path.read_text("utf-8"))
        for path in sorted(RESULTS.glob("replay_tokens-*.json"))
    }
    if not found:
        return "not run\n"
    rows = []
    for name in next(iter(found.values())):
        cells = []
        for result in found.values():
            for quantity in quantities:
                values = np.array([[step[quantity] for step in seed] for seed in result[name]]).mean(1)
                cells.append(f"{values.mean():.3f}" + (f" ± {_half(values):.3f}" if values.size > 1 else ""))
        rows.append([name, *cells])
    return table(["what is counted", *(f"{task}, {one}" for task in found for one in quantities.values())], rows)


def token_storage() -> str:
    """What the cache takes for a target token."""
    path = RESULTS / "token_storage.json"
    if not path.exists():
        return "not run\n"
    rows = [
        [median, f"{one['tokens']:,}", f"{one['rows']:,}", f"{one['own_bits']:.3f}", f"{one['bits']:.3f}"]
        for median, one in json.loads(path.read_text("utf-8"))["figures"].items()
    ]
    headings = [
        "tokens a row, median",
        "target tokens",
        "rows",
        "bits a target token",
        "with each row's number of them",
    ]
    return table(headings, rows)


def audit() -> str:
    """Free against probed damage rates."""
    files = sorted(RESULTS.glob("audit-*.json"))
    found = {path.stem.removeprefix("audit-"): json.loads(path.read_text("utf-8")) for path in files}
    rows = [
        [task, *(f"{np.mean(values):+.3f} ± {_half(np.array(values)):.3f}" for values in result.values())]
        for task, result in found.items()
    ]
    return table(["lane and task", *(name.replace("_", " ") for name in next(iter(found.values())))], rows)


def scaling() -> str:
    """Prior sets of 10⁴ to 10⁷ samples, and the forward pass's share of a step."""
    if not (RESULTS / "scaling.json").exists():
        return "not run\n"
    figures = json.loads((RESULTS / "scaling.json").read_text("utf-8"))["figures"]
    sets = [
        [
            f"{one['samples']:,}",
            f"{one['disk_bytes']:.1f}",
            f"{one['own_megabytes']:.0f}",
            f"{one['planning_milliseconds']:.2f}",
        ]
        for one in figures["prior_sets"]
    ]
    shares = [
        [size, f"{one['median']:.2f} ({one['low']:.2f}–{one['high']:.2f})"]
        for size, one in figures["forward_share"].items()
    ]
    return (
        table(["prior samples", "disk, bytes a sample", "own memory, MiB", "planning, ms a step"], sets)
        + "\n"
        + table(["model", "forward pass ÷ training step"], shares)
    )


def overheads() -> str:
    """Time of a step and peak memory of the tasks beside classification of texts."""
    figures = {}
    for path in (RESULTS / "family_overhead.json", *RESULTS.glob("family_overhead-*.json")):  # run again: replaced
        figures.update(json.loads(path.read_text("utf-8"))["figures"])
    rows = [
        [
            name,
            f"{one['plain_ms']['median']:.0f} ms",
            _spread(one["ratio"]),
            _spread(one["control"]),
            _spread(one["excess"]) if "excess" in one else "–",
            _memory(one["peaks"]),
        ]
        for name, one in figures.items()
    ]
    headings = ["task", "plain step", "step, mix-cd ÷ plain", "plain ÷ plain", "the first less the second, 95 %"]
    return table([*headings, "peak memory, mix-cd ÷ plain"], rows)


def _spread(one: dict[str, float]) -> str:
    return f"{one['median']:.3f} ({one['low']:.3f}–{one['high']:.3f})"


def _memory(peaks: dict[str, int]) -> str:
    return f"{peaks['mixed'] / peaks['plain']:.3f} ({peaks['mixed']} ÷ {peaks['plain']} MiB)"


def base_models() -> str:
    """What the base models know, against always saying the commonest label."""
    path = RESULTS / "commonest_label.json"
    if not path.exists():
        return "not run\n"
    found = json.loads(path.read_text("utf-8"))
    rows = []
    for task in (*FAST_TASKS, *CONTROLS):
        scores, shares = found[task]["base_score"], found[task]["commonest_share"]
        rows.append(
            [task, f"{np.mean(scores):.3f} ± {_half(scores):.3f}", f"{np.mean(shares):.3f} ± {_half(shares):.3f}"]
        )
    return table(["task", "base model, prior score", "commonest label"], rows)


def _half(values: Any) -> float:
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def _one(
    kind: str, task: str, half: str = "test", mix_ratio: float | None = None, measure: str | None = None
) -> Callable[[], str]:
    def make() -> str:
        report = read(kind, task, half, measure=measure)
        return whole_table(report, mix_ratio) if report else "not run\n"

    return make


FAMILIES: Sequence[tuple[str, str, str, float]] = (
    ("tweets, MiniLM (encoder)", "slow", "tweets", 0.125),
    ("tweets, SmolLM2 (decoder)", "architectures", "decoder", 0.125),
    ("tweets, T5 (encoder-decoder)", "architectures", "encoder_decoder", 0.125),
    ("20 Newsgroups → R8, MiniLM", "slow", "newsgroups_r8", 0.125),
    ("digits, ViT", "vision", "digits", 0.125),
    ("questions: Wikipedia → news, MiniLM", "answers", "squad_nyt", 0.125),
    ("translation: fr, es, de → it, T5", "translation", "interface", 0.125),
    ("instructions, SmolLM2 with LoRA", "chat", "instructions", 0.25),
)
"""What the whole model, or an adapter all through it, is trained on: how it is called, its results, and β."""


def families() -> str:
    """One mix ratio of every task on which more than a head is trained."""
    rows = []
    for title, kind, task, mix_ratio in FAMILIES:
        report = read(kind, task)
        if report is None:
            continue
        found = {method.name: {point.mix_ratio: point for point in method.points} for method in report.methods}
        for name in ("paper", "counts", "drift"):
            point = found.get(name, {}).get(mix_ratio)
            if point:
                before, plain, uniform = (
                    report.base[1].value,
                    found["none"][0.0].prior,
                    found["uniform"][mix_ratio].prior,
                )
                told = f"{100 * before:.1f} → {100 * plain.value:.1f}, {100 * uniform.value:.1f}"
                difference = (points(point.prior_difference), points(point.new_difference), _matched(point))
                rows.append([title, name, BETAS[mix_ratio], str(point.prior.seed_count), told, *difference])
    headings = ["task, model", "method", "β", "seeds", "prior: before → plain, uniform", "Δ prior", "Δ new"]
    return table([*headings, "prior at equal new"], rows)


def stages() -> str:
    """Three stages of questions: what is right of each task after the last, and the measures of a chain."""
    path = RESULTS / "stages.json"
    if not path.exists():
        return "not run\n"
    rows = []
    for way, found in json.loads(path.read_text("utf-8"))["figures"].items():
        last = np.array(found["last"]).T
        measures = (np.array(found[name]) for name in ("average", "backward_transfer", "forgetting"))
        rows.append([way, *(f"{100 * values.mean():.1f} ± {100 * _half(values):.1f}" for values in (*last, *measures))])
    headings = ["way", "Wikipedia", "news", "Reddit", "average", "backward transfer", "forgetting"]
    return table(headings, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "base-models": base_models,
    "fast-summary": fast_summary,
    "fast-against-paper": lambda: against_paper("fast", FAST_TASKS),
    "rivals": rivals,
    "slow-tweets": _one("slow", "tweets"),
    "slow-newsgroups": _one("slow", "newsgroups_r8"),
    "tune": lambda: "\n".join(
        f"{task}\n\n{_one('tune', task, 'validation')()}"
        for task in FAST_TASKS
        if (RESULTS / f"tune-{task}.parquet").exists()
    ),
    "granularity": _one("granularity", "tweets", mix_ratio=0.125),
    "windows": _one("windows", "tweets", mix_ratio=0.125),
    "windows-shifted": _one("windows", "tweets_shifted", mix_ratio=0.125),
    "families": families,
    "stages": stages,
    "vision": _one("vision", "digits"),
    "answers": _one("answers", "squad_nyt"),
    "answers-f1": _one("answers", "squad_nyt", measure="f1"),
    "translation": _one("translation", "interface"),
    "translation-chrf": _one("translation", "interface", measure="chrf"),
    "translation-bleu": _one("translation", "interface", measure="bleu"),
    "chat": _one("chat", "instructions"),
    "decoder": _one("architectures", "decoder"),
    "encoder-decoder": _one("architectures", "encoder_decoder"),
    "first-experiments": _one("first_experiments", "tweets"),
    "replay": replay,
    "replay-tokens": replay_tokens,
    **{
        f"{kind.replace('_', '-')}-{task}": _one(kind, task, half)
        for kind, half in (("tune_by_token", "validation"), ("by_token", "test"))
        for task in TOKEN_TASKS
    },
    "token-storage": token_storage,
    "audit": audit,
    "scaling": scaling,
    "overheads": overheads,
}


def make_documents() -> dict[Path, str]:
    """Return the documents as they should be."""
    page = DOCS / "results.md"
    filled = _TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page.read_text("utf-8"))
    parts = [
        "# Fast lane: every method, every task\n\nMade by `python benchmarks/report.py`; see [results](results.md).\n"
    ]
    for task in (*FAST_TASKS, *CONTROLS):
        report = read("fast", task)
        if report:
            parts.append(f"## {task}\n\n{whole_table(report)}")
    return {page: filled, DOCS / "results-tables.md": "\n".join(parts)}


def main() -> None:
    """Write the documents."""
    for path, text in make_documents().items():
        with replace_file(path) as unfinished:
            unfinished.write_text(text, "utf-8")
        sys.stdout.write(f"wrote {path.relative_to(HERE.parent)}\n")


if __name__ == "__main__":
    main()
