"""What the official code does around its steps, against ours: first weights, defaults, names, the validation's loss.

Numbers are in tests/golden/official.npz, names and defaults in tests/golden/official.json (see the README there).
"""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core.losses import class_loss
from core.networks import Classifier
from core.optimizer import parameter_groups
from core.training import train
from core.training.config import IGNORED_ARGUMENTS, config_class
from core.weights import load_weights
from tests.helpers import oracle
from tests.helpers.command_line import ROOT, SCRIPTS, small_with
from tests.helpers.golden import strategy_of
from tools.data.writing import print_next_commands
from tools.runs.folder import Folder

CHANNELS, CLASSES = 2048, 20
SEEDS = range(5)
OFFICIAL = json.loads((ROOT / "tests/golden/official.json").read_text())
PAGE = (ROOT / "docs/migration.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(ROOT / "tests/golden/official.npz"))


def test_the_numbers_are_the_shared_ones(official):
    file = ROOT.parent / "shared/golden/rivals/units_rivals.npz"
    if not file.is_file():
        pytest.skip("needs ../shared/golden/rivals")
    shared = np.load(file)
    names = {name for name in shared.files if name.startswith(("init_", "eval_class_loss"))}
    assert names == {name for name in official if name in shared.files}
    assert all(np.array_equal(official[name], shared[name]) for name in names)


# First weights ------------------------------------------------------------------------------------------------------


def our_first_weights(monkeypatch) -> dict[str, torch.Tensor]:
    """Return the first weights of a network with D = 2048, under the official names, those of the classes stacked."""
    monkeypatch.setattr("core.networks.build_backbone", lambda name: (nn.Identity(), CHANNELS))
    network = Classifier("resnet50", CLASSES)
    instances = network.instances
    return {
        "classifier": network.classifier.weight.flatten(1),
        "stage6": instances.weight,
        "bn_weight": instances.bn_weight,
        "bn_bias": instances.bn_bias,
    }


def literal_first_weights(monkeypatch) -> dict[str, torch.Tensor]:
    head = oracle.OracleClassifier(nn.Identity(), CHANNELS, CLASSES)
    return {
        "classifier": head.classifier.weight.flatten(1),
        "stage6": torch.stack([layer.weight.flatten() for layer in head.stage6]),
        "bn_weight": torch.stack([layer.weight for layer in head.BN]),
        "bn_bias": torch.stack([layer.bias for layer in head.BN]),
    }


@pytest.mark.parametrize("first_weights", [our_first_weights, literal_first_weights])
@pytest.mark.parametrize("seed", SEEDS)
def test_first_weights_are_distributed_as_the_official_ones(first_weights, seed, official, monkeypatch):
    torch.manual_seed(seed)
    weights = {name: value.detach().double().numpy() for name, value in first_weights(monkeypatch).items()}
    assert {name: value.shape for name, value in weights.items()} == dict.fromkeys(weights, (CLASSES, CHANNELS))
    assert weights["classifier"].std() == pytest.approx(official["init_classifier"][seed, 0], rel=0.03)
    deviations, least, most = official["init_stage6"][seed].T  # of each class
    assert weights["stage6"].std(1) == pytest.approx(deviations, rel=0.05)
    bound = CHANNELS**-0.5
    assert np.abs(weights["stage6"]).max() <= bound and max(-least.min(), most.max()) <= bound
    assert (np.abs(weights["stage6"]).max(1) > 0.98 * bound).all()  # uniform: it reaches its bound
    for name in ("bn_weight", "bn_bias"):
        found = np.stack([weights[name].std(1), weights[name].min(1), weights[name].max(1)], axis=1)
        assert np.array_equal(found, official[f"init_{name}"][seed])


def test_the_parameter_groups_hold_the_official_parameters(official):
    with torch.device("meta"):
        groups = parameter_groups(Classifier("resnet50", CLASSES), lr=0.1, wd=1e-4)
    # Ours stack the classes: three parameters of the head (two weights, one bias) are twenty each there.
    backbone_weights, backbone_biases, weights, biases = (len(group["params"]) for group in groups)
    counts = [backbone_weights, backbone_biases, 1 + CLASSES * (weights - 1), CLASSES * biases]
    assert counts == official["init_group_sizes"].tolist()


# The loss of the validation ----------------------------------------------------------------------------------------


def test_the_validation_loss_is_the_official_one_as_a_mean_over_images(official):
    logits, labels = (torch.from_numpy(official[f"eval_{name}"]).float() for name in ("logits", "labels"))
    of_images = official["eval_class_loss_images"]
    for image, expected in enumerate(of_images):
        assert float(class_loss(logits[image : image + 1], labels[image : image + 1])) == pytest.approx(
            expected, abs=1e-6
        )
    assert float(class_loss(logits, labels)) == pytest.approx(of_images.mean(dtype=float), abs=1e-6)
    batches = [float(class_loss(*pair)) for pair in zip(logits.split(32), labels.split(32), strict=True)]
    complete, whole = official["eval_class_loss_and_map"][:, 0]
    assert np.mean(batches[:2]) == pytest.approx(complete, abs=1e-6)
    assert np.mean(batches) == pytest.approx(whole, abs=1e-6)  # the mean over batches: the departure


# Names and defaults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_official_argument_has_the_official_default(name):
    ours = {item.name: item.default for item in fields(config_class(strategy_of("max" if name == "Max" else name)))}
    for row in OFFICIAL["arguments"]:
        if "here" in row:
            assert row["name"] in IGNORED_ARGUMENTS and row["name"] not in ours
        elif name in row.get("not_of", ()):
            assert row["name"] not in ours
        elif row["name"] == "data_dir":
            assert ours["data_dir"] is MISSING
        else:
            assert (ours[row["name"]], type(ours[row["name"]])) == (row["default"], type(row["default"])), row["name"]
    assert set(IGNORED_ARGUMENTS) == {row["name"] for row in OFFICIAL["arguments"] if "here" in row}


def test_every_training_command_says_the_weights_of_the_losses(capsys):
    """The paper's are not the defaults, so a command that leaves one out trains something else."""
    print_next_commands(Path("data"), None, "Main/train", "Main/val")
    texts = {"next": capsys.readouterr().out}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("*.sh"))}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    found = 0
    for name, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            if re.search(r"(^|\s)(python3?|RUN=)\S* *\S*(train_classification|fifth_strategy|\$script)", line):
                if "--config experiments/" in line:  # the file of a run holds its weights
                    continue
                assert "--alpha_schedule_re 0.05" in line and "--alpha_p 0.5" in line, f"{name}: {line}"
                # The study's table of smaller weights.
                assert "--alpha_re 3.00" in line or (name.endswith("study.md") and "--tag cMax_re0.5" in line), line
                found += 1
    assert found >= 16


def test_files_have_the_official_names():
    folder = Folder()
    ours = {"log": folder.log("x"), "history": folder.history("x"), "curves": folder.curves("x")}
    ours |= {"model": folder.model("x"), "best model": folder.model("x", "best_")}
    ours |= {"last model": folder.model("x", "last_")}
    for row in OFFICIAL["files"]:
        if row["kind"] == "read":
            assert (ROOT / row["name"]).is_file()
        else:
            assert ours.pop(row["kind"]) == Path(row["name"].format(tag="x"))
    assert not ours


@pytest.fixture(scope="module")
def tiny_run(toy, tmp_path_factory) -> Path:
    """A folder with a run of two epochs of two iterations, with TensorBoard curves."""
    folder = tmp_path_factory.mktemp("official")
    lists = folder / "data/ImageSets/Main"
    lists.mkdir(parents=True)
    for name in ("JPEGImages", "Annotations"):
        (folder / "data" / name).symlink_to(toy / name)
    ids = (toy / "ImageSets/Main/train.txt").read_text().split()
    for name, part in (("train", ids[:8]), ("val", ids[8:14])):
        (lists / f"{name}.txt").write_text("\n".join(part))
    words = small_with(data_dir=folder / "data", tag="x", max_epoch=2, batch_size=4, print_ratio=0.5, lr=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py", *map(str, words), "--tensorboard"])
        train(strategy_of("cMax"), "A test.")
    return folder


def here(rows: list[dict]) -> list[str]:
    """Return our names of the rows that have one."""
    return [row.get("here", row["name"]) for row in rows if row.get("here", "") is not None]


def test_log_and_history_have_the_official_names_in_the_official_order(tiny_run):
    history = json.loads((tiny_run / "experiments/data/x.json").read_text())
    log = (tiny_run / "experiments/logs/x.txt").read_text()
    patterns = {"train": r"^\[i\] (iteration=.*images/s)", "validation": r"^\[i\] (iteration=.*map=.*)$"}
    for kind, count in (("train", 4), ("validation", 2)):
        official = here(OFFICIAL[kind])
        lines = re.findall(patterns[kind], log, re.MULTILINE)
        assert len(history[kind]) == count and 2 <= len(lines) <= count  # within seconds, an epoch has one line
        assert all(list(row)[: len(official)] == official for row in history[kind])
        for line in lines:
            assert [part.split("=")[0] for part in line.split(", ")][: len(official)] == official
        assert [row["iteration"] for row in history[kind]] == {"train": [1, 2, 3, 4], "validation": [2, 4]}[kind]
    best = [row["best map"] for row in history["validation"]]
    values = [row["map"] for row in history["validation"]]
    assert best == [values[0], max(values)] and all(1 < value <= 100 for value in values)


def test_curves_have_the_official_tags_and_steps(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_run / "experiments/tensorboards/x"))
    events.Reload()
    history = json.loads((tiny_run / "experiments/data/x.json").read_text())
    written = set(events.Tags()["scalars"])
    for kind in ("train", "validation"):
        for row in OFFICIAL[kind]:
            if "tag" not in row or "here" in row:
                assert row.get("tag") not in written
                continue
            scalars = events.Scalars(row["tag"])
            assert [scalar.step for scalar in scalars] == [entry["iteration"] - 1 for entry in history[kind]]
            scale = 100 if row["name"].endswith("map") else 1
            expected = [entry[row["name"]] / scale for entry in history[kind]]
            assert [scalar.value for scalar in scalars] == pytest.approx(expected, rel=1e-5)
    assert all(tag.startswith(("Train/", "Evaluation/")) for tag in written)


def test_the_logged_loss_and_learning_rate_are_those_of_the_run(tiny_run):
    """lr 0.01 over four iterations; the losses of untrained logits are near ln 2."""
    history = json.loads((tiny_run / "experiments/data/x.json").read_text())
    rates = [row["learning_rate"] for row in history["train"]]
    assert rates == pytest.approx([0.01 * (1 - t / 4) ** 0.9 for t in range(4)])
    assert all(0.1 < row["eval_class_loss"] < 10 for row in history["validation"])


def test_a_checkpoint_of_the_official_code_has_these_keys():
    """Every official key of the table, filled with numbers, arrives under our name."""
    torch.manual_seed(0)
    literal = oracle.resnet_classifier("resnet18", 3)
    ours = Classifier("resnet18", 3)
    theirs = literal.state_dict()
    assert load_weights(ours, theirs) == "official checkpoint"
    own = ours.state_dict()
    patterns = {row["name"]: row.get("here", row["name"]) for row in OFFICIAL["keys"]}
    for key, value in theirs.items():
        v = re.search(r"\.(\d+)\.", key)
        pattern = re.sub(r"\.\d+\.", ".{v}.", key) if key.startswith(("BN.", "stage6.")) else key
        name = patterns["model.{name}"].format(name=key.removeprefix("model.")) if key.startswith("model.") else None
        name, _, index = (name or patterns[pattern]).partition("[")
        found = own[name][int(v[1])] if index else own[name]
        assert torch.equal(found.flatten(), value.flatten()), key
    assert patterns.keys() >= {re.sub(r"\.\d+\.", ".{v}.", key) for key in theirs if not key.startswith("model.")}


def page_rows() -> list[str]:
    """Return the table of docs/migration.md, row by row."""
    rows = [("argument", f"--{row['name']} {row['default'] if row['default'] != '' else repr('')}", row)
            for row in OFFICIAL["arguments"]]  # fmt: skip
    rows += [
        (what, row["name"], row) for what, key in (("file", "files"), ("checkpoint", "keys")) for row in OFFICIAL[key]
    ]
    for kind, of in (("train", "training"), ("validation", "validation")):
        rows += [(f"log, history: {of}", row["name"], row) for row in OFFICIAL[kind]]
        rows += [("TensorBoard", row["tag"], {**row, "why": ""}) for row in OFFICIAL[kind] if "tag" in row]
    return [
        f"| {what} | `{theirs}` | {shown_here(what, row)} | {row.get('why', '')} |".replace("|  |", "| |")
        for what, theirs, row in rows
    ]


def shown_here(what: str, row: dict) -> str:
    if "here" not in row:
        return "the same"
    return f"`{row['here']}`" if row["here"] else "ignored" if what == "argument" else "none"


def test_the_page_shows_every_official_name_beside_ours():
    """A line that is missing or wrong is shown: paste it into docs/migration.md."""
    lines = PAGE.splitlines()
    start = lines.index("| | official code | here | difference |")
    assert "\n".join(lines[start + 2 : lines.index("", start)]) == "\n".join(page_rows())
