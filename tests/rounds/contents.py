"""Rounds of files that are whole and hold odd values: states, checkpoints, and the descriptions beside them."""

import copy
import json
import random
import resource
from pathlib import Path
from typing import Any

import torch

from tests.helpers.command_line import SCRIPTS
from tests.rounds.sandbox import run
from tests.rounds.setting import Tally, World
from tests.rounds.shortages import address_space, limited
from tools.runs.checkpoints import Description, save_checkpoint

VALUES = [None, True, False, -1, 0, 1, 33, 10**9, 10**30, -(10**30), 1.5, 1e308, -1e308, float("nan"), float("inf")]
VALUES += ["", "x", "cMax", "resnet18", "../../x", "\x1b[31mred", "x" * 300, "犬", [], [1], ["cat", "cat"], [[[]]], {}]
VALUES += [{"a": 1}, {"": None}, (1, 2)]
TENSORS = [
    lambda old: torch.zeros(()),
    lambda old: torch.zeros(0),
    lambda old: torch.zeros(3, 7),
    lambda old: torch.full_like(old, 200),
    lambda old: torch.full_like(old, float("nan")) if old.is_floating_point() else old.bool(),
    lambda old: old.as_strided(old.shape, [0] * old.dim()),
    lambda old: old[None],
    lambda old: old.double(),
    lambda old: old.to(torch.int32),
    lambda old: old.to(torch.complex64),
    lambda old: old.to("meta"),
    lambda old: old.float().to_sparse(),
    lambda old: torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8),
]


def states(world: World, count: int) -> Tally:
    """Continue from a state of which one to three values are others."""
    tally = Tally("states with odd values")
    folder = world.folder()
    words = (*world.tiny((SCRIPTS["cTopk_w"],), "x"), "--keep", "all")
    assert run(folder, *words).status == 0
    state = torch.load(folder / "experiments/states/x.pth", weights_only=True)
    for _ in range(count):
        changed, folder = copy.deepcopy(state), world.folder()
        what = [_change(world.chance, changed) for _ in range(world.chance.choice([1, 1, 2, 3]))]
        torch.save(changed, folder / "state.pth")
        _try(world, tally, folder, what, *words, "--max_epoch", 2, "--resume", "state.pth", "--force")
    return tally


def checkpoints(world: World, count: int) -> Tally:
    """Evaluate, draw and start from a checkpoint of which values are others, or those of its description."""
    tally = Tally("checkpoints and descriptions with odd values")
    folder = world.folder()
    words = world.tiny((SCRIPTS["cTopk_w"],), "x")
    assert run(folder, *words).status == 0
    model = folder / "experiments/models/best_x.pth"
    weights, description = torch.load(model, weights_only=True), json.loads(model.with_suffix(".json").read_text())
    description = {name: value for name, value in description.items() if not name.endswith("_sha256")}
    using = ("--weights", "m.pth", "--device", "cpu", "--num_workers", 0)
    split = ("--data_dir", world.toy, "--split", "Main/val")
    programs = [
        ("evaluate_classification.py", *using, *split, "--bootstrap", 10, "--localization"),
        ("inference_classification.py", *using, "--images", next((world.toy / "JPEGImages").iterdir()), "--pictures"),
        ("inference_classification.py", *using, *split, "--compare", "--count", 1),
        ("inference_classification.py", *using, *split, "--tiles", "--count", 1),
        (*words, "--weights", "m.pth"),
    ]
    for case in range(count):
        folder, changed, described = world.folder(), copy.copy(weights), copy.deepcopy(description)
        path = folder / "m.pth"
        if case % 3 == 0:
            what = _change(world.chance, changed)
            torch.save(changed, path)
        else:
            save_checkpoint(path, weights, Description())
            what = _change(world.chance, described)
        path.with_suffix(".json").write_text(json.dumps(described))
        _try(world, tally, folder, what, *programs[case % len(programs)])
    return tally


def _try(world: World, tally: Tally, folder: Path, what: object, *words: object) -> None:
    ended = run(folder, *words, prepare=limited(resource.RLIMIT_AS, address_space() + (4 << 30)), seconds=40)
    tally.add(ended.fault(), (words[0], what), f"status {ended.status}")
    world.remove(folder)


def _change(chance: random.Random, inside: Any) -> str:
    """Replace, remove or add a value somewhere in nested dictionaries and lists; say where and how."""
    place = ""
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        if not keys:
            return "nothing"
        key = chance.choice(keys)
        place += f".{key}"
        if not isinstance(inside[key], (dict, list)) or not inside[key] or chance.random() < 0.2:
            break
        inside = inside[key]
    old, kind = inside[key], chance.choice(["replaced"] * 6 + ["removed", "added"])
    if kind == "removed":
        del inside[key]
    elif kind == "added" and isinstance(inside, dict):
        inside[chance.choice(["x", "", 7, "\x1b[31m"])] = chance.choice(VALUES)
    elif isinstance(old, torch.Tensor) and chance.random() < 0.7:
        number = chance.randrange(len(TENSORS))
        inside[key] = TENSORS[number](old)
        kind = f"tensor {number}"
    else:
        inside[key] = chance.choice(VALUES)
        kind = f"replaced by {str(inside[key])[:30]!r}"
    return f"{place[1:]}: {kind}"
