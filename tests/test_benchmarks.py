"""Every benchmark runs and writes what it says, at sizes at which its times mean nothing."""

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from benchmarks import batch_norm, measure, scaling, start, step, waits
from core.batch_norm import GroupedBatchNorm2d, Groups
from core.training.trainer import Trainer
from tests.helpers import published
from tests.helpers.command_line import ROOT
from tools.data.transforms import normalize, training_transform
from tools.system.command_line import parse
from tools.system.errors import UserError

TINY = ("--device", "cpu", "--architecture", "resnet18", "--image_size", 32, "--batch_size", 2)
ONCE = ("--repeats", 1, "--warm_up", 1)


def run(benchmark: str, *words: object) -> subprocess.CompletedProcess:
    """Run a benchmark from the repository root."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *map(str, words)]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560, env=environment)


def results_of(folder: Path, benchmark: str, *words: object) -> dict:
    result = run(benchmark, *words, "--output", folder / "result.json")
    assert result.returncode == 0, result.stderr
    content = json.loads((folder / "result.json").read_text())
    assert {"cpu", "cores", "torch", "torchvision"} <= set(content["machine"])
    assert content["settings"]["batch_size"] == 2
    return content["results"]


def test_step_measures_time_memory_and_ratios(tmp_path):
    figures = ("original", "original_kept", "ours")
    results = results_of(tmp_path, "step", *TINY, *ONCE, "--strategies", "cMax", "--figures", ",".join(figures))
    assert set(results["cMax"]) == {*figures, "ratios"}
    for name in figures:
        assert results["cMax"][name]["seconds"] > 0 and results["cMax"][name]["peak_memory"] > 1 << 20
    ratio = results["cMax"]["original"]["seconds"] / results["cMax"]["ours"]["seconds"]
    assert results["cMax"]["ratios"]["original/ours"] == pytest.approx(ratio)


def test_profile_shows_the_operators_that_take_most_time():
    result = run("step", *TINY, "--profile", "--strategies", "max")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("max\n") and "Self CPU %" in result.stdout and "convolution" in result.stdout


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--strategies", "cMax,cBest"], "cBest"),
        (["--figures", "speed"], "speed"),
        (["--image_size", "50"], "--image_size 50"),
        (["--batch_size", "3", "--accumulate", "2"], "--accumulate 2"),
        (["--architecture", "resnet19"], "--architecture resnet19"),
        (["--repeats", "0"], "--repeats 0"),
        (["--labels", "1,30"], "--labels 30 exceeds --classes 20"),
    ],
)
def test_step_refuses_arguments_that_it_cannot_measure(words, expected):
    with pytest.raises(UserError, match=expected):
        parse(step.Config, "", words)


def test_mistake_found_in_the_measuring_process_is_one_line():
    result = run("step", "--architecture", "resnet19", "--figures", "limit")
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: --architecture: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("gpu", [False, True])  # which decides how processes start
def test_a_measurement_that_fails_says_why_and_the_next_one_runs(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    results = measure.measured({"root": (math.sqrt, -1), "settings": (dict, [("seconds", 0.5)])}, "of -1,")
    assert results["root"]["failed"].startswith("ValueError") and results["settings"] == {"seconds": 0.5}
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("of -1, root ") and "ValueError" in first and "0.5000 s" in second
    assert measure.ratios(results, "seconds", "root/settings", "settings/settings") == {"settings/settings": 1}


def test_batch_norm_measures_every_way(tmp_path):
    ways = ("plain", "ours", "crops", "at_once", "view")
    results = results_of(tmp_path, "batch_norm", *TINY, *ONCE, "--ways", ",".join(ways))
    assert set(results) == {"forward, no gradient", "forward and backward"}
    for measured in results.values():
        assert set(measured["seconds"]) == set(ways) and min(measured["seconds"].values()) > 0
        moved = measured["bytes_moved"]
        assert moved["plain"] == pytest.approx(moved["least"], rel=0.01)  # reads its input twice, as the least does
        assert moved["at_once"] > moved["crops"] >= moved["least"] * 0.99


def tile_by_tile(x: torch.Tensor) -> torch.Tensor:
    """Reorder `[crops · 4, …]` as the way "view" needs it."""
    return x.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1).contiguous()


def crop_by_crop(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)


def normalized(way: str, precision: str) -> list[torch.Tensor]:
    """Return output, gradients and running statistics of a way on three crops."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(12, 8, 5, 6, generator=generator) for _ in range(2)]
    x, grad_output = (tensor.mul(2).add(0.5).to(batch_norm.TYPES[precision]) for tensor in numbers)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = GroupedBatchNorm2d(8)
    layer.groups = Groups(3)
    with torch.no_grad():
        layer.weight.add_(torch.arange(8) / 8), layer.bias.sub_(torch.arange(8) / 4)
    run = batch_norm.WAYS[way]
    if way == "library":
        result = torch.cat([torch.nn.BatchNorm2d.forward(layer, part) for part in x.chunk(3)])
    else:
        result = crop_by_crop(run(layer, tile_by_tile(x))) if way == "view" else run(layer, x)
    result.backward(grad_output)
    return [result, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]


def assert_equals_the_library(way: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batch_norm.WAYS, "library", None)
    tolerance = {"float32": 1e-5, "bf16": 4e-2, "fp16": 5e-3}[precision]
    names = ("output", "gradient", "weight's gradient", "bias's gradient", "running mean", "running variance")
    for name, ours, expected in zip(names, normalized(way, precision), normalized("library", precision), strict=True):
        assert ours.dtype == expected.dtype
        scale = float(expected.float().abs().max())
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * scale, msg=f"{way}: {name}")


@pytest.mark.parametrize("precision", batch_norm.TYPES)
@pytest.mark.parametrize("way", ["ours", "crops", "at_once", "view"])
def test_ways_of_batch_norm_equal_the_library_s_crop_by_crop(way, precision, monkeypatch):
    assert_equals_the_library(way, precision, monkeypatch)


def test_data_measures_both_loaders(tmp_path, toy):
    words = ("--data_dir", toy, "--split", "Main/val", "--images", 5, "--workers", 1, *ONCE)
    sizes = ("--batch_size", 2, "--image_size", 32, "--min_image_size", 20, "--max_image_size", 40)
    results = results_of(tmp_path, "data", *words, *sizes)
    assert set(results) == {"1"}
    for pair in results.values():
        for kind in ("published", "ours"):
            assert pair[kind]["images"] == 4  # a last incomplete batch is left out
            assert pair[kind]["per_core"] == pytest.approx(4 / pair[kind]["seconds"])
        assert pair["ours/published"] == pytest.approx(pair["ours"]["per_core"] / pair["published"]["per_core"])


def test_evaluate_measures_the_loop_the_bare_network_and_the_published_one(tmp_path, toy):
    words = ("--data_dir", toy, "--split", "Main/val", "--images", 3, "--num_workers", 0)
    results = results_of(tmp_path, "evaluate", *TINY, *ONCE, *words)
    for kind in ("bare", "evaluation", "published"):
        assert results[kind]["images"] == 3
        assert results[kind]["images_per_second"] == pytest.approx(3 / results[kind]["seconds"])
    for kind in ("bare", "published"):
        ratio = results[kind]["seconds"] / results["evaluation"]["seconds"]
        assert results[f"evaluation/{kind}"] == pytest.approx(ratio)


@pytest.fixture
def in_this_process(tmp_path, monkeypatch):
    """A function that runs a benchmark's `main` and all that it measures in this process, and returns its results."""

    def measured(calls: dict[str, tuple], title: str = "") -> dict[str, dict]:
        return {name: function(*arguments) for name, (function, *arguments) in calls.items()}

    monkeypatch.setattr(measure, "measured", measured)
    monkeypatch.setattr(measure, "choose_device", lambda name, keep_memory: torch.device(name))

    def results(benchmark: ModuleType, *words: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words), "--output", str(tmp_path / "result.json")])
        benchmark.main()
        return json.loads((tmp_path / "result.json").read_text())["results"]

    return results


def test_waits_need_a_gpu():
    result = run("waits", *TINY)
    assert result.returncode == 2 and "give --device cuda" in result.stderr and result.stderr.count("\n") == 1


def test_every_wait_is_shown_with_the_project_s_line(monkeypatch):
    """CUDA's own warnings need a GPU: these are like them."""

    def wait() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    def waits_once_per_iteration() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    assert hasattr(Trainer, waits.EXPECTED)
    monkeypatch.setattr(waits, "EXPECTED", "waits_once_per_iteration")
    places = waits.lines_that_warn(lambda: [wait(), waits_once_per_iteration(), wait()])
    ((place, count),) = places.items()
    assert count == 2 and place.startswith("tests/test_benchmarks.py:") and "synchronizing" in place


def test_scaling_measures_steps_and_evaluation(in_this_process, tmp_path):
    words = ("--device", "cpu", "--architecture", "resnet18", "--image_size", 32, "--batch_size", 2, "--quick")
    results = in_this_process(scaling, *words, *ONCE)
    assert {name: list(cases) for name, cases in results["steps"].items()} == {
        "image_size": ["32"],
        "labels": ["1", "3"],
    }
    assert list(results["evaluation"]) == [f"{part}, 5 classes" for part in scaling.PARTS]
    for cases in (*results["steps"].values(), *results["evaluation"].values()):
        assert all(case["seconds"] > 0 and case["peak_memory"] > 1 << 20 for case in cases.values())
    assert (tmp_path / "result.png").stat().st_size > 1000


def test_programs_that_need_no_pytorch_answer_without_it():
    """`--help` and a mistyped argument; seconds are measured by benchmarks.start, which names every program."""
    code = "import sys; from tools import {0}; sys.exit(' '.join({{'torch', 'sklearn'}} & {{*sys.modules}}) or 0)"
    for name in start.TOOLS:
        result = subprocess.run([sys.executable, "-c", code.format(name)], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, f"tools/{name}.py imports {result.stderr}"


def test_start_measures_programs_and_a_first_iteration(tmp_path):
    result = run("start", "--programs", "tools.plot_classes", *ONCE, "--output", tmp_path / "result.json")
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    assert set(results) == {"import torch", "tools.plot_classes", "first iteration"}
    assert set(results["tools.plot_classes"]) == {"--help", "--mistyped"}
    assert 0 < results["tools.plot_classes"]["--help"] < results["import torch"] < results["first iteration"]


def test_published_pipeline_equals_ours_except_for_rounding(toy):
    transform = published.TrainingTransform(64, 64, 64)
    image = Image.open(next((toy / "JPEGImages").glob("*.jpg"))).resize((64, 64))
    ours = normalize(training_transform(64, 64, 64)(image))
    theirs = transform(image)
    assert theirs.shape == (3, 64, 64)
    assert min((ours - theirs).abs().max(), (ours.flip(-1) - theirs).abs().max()) < 1e-5


def test_summary_reads_the_published_results():
    result = run("summary", "benchmarks/results", "cpu")
    assert result.returncode == 0, result.stderr
    times, memory = (table.splitlines() for table in result.stdout.strip().split("\n\n"))
    assert len(times) == len(memory) == 15  # header, four strategies three times, Max in two parts
    folder = ROOT / "benchmarks/results"
    names = ("original", "float32")
    original, ours = (json.loads((folder / f"step_cpu_{name}.json").read_text())["results"]["max"] for name in names)
    for table, quantity in ((times, "seconds"), (memory, "peak_memory")):
        row = dict(zip(*(map(str.strip, table[line].strip("|").split("|")) for line in (0, 2)), strict=True))
        assert (row["strategy"], row["precision"]) == ("max", "float32")
        assert row["ours"] == measure.shown(ours["ours"], quantity)
        label = "original/ours" if table is times else "memory ours/original"
        ratio = original["original"][quantity] / ours["ours"][quantity]
        assert float(row[label]) == pytest.approx(ratio if table is times else 1 / ratio, abs=1e-3)


def test_gpu_sh_refuses_in_one_line_without_a_gpu(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    if subprocess.run(["bash", "-c", "nvidia-smi -L"], capture_output=True, env=environment).returncode == 0:
        pytest.skip("there is a GPU")
    result = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("error: no GPU") and result.stderr.count("\n") == 1


def test_gpu_sh_names_what_it_had_no_time_for(tmp_path):
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "DEVICE": "cpu", "LIMIT": "0"}
    command = ["bash", ROOT / "benchmarks/gpu.sh"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment | {"RESULTS": str(tmp_path)})
    assert result.returncode == 1 and result.stdout.startswith("== summary\n")
    lines = result.stderr.splitlines()
    assert len(lines) > 10 and all(line.startswith("failed: python -m ") for line in lines)
    assert all(line.endswith("(no time left)") for line in lines)
