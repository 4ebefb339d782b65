"""The training scripts' command line: help, one-line mistakes, replayed runs, old command lines."""

import json
import re
from dataclasses import asdict, fields
from functools import partial

import pytest

from core.evaluation.config import Config as Evaluation
from core.evaluation.loading import choose_device
from core.training.config import Config, parse_config
from tests.helpers.command_line import SCRIPTS, refused, run, small_with
from tests.helpers.golden import strategy_of
from tools.system.command_line import parse as parse_arguments
from tools.system.errors import UserError
from tools.system.processes import Processes

GROUPS = ["data", "network", "method", "optimization", "run", "output"]


def typed(*words: object) -> Config:
    return parse_config(strategy_of("cMax"), "A test.", [*map(str, words)])


def parse(*words: object) -> Config:
    return typed("--data_dir", "somewhere", *words)


def test_help_is_grouped_and_every_entry_shows_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.findall(r"^(\w+):$", text.split("show this help")[1], re.MULTILINE) == GROUPS
    entries = re.split(r"\n  (?=--)", text.split("show this help")[1].replace("\n\n", "\n"))[1:]
    assert len(entries) > 35
    for entry in entries:
        assert re.search(r"\((default: .+|required)\)", " ".join(entry.split())), entry
    sizes = [entry for entry in entries if re.match(r"--(\w*_)?(size|radius)\b", entry)]
    assert len(sizes) == 5 and all("pixels" in size or "images" in size for size in sizes)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--batchsize", 3], "unknown argument --batchsize: did you mean --batch_size?"),
        (["--alpha_er=3"], "unknown argument --alpha_er: did you mean --alpha_re?"),
        (["--batch", 3], "did you mean --batch_size?"),
        (["--batch-size", 3], "unknown argument --batch-size: did you mean --batch_size?"),
        (["--learning_rate", 1], "unknown argument --learning_rate: did you mean --lr?"),
        (["--epochs", 3], "unknown argument --epochs: did you mean --max_epoch?"),
        (["--arch=resnet18"], "unknown argument --arch: did you mean --architecture?"),
        (["--zzz"], "unknown argument --zzz: --help lists all arguments"),
        (["stray"], "unexpected word 'stray'"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["--lr"], "argument --lr: expected one argument"),
        (["--re_loss", "L3"], "argument --re_loss: invalid choice: 'L3'"),
        (["--nesterov", "maybe"], "'maybe' is neither True nor False"),
        (["--config", "nothing.json"], "cannot read nothing.json"),
    ],
)
def test_every_mistake_is_one_line(words, said):
    with pytest.raises(UserError) as error:
        parse(*words)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "word",
    [
        *("--seed=--", "--config=--", "--lr=--", "--data_dir=--", "--amp=--", "--lr=1e308", "--lr=inf", "--lr=nan"),
        *("--print_ratio=1e308", "--wd=1e308", "--alpha_re=1e308", "--image_size=32000000000", "--seed=-1"),
        *("--max_image_size=9999999999999999999999", "--batch_size=999999999999999999999", "--num_workers=99999999"),
        *("--max_epoch=9999999999999999999999", "--topk=1000000000", f"--seed={'1' * 5000}", f"--lr={'1' * 5000}"),
    ],
)
def test_values_that_no_run_could_use_are_one_line(word):
    with pytest.raises(UserError) as error:
        parse(word)
    assert word.split("=")[0] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["meta", "hpu", "mps", "xla", "cuda:99999999999999999999", "cuda:-1", "", "x" * 300])
def test_a_device_that_is_neither_a_cpu_nor_a_gpu_is_one_line(name):
    with pytest.raises(UserError, match="--device .* use --device cpu"):
        choose_device(name)


@pytest.mark.parametrize(
    "variables",
    [
        *({"RANK": "1"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "-1"}, {"WORLD_SIZE": "x"}, {"RANK": "-1"}),
        *({"LOCAL_RANK": "-3"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "1" * 5000}, {"WORLD_SIZE": ""}),
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "abc"},
        {"WORLD_SIZE": "2"},
    ],
)
def test_a_launchers_variables_that_make_no_sense_are_one_line(monkeypatch, variables):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error, Processes():
        pass
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", [".", "..", "/", "results/..", "x" * 300])
def test_a_file_to_write_needs_a_name(name):
    with pytest.raises(UserError, match="--out .*must end in the name of a file"):
        parse_arguments(Evaluation, "", ["--scores", "x.npz", "--out", name])


def test_a_mistake_ends_a_script_with_status_2(tmp_path):
    assert refused(tmp_path, SCRIPTS["Max"], "--lr", 1) == (
        "error: the following arguments are required: --data_dir (--help lists all arguments)"
    )
    assert "did you mean --data_dir?" in refused(tmp_path, SCRIPTS["cTopk"], "--data_dir", "x", "--datadir", "y")


def test_booleans_are_typed_as_in_the_official_code():
    args = parse("--nesterov", "False", "--channels_last", "true", "--tensorboard")
    assert (args.nesterov, args.channels_last, args.tensorboard, args.sync_bn) == (False, True, True, False)
    names = [item.name for item in fields(args) if item.type is bool]
    assert len(names) >= 7
    for word in ("y", "yes", "t", "true", "1", "Y", "True"):
        args = parse(*(part for name in names for part in (f"--{name}", word)), "--resume")
        assert all(getattr(args, name) is True for name in names)
    for word in ("n", "no", "f", "false", "0", "N", "False"):
        args = parse(*(part for name in names for part in (f"--{name}", word)))
        assert not any(getattr(args, name) for name in names)


def test_only_strategies_with_a_teacher_have_the_teacher_s_argument(tmp_path, capsys):
    typed_max = partial(parse_config, strategy_of("max"), "A test.")
    assert parse("--alpha_ema", 0.5).alpha_ema == 0.5 and parse().alpha_ema == 0.99
    assert not hasattr(typed_max(["--data_dir", "x", "--tag", "alpha_ema"]), "alpha_ema")
    for words in (["--alpha_ema", "0.9"], ["--alpha_ema=0.9"]):
        with pytest.raises(UserError, match="^unknown argument --alpha_ema: strategy Max has no teacher$"):
            typed_max(["--data_dir", "x", *words])
    with pytest.raises(SystemExit):
        typed_max(["--help"])
    assert "alpha_ema" not in capsys.readouterr().out
    file = tmp_path / "one.config.json"  # of an earlier version
    file.write_text(json.dumps({"strategy": "Max", "data_dir": "x", "lr": 0.5, "alpha_ema": 0.99}))
    assert typed_max(["--config", str(file)]).lr == 0.5


def test_arguments_that_the_official_code_never_read_are_ignored_with_one_notice(capsys):
    dead = ["--num_pieces", 4, "--h_co", 2, "--w_co", 2, "--loss_option", "cl_pcl_re", "--level", "feature"]
    args = parse(*dead, "--re_loss_option", "masking", "--lr", 0.5)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "never had an effect" in error
    assert all(word in error for word in dead[::2]) and "--re_loss_option" in error
    assert asdict(args) == asdict(parse("--lr", 0.5))


def test_a_config_repeats_its_run_and_typed_arguments_win(tmp_path):
    first = parse("--lr", 1e-5, "--augment", "colorjitter", "--sync_bn", "--nesterov", "False", "--tag", "one")
    file = tmp_path / "one.config.json"
    file.write_text(json.dumps(first.replayable()))
    again = typed("--config", file)
    assert asdict(again) == {**asdict(first), "config": str(file)}
    changed = typed("--lr", 2, "--config", file, "--sync_bn", "False", "--tag", "two")
    assert asdict(changed) == {**asdict(again), "lr": 2.0, "sync_bn": False, "tag": "two"}


def test_a_config_does_not_resume(tmp_path):
    file = tmp_path / "one.config.json"
    file.write_text(json.dumps(parse("--resume", "--force").replayable()))
    args = typed("--config", file)
    assert args.resume is None and not args.force


@pytest.mark.parametrize(
    "content, said",
    [
        ({"learning_rate": 1}, "unknown argument learning_rate"),
        ({"batchsize": 1}, "did you mean batch_size?"),
        ({"lr": [1]}, "lr must be a string, a number"),
        ({"lr": "fast"}, "argument --lr: invalid float value"),
        ({"amp": "fp8"}, "argument --amp: invalid choice"),
        ([], "does not hold a JSON object"),
    ],
)
def test_a_config_is_checked_like_typed_arguments(tmp_path, content, said):
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(said)):
        parse("--config", file)


def test_a_run_is_replayed_from_its_config(toy, tmp_path):
    words = small_with(data_dir=toy, tag="first", max_epoch=1, lr=0.01, seed=3)
    assert run(tmp_path, SCRIPTS["cMax"], *words).returncode == 0
    config = "experiments/data/first.config.json"
    again = run(tmp_path, SCRIPTS["cMax"], "--config", config, "--tag", "second")
    assert again.returncode == 0, again.stderr
    first, second = (json.loads((tmp_path / f"experiments/data/{tag}.json").read_text()) for tag in ("first", "second"))
    losses = [[row["loss"] for row in history["train"]] for history in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    beside = "experiments/models/best_first.json"  # the description of a model holds its arguments, too
    args = typed("--config", tmp_path / beside)
    assert (args.tag, args.seed, args.batch_size) == ("first", 3, 16)
