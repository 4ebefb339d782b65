"""A round of mistyped, absurd and hostile arguments: every program runs, or says in one line why not."""

import json
import os
import re
import resource
import shutil

from tests.rounds.sandbox import Outcome, run
from tests.rounds.setting import Tally, World

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


def arguments(world: World, count: int) -> Tally:
    """Give every program random values for one to three of its arguments, as an ordinary user of the machine."""
    tally = Tally("mutated arguments")
    os.chmod(world.root, 0o755)
    programs = _programs(world)
    flags = {name: _flags(world, words[: 2 if words[0] == "-m" else 1]) for name, words in programs.items()}
    for case in range(count):
        name = list(programs)[case % len(programs)]
        words = list(programs[name])
        for _ in range(world.chance.choice([1, 1, 1, 2, 3])):
            _mutate(world, words, flags[name])
        if any("\0" in word for word in map(str, words)):
            continue
        ended = _run_as_nobody(world, words)
        changed = [word for word in map(str, words) if word not in map(str, programs[name])]
        tally.add(ended.fault(), (name, changed), f"status {ended.status}")
    return tally


def _programs(world: World) -> dict[str, tuple]:
    """Return a short valid command line of every program."""
    toy, model = world.toy, world.model()
    experiments = model.parents[1]
    images = world.root / "images"
    shutil.copytree(toy / "JPEGImages", images, dirs_exist_ok=True)
    names = sorted(path.name for path in images.iterdir())
    table, coco = world.root / "table.csv", world.root / "coco.json"
    rows = [f"{name},{'dog' if number % 2 else 'cat'}\n" for number, name in enumerate(names)]
    table.write_text("image,labels\n" + "".join(rows))
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for number, name in enumerate(names):
        content["images"].append({"id": number, "file_name": name, "width": 64, "height": 64})
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]})
    coco.write_text(json.dumps(content))
    training = {tag: (*world.words(tag), "--max_epoch", 1) for tag in ("Max", "cTopk", "cTopk_w")}
    evaluate = ("--weights", model, "--num_workers", 0, "--device", "cpu")
    split = ("--data_dir", toy, "--split", "Main/val")
    return {
        **training,
        "evaluate": ("evaluate_classification.py", *evaluate, *split, "--bootstrap", 10),
        "inference": ("inference_classification.py", *evaluate, "--images", images),
        "compare": ("inference_classification.py", *evaluate, *split, "--compare", "--count", 1),
        "check_data": ("-m", "tools.check_data", *split, "--num_workers", 0),
        "import_csv": ("-m", "tools.import_csv", "--csv", table, "--images", images, "--out", "o"),
        "import_coco": ("-m", "tools.import_coco", "--annotations", coco, "--images", images, "--out", "o"),
        "make_class_file": ("-m", "tools.make_class_file", "--data_dir", toy, "--out", "c.json"),
        "make_toy_voc": ("-m", "tools.make_toy_voc", "--out", "t", "--images", 4, "--image_size", 32),
        "scale_devkit": ("-m", "tools.scale_devkit", "--data_dir", toy, "--out", "s", "--longer_side", 32),
        "plot_history": ("-m", "tools.plot_history", "cTopk_w", "--experiments", experiments),
        "plot_classes": ("-m", "tools.plot_classes", "cTopk_w", "--experiments", experiments),
        "reproduce": ("reproduce_tables.py", "--dry_run", "--data_dir", toy),
        "download_voc": ("-m", "tools.download_voc", "--out", "v", "--tar", "missing.tar"),
    }


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


def _run_as_nobody(world: World, words: list) -> Outcome:
    folder = world.folder()
    for name in ("file", "list.txt"):
        (folder / name).write_text("toy_0001\n")
    (folder / "names.json").write_text('{"class_names": ["cat", "dog"]}')
    (folder / "folder").mkdir()
    (folder / "dir.pth").mkdir()
    os.mkfifo(folder / "pipe")

    def prepare() -> None:
        size = (4 << 30) + _mapped()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        os.environ["HOME"] = str(folder)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    if os.geteuid() == 0:
        for path in [folder.parent, folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    os.environ.pop("RANK", None)
    ended = run(folder, *words, prepare=prepare, seconds=40)
    world.remove(folder)
    return ended


def _mapped() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
