"""One table of gpu.sh's measurements: our step in each precision against the published algorithm in float32."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import MEBIBYTE, cell
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import run_main
from tools.system.files import read_json
from tools.system.text_table import fixed_width_table

PRECISIONS = {"float32": "float32", "bf16": "bf16", "bf16_max_accumulate2": "bf16, 2 parts"}
RATIOS = ("original/ours", "original_kept/ours", "ours/limit", "keypoints/ours")
COLUMNS = ("strategy", "precision", "ours, s", *RATIOS, "peak memory, MiB (released; original)")


@dataclass(frozen=True)
class Config(Arguments):
    results: Path = argument(help="folder of JSON files", positional=True)
    device: str = argument(help="cuda or cpu, as in the files' names", positional=True)


def main() -> None:
    """Print the table."""
    config = parse(Config, __doc__)
    files = {name: config.results / f"step_{config.device}_{name}.json" for name in ("original", *PRECISIONS)}
    results = {name: read_json(path)["results"] for name, path in files.items()}
    rows = [COLUMNS]
    for name, precision in PRECISIONS.items():
        for strategy, measured in results[name].items():
            rows.append((strategy, precision, *cells(measured, results["original"][strategy])))
    print(fixed_width_table(rows, [len(column) + 1 for column in COLUMNS]))


def cells(measured: dict, originals: dict) -> list[str]:
    """Return a strategy's cells from the third column on."""
    ours, ratios = measured["ours"], dict(measured["ratios"])
    for name in ("original", "original_kept"):
        if "seconds" in ours and "seconds" in originals.get(name, {}):
            ratios[f"{name}/ours"] = originals[name]["seconds"] / ours["seconds"]
    results = (ours, measured.get("ours_released", {}), originals["original"])
    memory, released, original = (cell(result.get("peak_memory"), ".0f", MEBIBYTE) for result in results)
    shown_ratios = [cell(ratios.get(name), ".3f") for name in RATIOS]
    return [cell(ours.get("seconds"), ".4f"), *shown_ratios, f"{memory} ({released}; {original})"]


if __name__ == "__main__":
    run_main(main)
