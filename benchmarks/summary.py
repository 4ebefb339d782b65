"""Two Markdown tables of measured steps, time and memory: ours in each precision, the published code in float32."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import shown
from benchmarks.step import FIGURES, TIMES, ratios_of
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import run_main
from tools.system.files import read_json
from tools.system.text_table import fixed_width_table

PRECISIONS = {"float32": "float32", "float32_compact": "float32, compact heap", "bf16": "bf16"}
PRECISIONS |= {"bf16_max_accumulate2": "bf16, 2 parts"}
RATIOS = {"seconds": TIMES, "peak_memory": ("memory ours/original",)}  # by what a table shows


@dataclass(frozen=True)
class Config(Arguments):
    results: Path = argument(help="folder of JSON files", positional=True)
    device: str = argument(help="cuda or cpu, as in the files' names", positional=True)


def main() -> None:
    config = parse(Config, __doc__)
    files = {name: config.results / f"step_{config.device}_{name}.json" for name in ("original", *PRECISIONS)}
    results = {name: read_json(path)["results"] for name, path in files.items() if path.exists()}
    for quantity, labels in RATIOS.items():
        rows = [("strategy", "precision", *FIGURES[:-1], *labels)]
        rows.append(["---"] * len(rows[0]))
        for name, precision in PRECISIONS.items():
            for strategy, measured in results.get(name, {}).items():
                figures = results.get("original", {}).get(strategy, {}) | measured
                ratios = ratios_of(figures)
                cells = [shown(figures.get(figure, {}), quantity) for figure in FIGURES[:-1]]
                cells += [f"{ratios[label]:.3f}" if label in ratios else "–" for label in labels]
                rows.append((strategy, precision, *cells))
        lines = [["|", *(text for cell in row for text in (cell, "|"))] for row in rows]
        print(fixed_width_table(lines, [0] * len(lines[0])), end="\n\n")


if __name__ == "__main__":
    run_main(main)
