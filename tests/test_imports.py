"""What imports what, and how long functions and scripts are: the shape of the project, read from its source."""

import ast
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT, SCRIPTS

MAX_FUNCTION_LINES = 45
MAX_SCRIPT_LINES = 40
LIBRARIES = ("tools.data", "tools.metrics", "tools.pictures", "tools.runs", "tools.system")
# The parts of the project, and the parts that each may import besides itself.
ARROWS = {
    "core": (),
    "core.evaluation": ("core", *LIBRARIES),
    "core.training": ("core", "core.evaluation", *LIBRARIES),
    "tools": ("tools.reproduction", *LIBRARIES),
    "tools.reproduction": LIBRARIES,
    **dict.fromkeys(LIBRARIES, LIBRARIES),
    "tools.system": (),
    "scripts": ("core", "core.evaluation", "core.training", "tools", "tools.reproduction", *LIBRARIES),
    "baselines": ("core", "core.training"),
    # The original algorithm that the benchmarks measure is the tests' oracle.
    "benchmarks": ("scripts", "core", "core.evaluation", "core.training", *LIBRARIES, "tests"),
}
FILES = [
    path.relative_to(ROOT)
    for pattern in ("*.py", "core/**/*.py", "tools/**/*.py", "baselines/*.py", "benchmarks/*.py", "docs/**/*.py")
    for path in sorted(ROOT.glob(pattern))
]


def part_of(module: str) -> str | None:
    """Return the part of the project that a module belongs to; None for a module of Python or of a library."""
    names = module.split(".")
    if names[0] not in ("core", "tools", "baselines", "benchmarks", "tests"):
        return "scripts" if (ROOT / f"{names[0]}.py").exists() else None
    folder = ".".join(names[:2])
    return folder if folder in ARROWS else names[0]


def part_of_file(path: Path) -> str:
    return "scripts" if path.parts[0] == "docs" else part_of(".".join(path.with_suffix("").parts))


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the full name of every imported module, wherever the import is."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            full = {f"{node.module}.{name.name}" for name in node.names}
            # `from core import training` imports a module, `from core.cam import make_cam` a function.
            modules |= {name if (ROOT / name.replace(".", "/")).is_dir() else node.module for name in full}
    return modules


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_imports_only_what_its_part_may(path):
    own = part_of_file(path)
    parts = {module: part_of(module) for module in imported_modules(tree_of(path))}
    wrong = [module for module, part in parts.items() if part and part != own and part not in ARROWS[own]]
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent == Path("core")], ids=str)
def test_the_method_needs_only_torch_and_torchvision(path):
    known = {*sys.stdlib_module_names, "core", "torch", "torchvision", "timm"}  # timm is optional
    assert {module.split(".")[0] for module in imported_modules(tree_of(path))} <= known


def test_no_file_has_a_star_import():
    starred = [
        str(path)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names)
    ]
    assert starred == []


def test_functions_fit_on_a_screen():
    lengths = {
        f"{path}: {node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_a_training_script_fits_on_a_screen(script):
    assert len((ROOT / script).read_text().splitlines()) <= MAX_SCRIPT_LINES
