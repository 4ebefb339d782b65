"""A round of mistyped, absurd and hostile arguments: every program runs, or says in one line why not."""

import ctypes
import json
import os
import re
import resource
import shutil
import struct
from pathlib import Path

from tests.helpers.command_line import SCRIPTS
from tests.rounds.sandbox import Outcome, run
from tests.rounds.setting import Tally, World
from tests.rounds.shortages import address_space

NOBODY = 65534
# Numbers, words and paths that somebody has typed, or that an attacker would.
NUMBERS = ["0", "1", "-1", "2", "3", "7", "1e308", "-1e308", "1e-308", "3e38", "1e39", "nan", "inf", "-inf", "1e999"]
NUMBERS += ["32000000000", "9" * 25, "9" * 5000, "9223372036854775807", "-9223372036854775808", "2147483648", "0x10"]
NUMBERS += ["1_000", "٣", "１２", "1,5", "0.5", ".5", "5.", "+1", "1e", "--", "-", "", " ", "1 2", "0.0000001", "1e-9"]
WORDS = ["True", "False", "y", "n", "maybe", "auto", "cpu", "cuda", "cuda:99", "meta", "hpu", "mps", "xla", "off"]
WORDS += ["bf16", "fp16", "none", "None", "null", "imagenet", "cMax", "Max", "timm/none", "timm/", "timm/resnet18"]
WORDS += ["resnet18", "resnet1", "vgg16", "L2_Loss", "colorjitter", "randaugment-colorjitter", "a,b,,c", "*", "?", "%s"]
WORDS += ["{}", "$HOME", "`id`", "x" * 300, "ä", "犬", "\udcff", "a\nb", "a\tb", "\x1b[31mred", "\x07", "a\u202eb", "'"]
WORDS += ['"', "\\", "=cmd", "@x", "[1]", "{'a': 1}", "f1", "precision=0.9", "all"]
PATHS = [".", "..", "/", "~", "./", "x/y/z", "../..", "/dev/null", "/dev/full", "/proc/self/mem", "file", "folder"]
PATHS += ["pipe", "missing", "file/below", "y" * 256, "z/" * 300, "list.txt", "names.json", "t\udcff", "a b", "dir.pth"]
CLOSED = "http://127.0.0.1:9"  # a proxy that refuses: nothing is downloaded


def arguments(world: World, count: int) -> Tally:
    """Give every program random values for one to three of its arguments, as an ordinary user of the machine.

    A run may be long, for example with `--max_epoch 2147483648`: it counts as well if it computes when it is killed.
    """
    tally = Tally("mutated arguments")
    os.chmod(world.root, 0o755)
    programs = _programs(world)
    flags = {name: _flags(world, words[: 2 if words[0] == "-m" else 1]) for name, words in programs.items()}
    for case in range(count):
        name = list(programs)[case % len(programs)]
        words = list(programs[name])
        for _ in range(world.chance.choice([1, 1, 1, 2, 3])):
            _mutate(world, words, flags[name])
        variables = _launcher(world) if "--max_epoch" in words and world.chance.random() < 0.1 else {}
        if any("\0" in word for word in map(str, words)):
            continue
        ended = _run_as_nobody(world, words, variables)
        changed = [word for word in map(str, words) if word not in map(str, programs[name])]
        if ended.status is None and ended.computing:
            print(f"killed while it computed: {name} {changed}", flush=True)
            tally.add(None, name, "long")
        else:
            tally.add(ended.fault(), (name, changed, variables), f"status {ended.status}")
        if (case + 1) % 200 == 0:
            print(f"so far, {tally}", flush=True)
    return tally


def _programs(world: World) -> dict[str, tuple]:
    """Return a short valid command line of every program."""
    toy, split = world.toy, ("--data_dir", world.toy, "--split", "Main/val")
    programs = {name: (SCRIPTS[name],) for name in ("Max", "cTopk", "cTopk_w")}
    programs |= {name: ("-m", f"baselines.{name}") for name in ("plain", "centre_ema")}
    training = {name: world.tiny(program, name) for name, program in programs.items()}
    folder = world.folder()
    assert run(folder, *training["cTopk_w"]).status == 0
    experiments = folder / "experiments"
    evaluate = ("--weights", experiments / "models/best_cTopk_w.pth", "--num_workers", 0, "--device", "cpu")
    scores = [world.root / "one.npz", world.root / "two.npz"]
    for number, path in enumerate(scores):
        more = ("--bootstrap", 0, "--out", path.with_suffix(""), *(["--flip"] if number else []))
        assert run(folder, "evaluate_classification.py", *evaluate, *split, *more).status == 0
    images, sources = world.root / "images", _sources(world)
    _give_to_nobody(experiments)
    return {
        **training,
        "evaluate": ("evaluate_classification.py", *evaluate, *split, "--bootstrap", 10),
        "measure again": ("evaluate_classification.py", "--scores", scores[0], "--protocol", "all", "--bootstrap", 10),
        "inference": ("inference_classification.py", *evaluate, "--images", images),
        "pictures": ("inference_classification.py", *evaluate, "--images", *sorted(images.iterdir())[:2], "--pictures"),
        "compare": ("inference_classification.py", *evaluate, *split, "--compare", "--count", 1),
        "tiles": ("inference_classification.py", *evaluate, *split, "--tiles", "--count", 1),
        "thresholds": ("-m", "tools.thresholds", "--scores", scores[0], "--for", "f1", "--bootstrap", 10),
        "plot_scores": ("-m", "tools.plot_scores", "--scores", *scores),
        "compare scores": ("-m", "tools.compare", *scores, "--bootstrap", 100),
        "check_data": ("-m", "tools.check_data", *split, "--num_workers", 0),
        **{name: ("-m", f"tools.{name}", *words, "--out", "o") for name, words in sources.items()},
        "make_class_file": ("-m", "tools.make_class_file", "--data_dir", toy, "--out", "c.json"),
        "make_toy_voc": ("-m", "tools.make_toy_voc", "--out", "t", "--images", 80, "--image_size", 64),
        "scale_devkit": ("-m", "tools.scale_devkit", "--data_dir", toy, "--out", "s", "--longer_side", 32),
        "plot_history": ("-m", "tools.plot_history", "cTopk_w", "--experiments", experiments),
        "plot_classes": ("-m", "tools.plot_classes", "cTopk_w", "--experiments", experiments),
        "reproduce": ("reproduce_tables.py", "--preset", "toy", "--dry_run"),
        "download_voc": ("-m", "tools.download_voc", "--out", "v", "--tar", "missing.tar"),
    }


def _sources(world: World) -> dict[str, tuple]:
    """Make a source of ten images for each importer; return its arguments."""
    images, yolo, folders = (world.root / name for name in ("images", "yolo", "folders"))
    images.mkdir()
    for source in sorted((world.toy / "JPEGImages").iterdir())[:10]:
        shutil.copy(source, images)
    names = sorted(path.name for path in images.iterdir())
    shutil.copytree(images, yolo / "images")
    (yolo / "labels").mkdir()
    (yolo / "classes.txt").write_text("cat\ndog\n")
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    table = "image,labels\n"
    for number, name in enumerate(names):
        label = ("cat", "dog")[number % 2]
        table += f"{name},{label}\n"
        content["images"].append({"id": number, "file_name": name, "width": 64, "height": 64})
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]})
        (yolo / "labels" / name).with_suffix(".txt").write_text(f"{number % 2} 0.5 0.5 0.2 0.2\n")
        (folders / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / name, folders / label)
    (world.root / "table.csv").write_text(table)
    (world.root / "coco.json").write_text(json.dumps(content))
    return {
        "import_csv": ("--csv", world.root / "table.csv", "--images", images),
        "import_coco": ("--annotations", world.root / "coco.json", "--images", images),
        "import_yolo": ("--folder", yolo),
        "import_folders": ("--folder", folders),
    }


def _launcher(world: World) -> dict[str, str]:
    """Return variables as a launcher sets them, or should not; without an address, no process waits for others."""
    names = world.chance.sample(["RANK", "WORLD_SIZE", "LOCAL_RANK"], world.chance.choice([1, 1, 2, 3]))
    values = [world.chance.choice(world.chance.choice([NUMBERS, WORDS])) for _ in names]
    return dict(zip(names, values, strict=True))


def _flags(world: World, program: tuple) -> list[str]:
    shown = run(world.folder(), *program, "--help").output
    return sorted(set(re.findall(r"--[a-z][a-z_0-9A-Z]*", shown)) - {"--help"})


def _mutate(world: World, words: list, flags: list[str]) -> None:
    """Change, add, drop or double an argument."""
    chance = world.chance
    value = chance.choice(chance.choice([NUMBERS, WORDS, PATHS]))
    flag = chance.choice(flags)
    kind = chance.choice(["value"] * 8 + ["equals"] * 3 + ["drop", "word", "bare", "misspelled"])
    if kind == "value" and flag in words and words.index(flag) + 1 < len(words):
        words[words.index(flag) + 1] = value
    elif kind == "value":
        words += [flag, value]
    elif kind == "equals":
        words.append(f"{flag}={value}")
    elif kind == "drop" and len(words) > 3:
        del words[chance.randrange(2, len(words))]
    elif kind == "bare":
        words.append(flag)
    elif kind == "misspelled":
        words += [flag[: chance.randrange(2, len(flag) + 1)] + chance.choice(["s", "-x", "", "_"]), value]
    else:
        words.insert(chance.randrange(2, len(words) + 1), value)


def _run_as_nobody(world: World, words: list, variables: dict[str, str]) -> Outcome:
    folder = world.folder()
    for name in ("file", "list.txt"):
        (folder / name).write_text("toy_0001\n")
    (folder / "names.json").write_text('{"class_names": ["cat", "dog"]}')
    (folder / "folder").mkdir()
    (folder / "dir.pth").mkdir()
    os.mkfifo(folder / "pipe")

    def prepare() -> None:
        size = (4 << 30) + address_space()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_NPROC, (256, 256))
        os.environ.update({"HOME": str(folder), "http_proxy": CLOSED, "https_proxy": CLOSED, **variables})
        if os.geteuid() == 0:
            _become_nobody()

    _give_to_nobody(folder.parent)
    ended = run(folder, *words, prepare=prepare, seconds=20)
    world.remove(folder)
    return ended


def _become_nobody() -> None:
    """Give up root's rights, except to read: Python's own files may be in a folder of root's."""
    libc, keep_capabilities = ctypes.CDLL(None), 8
    libc.prctl(keep_capabilities, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    version, read_and_search = 0x20080522, 1 << 2
    libc.capset(struct.pack("Ii", version, 0), struct.pack("6I", read_and_search, read_and_search, 0, 0, 0, 0))


def _give_to_nobody(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
