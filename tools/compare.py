"""Compare scores of several methods on the same images: differences, what these images can show, and ranks.

    python3 -m tools.compare plain.npz cMax.npz cTopk.npz
    python3 -m tools.compare plain_seed0.npz plain_seed1.npz cMax_seed0.npz cMax_seed1.npz --seeds

Each sample draws images, the same for all methods, and --seeds adds the variation of the runs. See docs/protocols.md.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tools.metrics.multilabel import binary_labels
from tools.metrics.readers import OUT_HELP, ScoreArguments
from tools.metrics.reports import free_base, write_results
from tools.metrics.scores import Scores
from tools.metrics.significance import POWER, Method, Pair, compare
from tools.pictures.charts import interval_chart
from tools.pictures.figure import style
from tools.runs.folder import SEED, Folder
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, first_few, printable, run_main
from tools.system.text_table import fixed_width_table

CLASSES_SHOWN = 5


@dataclass(frozen=True)
class Config(ScoreArguments):
    files: list[Path] = argument(help="scores and labels: .npz, .csv or .json", metavar="FILE", positional=True)
    seeds: bool = argument(False, "files that differ only in a seed, as x_seed0 and x_seed1, are runs of one method")
    bootstrap: int = argument(2000, "samples", least=100)
    seed: int = argument(0, "of everything that is drawn", least=0)
    out: Path | None = argument(None, OUT_HELP, names_file=True)

    def methods(self) -> dict[str, list[Path]]:
        """Return the files of each method by its name, in the order of the command line."""
        methods: dict[str, list[Path]] = {}
        for path in self.files:
            name = printable(path.stem)
            methods.setdefault(SEED.sub("", name) if self.seeds else name, []).append(path)
        if repeated := [str(name) for name, times in Counter(map(Path.resolve, self.files)).items() if times > 1]:
            raise UserError(f"{first_few(repeated)} is given twice")
        if len(methods) < 2:
            raise UserError(f"all files belong to '{next(iter(methods))}': give scores of at least two methods")
        several = [name for name, paths in methods.items() if len(paths) > 1]
        if several and not self.seeds:
            raise UserError(f"several files are called {first_few(several)}: rename them, or add --seeds for runs")
        return methods


def read(config: Config, methods: dict[str, list[Path]]) -> tuple[list[np.ndarray], Scores]:
    """Return the scores of each method `[runs, N, V]`, and the first file, whose order of images and classes counts."""
    first, ranking = None, []
    for paths in methods.values():
        runs = []
        for path in paths:
            scored = config.read(path, first)
            first = first or scored
            runs.append(aligned(scored, first, path, config.difficult).scores)
        ranking.append(np.stack(runs))
    return ranking, first


def aligned(scored: Scores, first: Scores, path: Path, difficult: str) -> Scores:
    """Return the scores with the images in the first file's order; raise a `UserError` for other images or labels."""
    scored = scored.of_images(first.ids, f"{path} has other images than the first file")
    both = zip(binary_labels(scored.labels, difficult), binary_labels(first.labels, difficult), strict=True)
    differ = np.any([own != other for own, other in both], axis=(0, 2))
    if different := [first.ids[row] for row in np.flatnonzero(differ)]:
        labeled = f"labels {len(different):,} images differently than the first file"
        raise UserError(f"{path} {labeled}: {first_few(different)}")
    return scored


def text_of(names: list[str], runs: list[int], class_names: list[str], methods: list[Method], pairs: list[Pair]) -> str:
    """Return the tables to read, in %."""
    table = [("method", "runs", "mAP", "95 %", "rank", "95 %", "best in")]
    for name, count, one in sorted(zip(names, runs, methods, strict=True), key=lambda row: row[2].rank):
        ranks = f"{one.ranks[0]} … {one.ranks[1]}"
        figures = (f"{100 * one.mean:.2f}", str(one.interval), str(one.rank), ranks, f"{100 * one.best:.1f}")
        table.append((name, str(count), *figures))
    lines = [fixed_width_table(table, (15, 5, 7, 15, 5, 7, 8)), ""]
    table = [("difference", "mAP", "95 %", "p", "p (Holm)", f"needed for {POWER:.0%}")]
    largest = []
    for pair in pairs:
        title, found = _title(names, pair), pair.difference
        figures = (f"{100 * found.difference:+.2f}", str(found.interval), f"{found.p_value:.4f}")
        table.append((title, *figures, f"{pair.corrected:.4f}", f"{100 * pair.smallest:.2f}"))
        order = [v for v in np.argsort(-np.abs(pair.classes)) if not np.isnan(pair.class_p_values[v])]
        parts = [f"{class_names[v]} {100 * pair.classes[v]:+.1f} ({pair.class_p_values[v]:.3f})" for v in order]
        largest.append(f"{title}: {', '.join(parts[:CLASSES_SHOWN]) or 'none'}")
    lines += [fixed_width_table(table, (15, 7, 15, 7, 9, 10)), "", "classes with the largest differences (p by Holm):"]
    lines += largest
    if max(runs) == 1:
        lines += ["", "One run of each method: the intervals are over images and say nothing about other seeds."]
    return "\n".join(lines)


def _title(names: list[str], pair: Pair) -> str:
    return f"{names[pair.second]} − {names[pair.first]}"


def write_comparison(config: Config, grouped: dict[str, list[Path]]) -> list[str]:
    """Compare methods, given by name with a file of each run, write what is found; return what to print."""
    ranking, first = read(config, grouped)
    made_with = {name: getattr(config, name) for name in ("difficult", "bootstrap", "seed")}
    made_with["files"] = {name: [str(path.resolve()) for path in paths] for name, paths in grouped.items()}
    made_with["class_names"] = first.class_names
    base = free_base(Folder().root / "evaluation" / "comparison", made_with, config.out)
    names, runs = list(grouped), [len(paths) for paths in grouped.values()]
    methods, pairs = compare(ranking, *binary_labels(first.labels, config.difficult), config.bootstrap, config.seed)
    text = text_of(names, runs, first.class_names, methods, pairs)
    of_methods = dict(zip(names, methods, strict=True))
    of_pairs = {_title(names, pair): pair for pair in pairs}
    result = {"made_with": made_with, "images": len(first.ids), "class_names": first.class_names}
    result |= {"methods": {name: asdict(one) for name, one in of_methods.items()}}
    result |= {"pairs": {title: asdict(pair) for title, pair in of_pairs.items()}}
    charts = {"mAP, %": {name: (one.mean, one.interval) for name, one in of_methods.items()}}
    differences = {title: (one.difference.difference, one.difference.interval) for title, one in of_pairs.items()}
    charts["difference of mAP, points"] = differences
    with style(config.column):
        figure = interval_chart("Methods on the same images, 95 % intervals", charts)
    return write_results(base, text, {}, result, {"": figure})


def main() -> None:
    config = parse(Config, __doc__)
    print("\n".join(write_comparison(config, config.methods())))


if __name__ == "__main__":
    run_main(main)
