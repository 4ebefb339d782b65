"""One table of gpu.sh's measurements: our step in each precision against the published algorithm in float32."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import MEBIBYTE
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import run_main
from tools.system.files import read_json

PRECISIONS = {"float32": "float32", "bf16": "bf16", "bf16_max_accumulate2": "bf16, 2 parts"}


@dataclass(frozen=True)
class Config(Arguments):
    results: Path = argument(help="folder of JSON files", positional=True)
    device: str = argument(help="cuda or cpu, as in the files' names", positional=True)


def main() -> None:
    """Print the table."""
    config = parse(Config, __doc__)
    results = {
        name: read_json(config.results / f"step_{config.device}_{name}.json")["results"]
        for name in ("original", *PRECISIONS)
    }
    print("strategy precision      ours, s  original/ours  ours/limit  keypoints/ours   peak memory, MiB (original)")
    for name, precision in PRECISIONS.items():
        for strategy, measured in results[name].items():
            print(line(strategy, precision, measured, results["original"][strategy]["original"]))


def line(strategy: str, precision: str, measured: dict, original: dict) -> str:
    """Return a line of the table; what failed or was not measured is a dash."""
    ours, ratios = measured["ours"], measured["ratios"]
    if "seconds" in ours and "seconds" in original:
        ratios = ratios | {"original/ours": original["seconds"] / ours["seconds"]}
    seconds = f"{ours['seconds']:.4f}" if "seconds" in ours else "–"
    cells = [f"{ratios[name]:.3f}" if name in ratios else "–" for name in ("original/ours", "ours/limit")]
    share = f"{ratios['keypoints/ours']:.3f}" if "keypoints/ours" in ratios else "–"
    memory = f"{mebibytes(ours):>18s} ({mebibytes(original)})"
    return f"{strategy:8s} {precision:14s} {seconds:>7s} {cells[0]:>14s} {cells[1]:>11s} {share:>15s} {memory}"


def mebibytes(result: dict) -> str:
    """Return the peak memory of a measurement."""
    return f"{result['peak_memory'] / MEBIBYTE:.0f}" if result.get("peak_memory") else "–"


if __name__ == "__main__":
    run_main(main)
