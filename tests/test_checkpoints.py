"""Checkpoints, their descriptions and class names: as other people write them, damaged, and in other orders."""

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from core.evaluation.loading import keypoints_of, trained_network
from core.evaluation.prediction import predict
from core.networks import Classifier
from core.strategy import MAX_TOPK, Argument, Strategy
from core.training.run import Run
from core.weights import PER_CLASS, load_weights
from tests.helpers.command_line import ROOT
from tests.helpers.golden import make_network, trainer_of
from tools.data.annotations import read_label_lists
from tools.data.devkit import class_columns, class_names_problem, read_class_names
from tools.data.transforms import IMAGENET, Normalization, denormalize, normalize
from tools.data.writing import write_class_file
from tools.metrics.scores import Scores
from tools.runs.checkpoints import (
    Description,
    imagenet_state_dict,
    read_description,
    read_state_dict,
    save_checkpoint,
    write_tensors,
)
from tools.runs.folder import Folder
from tools.system.errors import UserError, explain_shortages
from tools.system.files import CHECKSUM, MAX_JSON_BYTES, read_json, write_json

NAMES = ["dog", "cat", "cow"]


@pytest.fixture(scope="module")
def network() -> Classifier:
    """Return a network whose head's rows all differ."""
    torch.manual_seed(3)
    network = Classifier("resnet18", 3).eval()
    for name in ("bn_weight", "bn_bias", "running_mean", "running_var"):
        getattr(network.instances, name).data.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def saved(network, tmp_path) -> Path:
    description = Description("resnet18", NAMES, image_size=64, strategy="cTopk", keypoints="cTopk")
    save_checkpoint(tmp_path / "x.pth", network.state_dict(), description)
    return tmp_path / "x.pth"


def edit(path: Path, **changes) -> None:
    """Change a JSON file as a person does who removes its checksum."""
    content = json.loads(path.read_text())
    content.pop(CHECKSUM, None)
    path.write_text(json.dumps({**content, **changes}))


# Damage --------------------------------------------------------------------------------------------------------------


def test_equal_weights_make_equal_files_whatever_their_names(saved, network):
    other = saved.with_name("another_name.pth")
    save_checkpoint(other, network.state_dict(), Description("resnet18", NAMES))
    assert saved.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("size", [0, 4096])
def test_a_flipped_bit_and_a_zeroed_block_are_noticed(tmp_path, size):
    path, draw = tmp_path / "x.pth", random.Random(0)
    tensors = {"a": torch.rand(30, 1000), "b": torch.rand(7)}
    write_tensors(path, tensors)
    whole = path.read_bytes()
    for _ in range(60):
        start = draw.randrange(len(whole) - size)
        damage = bytes(size) or bytes([whole[start] ^ 1 << draw.randrange(8)])
        path.write_bytes(whole[:start] + damage + whole[start + len(damage) :])
        try:
            read = read_state_dict(path)
        except UserError as error:
            assert "x.pth" in str(error) and "\n" not in str(error)
        else:  # what lies between the members of the archive, and means nothing
            assert size == 0 and all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_files_of_old_versions_of_pytorch_without_checksums_are_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state_dict(tmp_path / "old.pth")["a"], torch.ones(2))


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(UserError, match="is compressed"):
        read_state_dict(tmp_path / "bomb.pth")


def test_an_altered_description_or_class_file_is_noticed_and_an_edited_one_is_not_refused_for_ever(saved, tmp_path):
    classes = tmp_path / "classes.json"
    write_class_file(classes, ["cat", "cow"], {})
    for path, read in ((saved.with_suffix(".json"), lambda _: read_description(saved)), (classes, read_class_names)):
        whole = path.read_text()
        read(path)
        path.write_text(json.dumps(json.loads(whole), indent=4))  # other whitespace is not another content
        read(path)
        path.write_text(whole.replace("cow", "cox"))
        with pytest.raises(UserError, match=f'{path.name} was altered or damaged .* remove its line "{CHECKSUM}"'):
            read(path)
        edit(path)
        read(path)


def test_a_description_of_other_weights_is_noticed(network, saved):
    other = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save(torch.load(saved), saved)  # the same weights, with the file's name in the archive
    trained_network(saved)
    write_tensors(saved, other)  # a kill before the description is written, or a copy
    for read in (trained_network, read_description, lambda path: make_network("resnet18", str(path), 3)):
        with pytest.raises(UserError, match=r"x\.json describes other weights than those in .*x\.pth: .*--resume"):
            read(saved)
    saved.write_bytes(saved.read_bytes()[:-40])
    with pytest.raises(UserError, match="describes other weights"):
        read_description(saved)
    write_tensors(saved, other)
    edit(saved.with_suffix(".json"), weights_sha256=None)
    trained_network(saved)
    saved.with_suffix(".json").unlink()
    trained_network(saved, "resnet18", NAMES)


def test_a_resumed_run_writes_a_last_model_again_whose_description_is_another_s(tmp_path):
    folder, config = Folder(tmp_path), SimpleNamespace(tag="x")
    run = SimpleNamespace(folder=folder, config=config, trainer=SimpleNamespace(iteration=5))
    last = run.folder.model("x", "last_")
    save_checkpoint(last, {"a": torch.zeros(2)}, Description("resnet18", NAMES, iteration=5))
    assert Run._has_last_model(run)
    write_tensors(last, {"a": torch.ones(2)})
    assert not Run._has_last_model(run)


def test_weights_that_are_not_finite_are_refused_wherever_they_are_read(network, saved):
    state_dict = {name: value.clone() for name, value in network.state_dict().items()}
    state_dict["backbone.layer1.0.bn1.running_var"][3] = float("nan")
    write_tensors(saved, state_dict)
    edit(saved.with_suffix(".json"), weights_sha256=None)
    with pytest.raises(UserError, match=r"x\.pth .*not finite: 1 with NaN .*layer1\.0\.bn1\.running_var"):
        trained_network(saved)
    with pytest.raises(UserError, match="not finite"):
        make_network("resnet18", str(saved), 3)


# Descriptions and JSON of anyone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{name: value} for name in ("architecture", "head", "script") for value in (None, [], 3, "\x1b[2J", "a\nb")]
    + [{name: value} for name in ("strategy", "keypoints", "arguments") for value in ([], 3, "x\x07")]
    + [{"image_size": value} for value in (None, "64", 33, 0, -32, 64.0, True, 3_200_000_000, [64])]
    + [
        {"class_names": value}
        for value in (None, [], "abc", [1, 2, 3], ["a", "a", "b"], ["a\x1b[2J", "b", "c"], ["a\n"])
    ]
    + [
        {"arguments": None},
        {"iteration": "1"},
        {"mAP": []},
        {"mean": [1, 2, 3]},
        {"mean": "abc"},
        {"mean": [0, 0, 10**400]},
        {"std": [0, 0, 0]},
    ],
    ids=str,
)
def test_every_value_of_a_description_is_checked(saved, changes):
    edit(saved.with_suffix(".json"), **changes)
    with pytest.raises(UserError, match=r"x\.json") as error:
        read_description(saved)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "arguments",
    [{"topk": value} for value in ("5", 0, -1, None, 1.5, True, MAX_TOPK + 1, 10**9, 10**400, [5])]
    + [{"topk_radius": value} for value in (None, "1", -1, float("inf"), float("nan"), [], 10**400)]
    + [{"re_loss": 3}, {"re_loss": "L3"}, {"alpha_p": "much"}, {"alpha_p": -1}],
    ids=lambda arguments: str(arguments)[:40],
)
def test_every_argument_that_a_description_holds_is_checked(saved, arguments):
    edit(saved.with_suffix(".json"), arguments=arguments)
    with pytest.raises(UserError, match=f"among its arguments, {next(iter(arguments))} is not"):
        keypoints_of(read_description(saved))


def test_arguments_of_a_strategy_s_own_are_checked_too():
    strategy = Strategy("own", None, arguments={"share": Argument(0.5, "a share", least=0, most=1)})
    assert strategy.options({"share": 1, "unknown": object()}).share == 1
    for value in (2, "0.5", None, float("nan")):
        with pytest.raises(ValueError, match="share is not"):
            strategy.options({"share": value})


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"a": ' + "1" * 5000 + "}", "", "{", "\0"]
)
def test_json_of_any_depth_and_size_ends_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read .*x\.json as JSON") as error:
        read_json(tmp_path / "x.json")
    assert len(str(error.value)) < 400


def test_json_is_read_only_from_files(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    description = saved.with_suffix(".json")
    for target in (tmp_path / "pipe", "/dev/zero", tmp_path):
        description.unlink()
        description.symlink_to(target)
        with pytest.raises(UserError, match="not a regular file"):
            read_description(saved)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # a file with a hole, which takes no space
    with pytest.raises(UserError, match="larger than 1024 MiB"):
        read_json(tmp_path / "large.json")


@pytest.mark.parametrize("character", "\x00\x1f\x9f\ufeff\ufffe\uffff\ud800")
def test_a_class_name_is_text_that_xml_holds(character):
    assert "'c" in class_names_problem(["dog", f"c{character}"])


def test_a_class_name_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "secret_val.txt").write_text("a 1\n")
    with pytest.raises(UserError, match="cannot be part of a file name"):
        read_label_lists(tmp_path, "Main/val", ["a"], ["../../secret"])


# Class names ---------------------------------------------------------------------------------------------------------


def test_the_classes_of_a_class_file_are_matched_by_name(network, saved):
    said, images = [], torch.randn(2, 3, 64, 64)
    again, description = trained_network(saved, class_names=["cow", "dog", "cat"], say=said.append)
    assert description.class_names == ["cow", "dog", "cat"] and "matched by name" in said[0]
    torch.testing.assert_close(again(images)[0], network(images)[0][:, [2, 0, 1]])
    trained_network(saved, class_names=NAMES, say=said.append)
    assert len(said) == 1
    with pytest.raises(UserError, match=r"other classes: it lacks bird and has also cow; --class_file"):
        trained_network(saved, class_names=["dog", "cat", "bird"])


def test_training_starts_from_the_classes_of_the_same_name(network, saved):
    said: list[str] = []
    new = make_network("resnet18", str(saved), 4, class_names=["bird", "cow", "dog", "fish"], say=said.append)
    ours, theirs = new.state_dict(), network.state_dict()
    for name in PER_CLASS:
        assert torch.equal(ours[name][[1, 2]], theirs[name][[2, 0]])
        assert not torch.equal(ours[name][0], theirs[name][0])
    assert torch.equal(ours["backbone.conv1.weight"], theirs["backbone.conv1.weight"])
    assert "2 of its 3 classes (cow, dog) are taken; untrained: bird, fish" in said[0]
    make_network("resnet18", str(saved), 2, class_names=["a", "b"], say=said.append)
    assert "0 of its 3 classes (no equal name) are taken; untrained: a, b" in said[1]
    same = make_network("resnet18", str(saved), 3, class_names=NAMES[::-1], say=said.append)
    assert torch.equal(same.classifier.weight, network.classifier.weight.flip(0)) and "another order" in said[2]
    make_network("resnet18", str(saved), 3, class_names=NAMES, say=said.append)
    assert len(said) == 3


def test_a_checkpoint_without_names_has_those_that_are_given(network, saved):
    saved.with_suffix(".json").unlink()
    said: list[str] = []
    again = make_network("resnet18", str(saved), 3, class_names=["a", "b", "c"], say=said.append)
    assert torch.equal(again.classifier.weight, network.classifier.weight) and not said
    again = make_network("resnet18", str(saved), 2, class_names=["a", "b"], say=said.append)
    assert torch.equal(again.backbone.conv1.weight, network.backbone.conv1.weight) and "untrained: a, b" in said[0]
    with pytest.raises(UserError, match="a head of 3 classes, but 2 class names"):
        trained_network(saved, "resnet18", ["a", "b"])


def test_a_continued_run_is_normalized_as_it_began():
    trainer = trainer_of("cMax", Classifier("resnet18", 2))
    trainer.student.normalization = Normalization((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    again = trainer_of("cMax", Classifier("resnet18", 2))
    again.load_state_dict(trainer.state_dict(), 0)
    assert again.student.normalization == trainer.student.normalization


def test_a_lack_of_memory_is_not_taken_for_weights_that_do_not_fit(saved, monkeypatch):
    def lacks_memory(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12")

    monkeypatch.setattr(torch, "isfinite", lacks_memory)
    for load in (lambda: trained_network(saved), lambda: make_network("resnet18", str(saved), 3)):
        with pytest.raises(UserError, match="out of memory"), explain_shortages():
            load()


def test_the_head_of_a_description_is_checked(saved):
    edit(saved.with_suffix(".json"), head="x")
    with pytest.raises(UserError, match="unknown head 'x': choose one of instances, gap"):
        trained_network(saved)


def test_the_columns_of_scores_are_matched_by_name():
    scored = Scores(["x"], NAMES, np.array([[0.1, 0.2, 0.3]], np.float32), np.array([[1, 0, -1]], np.int8))
    other = scored.of_classes(["cow", "dog", "cat"])
    assert other.scores.tolist() == scored.scores[:, [2, 0, 1]].tolist() and other.labels.tolist() == [[-1, 1, 0]]
    with pytest.raises(UserError, match="lacks a, b, c"):
        class_columns(["a", "b", "c"], NAMES)


# Other layouts -------------------------------------------------------------------------------------------------------

PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "model.", "student.module.", "_fsdp_wrapped_module.", "net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_a_checkpoint_are_found(network, prefix):
    again = Classifier("resnet18", 3)
    assert load_weights(again, {prefix + name: value for name, value in network.state_dict().items()}) == "checkpoint"
    assert torch.equal(again.instances.bn_bias, network.instances.bn_bias)


@pytest.mark.parametrize(
    "prefix", [*PREFIXES, "backbone.", "encoder.", "encoder_q.", "module.encoder.model.", "features."]
)
def test_prefixes_of_a_backbone_are_found(prefix):
    theirs, network = get_model("resnet18").state_dict(), Classifier("resnet18", 3)
    more = {"neck.weight": torch.ones(1), "head.fc.bias": torch.ones(1)} if prefix != "module." else {}
    assert load_weights(network, {prefix + name: value for name, value in theirs.items()} | more) == "backbone"
    assert torch.equal(network.backbone.layer3[0].conv1.weight, theirs["layer3.0.conv1.weight"])


def test_wrapped_parts_of_a_network_are_found(network):
    names = {name: re.sub(r"layer(\d)\.", r"layer\1._orig_mod.", name) for name in network.state_dict()}
    compiled = {names[name]: value for name, value in network.state_dict().items()}
    assert load_weights(Classifier("resnet18", 3), compiled) == "checkpoint"


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "model_ema", "net", "teacher", "ema"])
def test_state_dicts_are_found_in_what_is_around_them(tmp_path, network, wrapper):
    around = {"epoch": 3, "optimizer": {"state": {}}, "scale": torch.ones(1)}
    around[wrapper] = {**network.state_dict(), "_extra_state": None}
    torch.save({"state_dict": around} if wrapper == "model" else around, tmp_path / "x.pth")
    assert read_state_dict(tmp_path / "x.pth").keys() == network.state_dict().keys()


def test_names_that_do_not_fit_are_shown_beside_the_missing_ones():
    other = {f"blocks.{i}.attention.weight": torch.ones(1) for i in range(5)}
    with pytest.raises(ValueError, match=r"100 missing \(conv1\.weight, .*\); 5 in the file \(blocks\.0\.attention"):
        load_weights(Classifier("resnet18", 3), other)


@pytest.mark.parametrize(
    "more", [{"best": np.float64(0.5)}, {"args": argparse.Namespace(lr=0.1)}, {"log": Path("x")}, None]
)
def test_the_way_out_of_a_file_with_other_objects_works(tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    weights = torch.nn.Linear(2, 1)
    torch.save({"state_dict": weights.state_dict(), **more} if more else weights, "x y.pth")
    with pytest.raises(UserError, match="holds not only plain tensors but also .* if you trust the file") as error:
        read_state_dict(Path("x y.pth"))
    command = str(error.value).split("convert it once: ")[1]
    assert str(error.value).count("\n") == 0
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    assert torch.equal(read_state_dict(Path("OUT.pth"))["weight"], weights.weight)


def test_what_a_file_holds_instead_is_named(tmp_path):
    torch.save({"lr\x1b": 3, "loss": [1]}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"but 'lr\\\\?x1b', 'loss'"):
        read_state_dict(tmp_path / "x.pth")
    loop: dict = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "x.pth")
    with pytest.raises(UserError, match="does not hold a state dict"):
        read_state_dict(tmp_path / "x.pth")


# Normalization -------------------------------------------------------------------------------------------------------

HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_pixels_are_normalized_with_what_is_given_and_come_back():
    pixels = torch.randint(0, 256, (2, 8, 8, 4), dtype=torch.uint8)
    pixels[..., 3] = 255
    torch.testing.assert_close(normalize(pixels, HALF), pixels[..., :3].movedim(-1, 1) / 127.5 - 1)
    for normalization in (None, HALF, Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))):
        assert torch.equal(denormalize(normalize(pixels, normalization), normalization), pixels[..., :3])
    assert torch.equal(normalize(pixels), normalize(pixels, IMAGENET))


def test_a_network_is_fed_as_its_weights_were(imagenet_weights, tmp_path):
    pytest.importorskip("timm")
    name = "timm/tf_efficientnet_lite0"
    network = make_network(name, str(imagenet_weights), 2)
    assert network.normalization == HALF
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.randint(0, 256, (2, 32, 32, 4), dtype=torch.uint8)
    pixels[..., 3] = 255
    predict(network, [(pixels, torch.zeros(2, 2), torch.arange(2))], torch.device("cpu"), silent=True)
    torch.testing.assert_close(seen[0], normalize(pixels, HALF))
    description = Description(name, ["a", "b"], 32, mean=HALF.mean, std=HALF.std)
    save_checkpoint(tmp_path / "x.pth", network.state_dict(), description)
    assert trained_network(tmp_path / "x.pth")[0].normalization == HALF
    assert make_network(name, str(tmp_path / "x.pth"), 2, class_names=["b", "c"], say=str).normalization == HALF
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["mean"] == content["std"] == [0.5, 0.5, 0.5]
    edit(tmp_path / "x.json")
    content = {key: value for key, value in content.items() if key not in ("mean", "std", CHECKSUM)}
    write_json(tmp_path / "x.json", content)  # an earlier version's, which used ImageNet's for every network
    assert trained_network(tmp_path / "x.pth")[0].normalization == IMAGENET


@pytest.mark.parametrize("architecture", ["resnest50", "timm/resnet18"])
def test_imagenet_weights_of_resnest_come_from_timm(monkeypatch, architecture):
    timm = pytest.importorskip("timm")
    asked, create = [], timm.create_model

    def stub(name: str, pretrained: bool = False, **more):
        asked.append((name, pretrained))
        return create(name, **more)

    monkeypatch.setattr(timm, "create_model", stub)
    network = make_network(architecture, "imagenet", 2)
    name = {"resnest50": "resnest50d", "timm/resnet18": "resnet18"}[architecture]
    assert asked == [(name, False), (name, True)] and network.normalization == IMAGENET
    assert imagenet_state_dict(f"timm/{name}").keys()


def test_timm_is_asked_for_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for architecture in ("resnest101", "timm/resnet18"):
        with pytest.raises(UserError, match=f"--architecture {architecture} needs timm: pip install timm"):
            make_network(architecture, "none", 2)


def test_every_reader_of_json_is_the_careful_one():
    """`read_json` refuses what is too deep, too large, altered, or not a file."""
    files = [
        *ROOT.glob("*.py"),
        *(path for name in ("core", "tools", "benchmarks") for path in (ROOT / name).rglob("*.py")),
    ]
    readers = {path.name for path in files if re.search(r"json\.loads?\(", path.read_text())}
    assert readers <= {
        "files.py",
        "scores.py",
        "reports.py",
        "figure.py",
    }  # its own, and JSON that comes in other files
