"""One table of what gpu.sh measured: our step in each precision against the published algorithm in float32."""

from pathlib import Path

from benchmarks import measure
from tools.system.command_line import Parser
from tools.system.errors import run_main
from tools.system.files import read_json


def main() -> None:
    """Print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder of JSON files")
    parser.add_argument("device", help="cuda or cpu, as in the files' names")
    args = parser.parse_args()
    results = {
        name: read_json(args.results / f"step_{args.device}_{name}.json")["results"]
        for name in ("original", "float32", "bf16", "bf16_max_accumulate2")
    }
    print("strategy precision      ours, s  original/ours  ours/limit  keypoints/ours   peak memory, MiB (original)")
    for precision in ("float32", "bf16", "bf16_max_accumulate2"):
        for strategy, figures in results[precision].items():
            print(line(strategy, precision, figures, results["original"][strategy]["original"]))


def line(strategy: str, precision: str, figures: dict, original: dict) -> str:
    """A line of the table; a figure that failed or was not measured is a dash."""
    ours, ratios = figures["ours"], figures["ratios"]
    if "seconds" in ours and "seconds" in original:
        ratios = ratios | {"original/ours": original["seconds"] / ours["seconds"]}
    seconds = f"{ours['seconds']:.4f}" if "seconds" in ours else "–"
    against, above, share = (
        f"{ratios[name]:.3f}" if name in ratios else "–" for name in ("original/ours", "ours/limit", "keypoints/ours")
    )
    label = precision.replace("_max_accumulate2", ", 2 parts")
    return (
        f"{strategy:8s} {label:14s} {seconds:>7s} {against:>14s} {above:>11s} {share:>15s} "
        f"{mebibytes(ours):>18s} ({mebibytes(original)})"
    )


def mebibytes(figure: dict) -> str:
    """A figure's peak memory."""
    return f"{figure['peak_memory'] / measure.MEBIBYTE:.0f}" if figure.get("peak_memory") else "–"


if __name__ == "__main__":
    run_main(main)
