"""Random untrusted files and arguments: a result or one line, never a traceback, a hang or a partial file.

Every test runs twice: with one or two percent of its cases, and in the slow suite with all of them.
"""

import contextlib
import io
import json
import os
import pickle
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.evaluation.loading import keypoints_of, trained_network
from core.networks import Classifier
from core.training.config import parse_config
from core.weights import load_weights
from tests.helpers.golden import config_of, strategy_of
from tools.check_data import ValidationResult, validate_image
from tools.data.annotations import read_annotation
from tools.data.datasets import ImageFiles
from tools.data.devkit import read_split, split_path
from tools.data.images import read_image, upright_size
from tools.runs.checkpoints import read_state_dict
from tools.runs.folder import Folder
from tools.runs.states import States
from tools.system.errors import UserError

CLASSES = ["cat", "dog"]
DEADLINE = timedelta(seconds=20)  # for one case, on a busy machine
share = pytest.mark.parametrize("share", [0.015, pytest.param(1, marks=pytest.mark.slow)])


def try_all(count: float, cases: st.SearchStrategy, check: Callable[[Any], None]) -> None:
    """Call `check` with `count` random cases, at least ten."""
    healthy = (HealthCheck.too_slow, HealthCheck.data_too_large)
    count = max(10, round(count))
    limits = settings(max_examples=count, deadline=DEADLINE, database=None, suppress_health_check=healthy)
    limits(given(cases)(check))()


def settled(call: Callable, *arguments: Any) -> Any:
    """Return what the call returns, or None if it ends with a line for the user."""
    try:
        return call(*arguments)
    except UserError as error:
        assert str(error) and len(str(error).splitlines()) == 1
        return None


def assert_nothing_half_written(folder: Path) -> None:
    assert not list(folder.rglob("*.tmp"))


@st.composite
def damaged(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Draw bytes with some overwritten, inserted, removed, doubled or cut off; sometimes intact."""
    content = bytearray(draw(originals))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 4, 16, 200]))
        match draw(st.sampled_from(["overwrite", "insert", "remove", "double", "cut"])):
            case "overwrite":
                content[start : start + length] = draw(st.binary(min_size=1, max_size=length))
            case "insert":
                content[start:start] = draw(st.binary(min_size=1, max_size=length))
            case "remove":
                del content[start : start + length]
            case "double":
                content[start:start] = content[start : start + length]
            case "cut":
                del content[start:]
    return bytes(content)


# Annotations ---------------------------------------------------------------------------------------------------------

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
numbers = st.sampled_from(["1", "-5", "1e999", "nan", "9" * 5000, "", " 7 ", "0x10", "１２", "1e-400", "1,5"])
numbers |= st.floats().map(repr) | st.integers().map(str)
names = st.sampled_from(["cat", "dog", "cow", "", "cat\n", "&cat;", "&lt;cat&gt;", "<name>cat</name>", "\u202ecat"])


@st.composite
def annotation_texts(draw: st.DrawFn) -> bytes:
    objects = ""
    for _ in range(draw(st.integers(0, 3))):
        sides = draw(st.permutations(["xmin", "ymin", "xmax", "ymax"]))[: draw(st.integers(3, 4))]
        box = "".join(f"<{side}>{draw(numbers)}</{side}>" for side in sides)
        objects += OBJECT.format(draw(names), draw(st.sampled_from(["0", "1", "", "x"])), box)
    text = f"<annotation>{objects}</annotation>"
    doctypes = ["", "", '<?xml version="1.0" encoding="no-such"?>', '<?xml version="1.0" encoding="utf-7"?>']
    doctypes += ['<!DOCTYPE a [<!ENTITY cat SYSTEM "file:///etc/passwd">]>', '<!DOCTYPE a SYSTEM "http://localhost/">']
    doctypes += ['<!DOCTYPE a [<!ENTITY b "' + "ha" * 99 + '"><!ENTITY cat "' + "&b;" * 99 + '">]>']
    encodings = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-7"])
    return (draw(st.sampled_from(doctypes)) + text).encode(draw(encodings))


ABSURD = [b"<a>" * 200_000, b"<annotation>" + b"<object>" * 100_000, b"<annotation>" + b" " * 2_000_000, b"\0" * 1000]
ABSURD += [b"<annotation " + b"a='b' " * 9_000 + b"/>", b"<annotation " + b"".join(b"a%d='' " % i for i in range(999))]


@share
def test_annotations(share, tmp_path):
    def check(content: bytes) -> None:
        path = tmp_path / "a.xml"
        path.write_bytes(content)
        for item in settled(read_annotation, path, CLASSES) or []:
            assert CLASSES[item.class_index] == item.name
            assert all(abs(side) < float("inf") for side in item.box or ()) and not item.is_empty

    try_all(3000 * share, damaged(annotation_texts()) | annotation_texts() | st.sampled_from(ABSURD), check)
    try_all(700 * share, st.binary(max_size=300), check)


# Lists ---------------------------------------------------------------------------------------------------------------

ids = st.sampled_from(["im_1", "im_2", "2007_000027", "ünï", "../../etc/passwd", "..", "/etc/passwd", "a\\b"])
ids |= st.sampled_from(["\x00", "\x1b[31m", "im_1\x7f", "\ufeffim_3", "im_4\u2028im_5", "~", "C:x", "a" * 5000])
ids |= st.text(max_size=8)
ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n", "\t1\n", "  -1\r\n", ""])


HUNDRED_THOUSAND = b"".join(b"im_%06d\r\n" % number for number in range(100_000))


@st.composite
def lists(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.tuples(ids, ends).map("".join), max_size=8))
    text = draw(st.sampled_from(["", "", "\ufeff", "\ufeff\ufeff", "\n"])) + "".join(lines)
    content = text.encode("utf-8", "surrogatepass")
    return content + (HUNDRED_THOUSAND if draw(st.integers(0, 9)) == 0 else b"")


@share
def test_lists(share, tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    home = tmp_path / "JPEGImages"

    def check(content: bytes) -> None:
        (tmp_path / "ImageSets/Main/list.txt").write_bytes(content)
        found = settled(read_split, tmp_path, "Main/list") or []
        assert len(set(found)) == len(found)
        for image_id in found:
            assert os.path.dirname(os.path.normpath(home / f"{image_id}.jpg")) == str(home)
            assert image_id.strip() == image_id and len(image_id.splitlines()) == 1

    try_all(2000 * share, lists() | damaged(lists()), check)

    def check_name(name: str) -> None:
        path = settled(split_path, tmp_path, name)
        assert path is None or path.is_file() and path.suffix == ".txt"

    try_all(500 * share, st.text(max_size=20) | ids.map("Main/".__add__) | ids, check_name)


# Images --------------------------------------------------------------------------------------------------------------


def encoded(kind: str, mode: str, **options: Any) -> bytes:
    chance = random.Random(1)
    image = Image.frombytes("RGB", (23, 17), bytes(chance.randrange(256) for _ in range(23 * 17 * 3)))
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def enlarged(jpeg: bytes, side: int) -> bytes:
    """Return a JPEG whose header claims `side` × `side` pixels."""
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + side.to_bytes(2, "big") * 2 + jpeg[start + 4 :]


JPEG = encoded("JPEG", "RGB")
PICTURES = [JPEG, encoded("JPEG", "L"), encoded("JPEG", "CMYK"), encoded("JPEG", "RGB", progressive=True)]
TURNED = Image.Exif()
TURNED[274] = 6
PICTURES += [encoded(kind, "RGB", exif=TURNED.tobytes()) for kind in ("JPEG", "PNG", "WEBP")]
PICTURES += [encoded("PNG", mode) for mode in ("RGBA", "P", "LA", "1", "I;16")]
PICTURES += [encoded("GIF", "P"), encoded("BMP", "RGB"), encoded("TIFF", "RGB"), encoded("WEBP", "RGB")]
PICTURES += [
    encoded("PPM", "RGB"),
    encoded("ICO", "RGB"),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"<svg/>",
]
PICTURES += [enlarged(JPEG, 65535), enlarged(JPEG, 12000), enlarged(JPEG, 0)]


@share
def test_images(share, tmp_path):
    def check(content: bytes) -> None:
        path = tmp_path / "im.jpg"
        path.write_bytes(content)
        image, result = settled(read_image, path), ValidationResult()
        if image is not None:
            assert image.mode == "RGB" and 0 < image.width * image.height <= Image.MAX_IMAGE_PIXELS
            image.load()
            assert upright_size(path) == image.size
        settled(upright_size, path)
        settled(validate_image, path, result)
        assert (result.size is None) == (image is None) == bool(ImageFiles([path], 8)[0].problem)

    try_all(3200 * share, damaged(st.sampled_from(PICTURES)), check)


# Checkpoints and states ----------------------------------------------------------------------------------------------


class RunsCode:
    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


tensors = st.sampled_from(
    [torch.zeros(2, 512, 1, 1), torch.zeros(2, 512), torch.zeros(()), torch.zeros(0), torch.ones(2, dtype=torch.bool)]
    + [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.zeros(3, 7, device="meta")]
)
keys = st.sampled_from(
    ["classifier.weight", "stage6.0.weight", "BN.0.weight", "model.conv1.weight", "instances.weight", "conv1.weight"]
    + ["backbone.conv1.weight", "module.classifier.weight", "state_dict", "model", "instances.bn_bias", "fc.weight", ""]
)
plain = st.none() | st.integers() | st.floats() | st.text(max_size=5) | tensors
any_keys = keys | st.integers(0, 3) | st.text(max_size=3) | st.none()
values = st.recursive(plain, lambda some: st.lists(some, max_size=3) | st.dictionaries(any_keys, some, max_size=4))
dictionaries = st.dictionaries(keys, tensors, max_size=6) | st.dictionaries(any_keys, values, max_size=5)


def files_of(contents: st.SearchStrategy, trap: Path) -> st.SearchStrategy[bytes]:
    """Draw files in PyTorch's two formats, damaged ones, plain pickles, and some that would run code."""
    whole = contents.map(saved) | contents.map(lambda content: saved(content, _use_new_zipfile_serialization=False))
    code = [saved({"a": RunsCode(trap)}), pickle.dumps(RunsCode(trap)), pickle.dumps({"a": 1}, protocol=5)]
    return whole | damaged(whole) | st.sampled_from(code) | st.binary(max_size=50)


DESCRIPTION = {"architecture": "resnet18", "class_names": CLASSES, "image_size": 64, "head": "gap"}
DESCRIPTION |= {"strategy": "cMax", "keypoints": "cMax", "arguments": {"topk": 3}, "script": "train_plain"}
wrong = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers() | st.text(max_size=3), max_size=3)
descriptions = st.fixed_dictionaries({}, optional={name: st.just(DESCRIPTION[name]) | wrong for name in DESCRIPTION})


@share
def test_checkpoints(share, tmp_path):
    network = Classifier("resnet18", len(CLASSES))
    path, trap = tmp_path / "x.pth", tmp_path / "trap"
    whole = saved(network.state_dict())

    def loaded(state_dict: dict) -> str:
        try:
            return load_weights(network, state_dict)
        except ValueError as error:
            raise UserError(str(error)) from error

    def check(case: tuple[bytes, Any]) -> None:
        content, description = case
        path.write_bytes(content)
        path.with_suffix(".json").write_text(json.dumps(description))
        state_dict = settled(read_state_dict, path)
        if state_dict is not None:
            assert all(isinstance(name, str) for name in state_dict)
            settled(loaded, state_dict)
        found = settled(trained_network, path)
        if found is not None:
            assert found[0].num_classes == len(found[1].class_names)
            settled(keypoints_of, found[1])
        assert not trap.exists()
        assert_nothing_half_written(tmp_path)

    files = files_of(dictionaries | values, trap) | damaged(st.just(whole)) | st.just(whole)
    try_all(600 * share, st.tuples(files, st.just(DESCRIPTION) | descriptions | st.integers() | st.lists(keys)), check)


STATE = {"strategy": "cMax", "trainer": {}, "epoch": 1, "samples": 0, "losses": {}, "best": 1.5}
STATE |= {"random": [{"cpu": torch.get_rng_state(), "cuda": []}]}
STATE |= {"log": {"history": {"train": [], "validation": []}, "text_bytes": 0}, "arguments": {"lr": 0.1}}
STATE |= {"class_names": CLASSES, "data": {"training images": "0"}}


@st.composite
def states(draw: st.DrawFn) -> Any:
    state = dict(STATE)
    for name in draw(st.lists(st.sampled_from(sorted(STATE)), max_size=2)):
        state[name] = draw(values)
    return state


@share
def test_states(share, tmp_path):
    """If a state is damaged, the earlier one is loaded."""
    folder, trap = Folder(tmp_path), tmp_path / "trap"
    path, earlier = folder.state("x"), folder.state("x", ".earlier.pth")
    path.parent.mkdir()
    torch.save(STATE | {"epoch": 7}, earlier)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        state, source = States(folder, "x").load()
        assert state.keys() >= STATE.keys() and isinstance(state["trainer"], dict) and state["epoch"] >= 0
        assert source == str(path) or source.startswith(f"{earlier} (a newer state was unreadable: ")
        settled(States(folder, "x").load, path)
        assert not trap.exists()
        assert_nothing_half_written(tmp_path)

    try_all(600 * share, files_of(states() | values, trap), check)


# Arguments -----------------------------------------------------------------------------------------------------------

STRATEGY = strategy_of("cTopk")
OPTIONS = [f"--{name}" for name in vars(config_of(STRATEGY))]
words = st.sampled_from(["0", "1", "-1", "64", "1e999", "nan", "True", "", "-", "--", "..", "a/b", "x\0y", "9" * 5000])
words |= st.sampled_from(["1_0", "L2_Loss", "bf16", "skip", "٣", "x" * 300, "ä\nö"]) | st.text(max_size=6)
words |= st.integers().map(str) | st.floats().map(repr)
pairs = st.tuples(st.sampled_from(OPTIONS), words) | st.tuples(words) | st.tuples(st.sampled_from(OPTIONS))


@share
def test_arguments(share):
    def check(parts: list[tuple[str, ...]]) -> None:
        screen = io.StringIO()
        typed = ["--data_dir", "x", "--tag", "t", *[word for part in parts for word in part]]
        try:
            with contextlib.redirect_stderr(screen):
                config = settled(parse_config, STRATEGY, "", typed)
        except SystemExit as stop:
            assert stop.code == 2
            (line,) = [line for line in screen.getvalue().splitlines() if "error:" in line]
            return
        if config is not None:
            assert config.batch_size > 0 and config.image_size % 32 == 0 and 0 < config.lr < float("inf")
            assert "/" not in config.tag and config.tag.isprintable() and len(os.fsencode(config.tag)) < 200
            torch.manual_seed(config.seed)

    try_all(6400 * share, st.lists(pairs, max_size=4), check)
