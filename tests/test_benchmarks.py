"""Every benchmark runs and writes what it says, at sizes at which its times mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import step
from benchmarks.data import PublishedTransform
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
    results = results_of(tmp_path, "step", *TINY, *ONCE, "--strategies", "cMax", "--figures", "original,ours")
    assert set(results["cMax"]) == {"original", "ours", "ratios"}
    for name in ("original", "ours"):
        assert results["cMax"][name]["seconds"] > 0 and results["cMax"][name]["peak_memory"] > 1 << 20
    ratio = results["cMax"]["original"]["seconds"] / results["cMax"]["ours"]["seconds"]
    assert results["cMax"]["ratios"]["original/ours"] == pytest.approx(ratio)


def test_profile_shows_ten_operators():
    result = run("step", *TINY, "--profile", "--strategies", "max")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("max\n") and result.stdout.count("%") == 10 and "convolution" in result.stdout


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--strategies", "cMax,cBest"], "cBest"),
        (["--figures", "speed"], "speed"),
        (["--image_size", "50"], "--image_size 50"),
        (["--batch_size", "3", "--accumulate", "2"], "--accumulate 2"),
        (["--architecture", "resnet19"], "--architecture resnet19"),
        (["--repeats", "0"], "--repeats 0"),
    ],
)
def test_step_refuses_arguments_that_it_cannot_measure(words, expected):
    with pytest.raises(UserError, match=expected):
        parse(step.Config, "", words)


def test_mistake_found_in_the_measuring_process_is_one_line():
    result = run("step", "--architecture", "resnet19", "--figures", "limit")
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: --architecture: ") and result.stderr.count("\n") == 1


def test_batch_norm_measures_every_way(tmp_path):
    results = results_of(tmp_path, "batch_norm", *TINY, *ONCE)
    assert set(results) == {"forward, no gradient", "forward and backward"}
    for sums in results.values():
        assert set(sums) == {"plain", "ours", "joined", "var_mean"} and min(sums.values()) > 0


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


def test_evaluate_measures_the_loop_and_the_bare_network(tmp_path, toy):
    words = ("--data_dir", toy, "--split", "Main/val", "--images", 3, "--num_workers", 0)
    results = results_of(tmp_path, "evaluate", *TINY, *ONCE, *words)
    for kind in ("bare", "evaluation"):
        assert results[kind]["images"] == 3
        assert results[kind]["images_per_second"] == pytest.approx(3 / results[kind]["seconds"])
    ratio = results["bare"]["seconds"] / results["evaluation"]["seconds"]
    assert results["evaluation/bare"] == pytest.approx(ratio)


def test_published_pipeline_equals_ours_except_for_rounding(toy):
    published = PublishedTransform(64, 64, 64)
    image = Image.open(next((toy / "JPEGImages").glob("*.jpg"))).resize((64, 64))
    ours = normalize(training_transform(64, 64, 64)(image))
    theirs = published(image)
    assert theirs.shape == (3, 64, 64)
    assert min((ours - theirs).abs().max(), (ours.flip(-1) - theirs).abs().max()) < 1e-5


def test_summary_reads_the_published_results():
    result = run("summary", "benchmarks/results", "cpu")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 10  # a header, four strategies in two precisions, and Max with two micro-batches
    assert lines[1].split() == ["max", "float32", "11.0267", "1.183", "1.078", "0.000", "5387", "(7202)"]


def test_gpu_sh_refuses_in_one_line_without_a_gpu(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    if subprocess.run(["bash", "-c", "nvidia-smi -L"], capture_output=True, env=environment).returncode == 0:
        pytest.skip("there is a GPU")
    result = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("error: no GPU") and result.stderr.count("\n") == 1
