"""Every command in README.md and docs/*.md is run, or checked as far as it can be without VOC.

A comment on the line before a block of commands (``` or ```bash) says how it is tested:

    <!-- toy -->         run as written, in a folder with a toy set, checkpoints and photographs (see `workshop`)
    <!-- toy slow -->    the same, with the slow tests
    <!-- own test -->    run by a test file of its own (docs/own-data.md: tests/test_own_data.py)
    <!-- needs VOC -->   not run; its scripts must exist and know its arguments
    <!-- needs GPUs -->  the same
    <!-- output -->      not commands: what a program prints, or the content of a file

Without a comment, a block that names `$your_dir` or VOC2012 needs VOC, and a block in which no line begins with a
program is output. Any other block without a comment is an error.
Blocks of ```python are run too, after the commands. The blocks of a page share a folder and run in order.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from core.networks import Classifier
from core.strategy import Options
from core.training.config import OF_TEACHERS, Config
from tests.helpers.command_line import PAPER, ROOT, SCRIPTS, run, small_with
from tests.helpers.pages import Block, blocks_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKERS = ("toy", "toy slow", "own test", "needs VOC", "needs GPUs", "output")
# These make a virtual environment and take minutes: other tests, or CI itself, run them.
WHOLE_COMMANDS = {"bash quickstart.sh", "bash test.sh", "bash test.sh -m slow"}
PROGRAMS = ("python3?", "bash", "torchrun", "pip3?", "tensorboard", "ruff", "wget", "tar", "git")
# In toy blocks the command `python3` appends these arguments; the last value of an argument counts.
TOY_SIZES = {
    "train_classification_*|docs/examples/*": "--architecture resnet18 --weights none --num_workers 0 --batch_size 16 "
    "--image_size 64 --min_image_size 64 --max_image_size 80 --max_epoch 2 --lr 0.01",
    "evaluate_classification.py|reproduce_tables.py": "--num_workers 0",
}
# What docs/running.md calls $RUN.
LISTS = "--train_split Main/train --val_split Main/val"
RUN = f"{SCRIPTS['cTopk_w']} {' '.join(PAPER)} --data_dir toy_voc {LISTS} --tag running"
TOY_MODULES = {"tools.make_toy_voc": "--images 100 --image_size 64 --seed 1"}


def kind_of(block: Block) -> str:
    """Return how a block of commands is tested."""
    if block.marker:
        return block.marker
    if set(block.text.splitlines()) <= WHOLE_COMMANDS:
        return "whole"
    if "$your_dir" in block.text or "VOC2012" in block.text:
        return "needs VOC"
    return "" if re.search(rf"^(\w+=\S+ )*({'|'.join(PROGRAMS)})\b", block.text, re.MULTILINE) else "output"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [block for block in BLOCKS if block.language in ("", "bash", "sh")]


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in COMMANDS if kind_of(block) in kinds]


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_every_block_says_how_it_is_tested(block):
    assert kind_of(block) in (*MARKERS, "whole"), (
        f"{block}: write one of {', '.join(f'<!-- {marker} -->' for marker in MARKERS)} on the line before the block "
        "(tests/test_docs.py explains them)"
    )


@pytest.mark.parametrize("block", of_kind("whole"), ids=str)
def test_scripts_that_install_are_valid_bash(block):
    for command in block.text.splitlines():
        subprocess.run(["bash", "-n", ROOT / command.split()[1]], check=True)


# Without VOC --------------------------------------------------------------------------------------------------------


def commands_of(text: str) -> list[list[str]]:
    """Return the words of every `python3` or `python` command of a block."""
    joined = text.replace("\\\n", " ").replace("$RUN", RUN)
    words = [shlex.split(line, comments=True) for line in joined.splitlines() if "python" in line]
    return [line for line in words if line and line[0] in ("python3", "python")]


def help_of(words: list[str]) -> str:
    """Return what a script or module of the project prints for --help."""
    threads = torch.get_num_threads()
    before, printed = (sys.argv, sys.path), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.argv, sys.path = [words[0], "--help"], [str((ROOT / words[0]).parent), *sys.path]
    try:
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__")
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    finally:
        sys.argv, sys.path = before
    assert not end.value.code
    assert torch.get_num_threads() == threads, f"{words}: --help changes the number of threads"
    printed.seek(0)
    return printed.read()


@pytest.mark.parametrize("block", of_kind("needs VOC", "needs GPUs"), ids=str)
def test_commands_that_need_voc_name_existing_scripts_and_arguments(block):
    for words in commands_of(block.text):
        if words[1] == "-m" and words[2] in ("venv", "pip"):
            continue
        end = words.index("--") if "--" in words else len(words)
        passed = [SCRIPTS["cMax"], *words[end + 1 :]]  # on to the training scripts
        for command in (words[1:end], passed):
            known = set(re.findall(r"--\w+", help_of(command)))
            unknown = [word for word in command if word.startswith("--") and word.split("=")[0] not in known]
            assert not unknown, f"{block}: {command[0]} does not know {', '.join(unknown)}"


# At toy size --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def workshop(toy, tmp_path_factory) -> Path:
    """Make what toy blocks need: toy_voc, photos, trained runs Toy_cTopk_w and Toy_cMax, and official.pth."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "toy_voc").symlink_to(toy)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("one.jpg", (90, 120)), ("two.png", (200, 80)), ("three.jpg", (64, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / "photos" / name)
    for tag, strategy in (("Toy_cTopk_w", "cTopk_w"), ("Toy_cMax", "cMax")):
        result = run(folder, SCRIPTS[strategy], *small_with(data_dir=toy, tag=tag, max_epoch=1, lr=0.01))
        assert result.returncode == 0, result.stderr
    torch.save(official_resnet50(), folder / "official.pth")
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        shim = folder / "bin" / name
        shim.write_text(python_at_toy_size())
        shim.chmod(0o755)
    words = next(iter(TOY_SIZES.values()))
    shim = folder / "bin" / "torchrun"
    shim.write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m torch.distributed.run "$@" {words}\n')
    shim.chmod(0o755)
    rooms = ("baselines", "core", "tools", "data", "docs", "benchmarks")
    for name in (*rooms, *(path.name for path in ROOT.glob("*.py"))):
        (folder / name).symlink_to(ROOT / name)
    return folder


def official_resnet50() -> dict[str, torch.Tensor]:
    """Return an untrained ResNet-50 of 20 classes with the parameter names of the official code."""
    theirs = {}
    for name, value in Classifier("resnet50", 20).state_dict().items():
        if name.startswith("instances.") and value.dim() == 2:
            kind = name.removeprefix("instances.")
            pattern = "stage6.{}.weight" if kind == "weight" else "BN.{}." + kind.removeprefix("bn_")
            for v, row in enumerate(value):
                theirs[pattern.format(v)] = row[None, :, None, None] if kind == "weight" else row
        elif not name.startswith("instances."):
            theirs[name.replace("backbone.", "model.", 1)] = value
    return theirs


def python_at_toy_size() -> str:
    """Return a shell script that calls Python and appends the arguments of `TOY_SIZES` and `TOY_MODULES`."""
    cases = [f'    {pattern}) set -- "$@" {words} ;;' for pattern, words in TOY_SIZES.items()]
    modules = [f'    "-m {module}") set -- "$@" {words} ;;' for module, words in TOY_MODULES.items()]
    script = ["#!/bin/bash", 'case "$1" in', *cases, "esac", 'case "$1 $2" in', *modules, "esac"]
    return "\n".join([*script, f'exec {shlex.quote(sys.executable)} "$@"', ""])


def run_in_shell(folder: Path, commands: str) -> str:
    """Run commands as typed in the workshop; return what they print."""
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "RUN": RUN,
    }
    words = ["bash", "-euo", "pipefail", "-c", commands]
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, f"{commands}\n{result.stderr[-2000:]}"
    return result.stdout


@pytest.mark.parametrize("block", of_kind("toy"), ids=str)
def test_toy_commands_run_as_written(workshop, block):
    for path in re.findall(r"^written: (\S+)", run_in_shell(workshop, block.text), re.MULTILINE):
        assert (workshop / path).stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("block", of_kind("toy slow"), ids=str)
def test_slow_toy_commands_run_as_written(workshop, block):
    run_in_shell(workshop, block.text)


PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}), ids=lambda page: page.name)
def test_python_blocks_run_in_order(workshop, page, monkeypatch):
    monkeypatch.chdir(workshop)
    names = {"torch": torch, "Options": Options}  # an excerpt may need the imports of its file
    for block in PYTHON:
        if block.page == page:
            exec(compile(block.text, str(block), "exec"), names)


# Pages and pictures -------------------------------------------------------------------------------------------------


def without_code(page: Path) -> str:
    """Return the text of a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> list[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CHANGELOG.md", ROOT / "tests/golden/README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_and_anchors_have_a_target(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", without_code(page))):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors_of(linked), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_pages_lead_back_and_on(page):
    """The README's table lists every page, and the last line of a page leads there and to the page to read next."""
    table = PAGES[0].read_text(encoding="utf-8").split("## What do you want to do?\n")[1].split("\n## ")[0]
    assert f"(docs/{page.name})" in table
    last = page.read_text(encoding="utf-8").splitlines()[-1]
    back = re.escape("[All pages](../README.md#what-do-you-want-to-do)")
    onward = re.fullmatch(rf"{back} · next: \[.+\]\(([\w-]+\.md)(#[\w-]+)?\)", last)
    assert onward and onward[1] != page.name, f"{page.name}: the last line is {last}"


def test_the_two_commands_are_in_the_readme_s_first_screen():
    assert WHOLE_COMMANDS - {"bash test.sh -m slow"} <= set(PAGES[0].read_text(encoding="utf-8").splitlines()[:25])


def test_the_page_of_arguments_names_all_of_training():
    page = (ROOT / "docs/arguments.md").read_text(encoding="utf-8")
    names = [*OF_TEACHERS, *(item.name for item in fields(Config))]
    assert not [name for name in names if not re.search(rf"`--{name}\b", page)]


def test_the_citation_file_names_the_paper_as_the_readme_does():
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(about)  # what the format requires
    paper, readme = about["preferred-citation"], PAGES[0].read_text(encoding="utf-8")
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for value in (authors, paper["title"], paper["conference"]["name"], paper["collection-title"], paper["year"]):
        assert f"{{{value}}}" in readme
    assert paper["url"] in readme


def test_pictures_are_small_and_appear_in_a_page():
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name
        assert picture.name in shown, picture.name


def test_code_that_pages_name_exists():
    """`file.py: name, name` in a page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path, names in re.findall(r"`((?:core|tools)/[\w/]+\.py): ([\w`, ]+?)`", text):
            code = (ROOT / path).read_text(encoding="utf-8")
            for name in re.findall(r"\w+", names):
                assert re.search(rf"^(def|class) {name}\b", code, re.MULTILINE), (
                    f"{page.name}: {path} does not define {name}"
                )


def test_fifth_strategy_matches_its_page_and_cuts_at_the_center_of_mass():
    page = (ROOT / "docs/change-the-method.md").read_text()
    example = (ROOT / "docs/examples/fifth_strategy.py").read_text()
    (excerpt,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert excerpt in example
    center_of_mass = runpy.run_path(str(ROOT / "docs/examples/fifth_strategy.py"))["center_of_mass_keypoints"]
    maps = torch.zeros(3, 8, 8)
    maps[0, 2, 5] = 1  # the cell of rows 32…47, columns 80…95
    maps[1, 0, :] = 0.5
    plain = Options(own={"sharpness": 1.0})
    found = center_of_mass(maps, 128, plain)
    assert found.tolist() == [[40, 88], [8, 64], [64, 64]]
    weights = torch.rand(1, 8, 8)
    cell_centers = (np.arange(8) + 0.5) * 16
    expected = [np.average(cell_centers, weights=weights[0].sum(axis).numpy()) for axis in (1, 0)]
    assert np.abs(center_of_mass(weights, 128, plain)[0].numpy() - expected).max() <= 0.51
