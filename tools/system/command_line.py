"""A program's command line as one frozen dataclass: a field is an argument's type, default, help, bounds and group.

On argparse, because the official code's `--nesterov True` has to stay.

    @dataclass(frozen=True)
    class Config(Arguments):
        data_dir: Path = argument(help="devkit folder", group="data")           # no default: required
        lr: float = argument(0.1, "learning rate per step", group="optimization", above=0)

    config = parse(Config, __doc__)
"""

import argparse
import dataclasses
import difflib
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tools.system.errors import UserError
from tools.system.files import ROOT

Config = TypeVar("Config", bound="Arguments")
BOUNDS = {
    "above": (operator.gt, "above {}"),
    "least": (operator.ge, "{} or more"),
    "below": (operator.lt, "below {}"),
    "most": (operator.le, "at most {}"),
}
# Far beyond any use: larger values overflow arithmetic, or take hours or all memory before they fail.
MOST_INT, MOST_FLOAT = 2**63 - 1, 1e100
MOST = {
    **{"batch_size": 10**6, "bootstrap": 10**6, "images": 10**6, "num_workers": 1024},
    **{"image_size": 2**13, "min_image_size": 2**15, "max_image_size": 2**15, "shrink": 2**15},
}
# What other code bases call an argument: these names cannot be guessed from the spelling.
SYNONYMS = {"architecture": ("arch", "backbone", "model"), "class_file": ("classes",), "tag": ("name",)}
SYNONYMS |= {"data_dir": ("data", "data_root", "dataset", "root"), "device": ("cpu", "gpu", "gpus")}
SYNONYMS |= {"image_size": ("img_size", "input_size"), "lr": ("learning_rate",), "out": ("output", "output_dir")}
SYNONYMS |= {"max_epoch": ("epoch", "epochs", "num_epochs"), "num_workers": ("workers",), "warmup_epoch": ("warmup",)}
SYNONYMS |= {"wd": ("decay", "weight_decay"), "weights": ("checkpoint", "pretrained")}


@dataclass(frozen=True)
class Argument:
    """What a command line knows of an argument besides its name, type and default."""

    help: str = ""  # one line, with the unit
    group: str = ""  # heading under which --help lists it
    choices: Iterable[str] | None = None
    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    parse: Callable[[str], Any] | None = None  # raises `ValueError` or `argparse.ArgumentTypeError`
    bare: Any = None  # the value of the flag without a value after it
    metavar: str | None = None
    one_of: str = ""  # of the arguments with the same word exactly one may be given
    at_most_one_of: str = ""
    aliases: Sequence[str] = ()  # further names, accepted but not shown
    positional: bool = False  # its values are given without its name
    names_file: bool = False  # a path must end in the name of a file (not `.`, `..` or `/`)
    resumable: bool = False  # may differ between a run and its continuation: it does not change the result

    def problem(self, name: str, value: Any) -> str | None:
        """Say what a value of the argument called `name` has to be if it is not, or return None."""
        bounds = {bound: getattr(self, bound) for bound in BOUNDS if getattr(self, bound) is not None}
        for one in _each(value):
            if not all(BOUNDS[bound][0](one, limit) for bound, limit in bounds.items()):
                return "must be " + " and ".join(BOUNDS[bound][1].format(limit) for bound, limit in bounds.items())
            most = MOST.get(name, MOST_INT if isinstance(one, int) else MOST_FLOAT)
            if isinstance(one, (int, float)) and not abs(one) <= most:
                return f"must be finite and at most {most:,}"
            if self.names_file and (Path(one).name in ("", "..") or len(os.fsencode(Path(one).name)) > 240):
                return "must end in the name of a file, of at most 240 bytes"
        return None


def _each(value: Any) -> list[Any]:
    """Return the values of an argument, which may have none, one or several."""
    return [] if value is None else [*value] if isinstance(value, (list, tuple)) else [value]


def argument(default: Any = dataclasses.MISSING, help: str = "", **about: Any) -> Any:
    """Declare a field of an `Arguments` dataclass; `about` are attributes of `Argument`. No default: required."""
    return dataclasses.field(default=default, metadata={"argument": Argument(help, **about)}, kw_only=True)


@dataclass(frozen=True)
class Arguments:
    """Base of the dataclasses that hold a program's arguments. Nothing writes to one after it is made."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if problem := item.metadata["argument"].problem(item.name, value):
                raise UserError(f"--{item.name} {' '.join(map(str, _each(value)))}: {problem}")
        self.check()

    def check(self) -> None:
        """Raise a `UserError` for values that contradict each other."""


def with_arguments(config: type[Config], declared: dict[str, dataclasses.Field]) -> type[Config]:
    """Return `config` with further arguments by name, declared with `argument`; their type is that of the default."""
    fields = [(name, type(field.default), field) for name, field in declared.items()]
    return dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)


def parse(config: type[Config], description: str | None, argv: Sequence[str] | None = None, usage: str = "") -> Config:
    """Read a program's arguments into `config`; `argv` None: the process's. A `UserError` says what is wrong."""
    return config(**vars(make_parser(config, description, usage).parse_args(argv)))


def make_parser(config: type[Arguments], description: str | None, usage: str = "") -> "Parser":
    parser = Parser(description=(description or "").strip(), usage=usage or None)
    hints = typing.get_type_hints(config)
    groups: dict[Any, Any] = {"": parser}
    for field in dataclasses.fields(config):
        about: Argument = field.metadata["argument"]
        if about.group not in groups:
            groups[about.group] = parser.add_argument_group(about.group)
        exclusive = about.one_of or about.at_most_one_of
        key = (about.group, exclusive) if exclusive else about.group
        if key not in groups:
            groups[key] = groups[about.group].add_mutually_exclusive_group(required=bool(about.one_of))
        options = _options(field, about, hints[field.name])
        groups[key].add_argument(field.name if about.positional else f"--{field.name}", **options)
        for alias in about.aliases:
            hidden = {**options, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS, "required": False}
            parser.add_argument(f"--{alias}", dest=field.name, **hidden)
    return parser


def _options(field: dataclasses.Field, about: Argument, hint: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"help": about.help, "metavar": about.metavar, "choices": about.choices}
    if field.default is dataclasses.MISSING:
        options["help"] += " (required)"
        options |= {} if about.positional else {"required": True}  # argparse always requires positional ones
    else:
        default = options["default"] = field.default
        shown = "none" if default in (None, "") else str(default).removeprefix(f"{ROOT}/").replace("%", "%%")
        options["help"] += "" if "default" in about.help else f" (default: {shown})"
    if isinstance(hint, types.UnionType):  # such as `list[int] | None`
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    several = typing.get_origin(hint) in (list, tuple)
    kind = typing.get_args(hint)[0] if several else hint
    if kind is bool:
        return options | {"type": boolean, "nargs": "?", "const": True, "metavar": "True|False"}
    if about.bare is not None:
        options |= {"nargs": "?", "const": about.bare}
    if several and not about.parse:
        options["nargs"] = "*" if about.positional and "default" in options else "+"
    return options | {"type": about.parse or kind}


def boolean(word: str) -> bool:
    """Read a truth value.

    >>> boolean("y"), boolean("False")
    (True, False)
    """
    if word.lower() in ("true", "t", "yes", "y", "1"):
        return True
    if word.lower() in ("false", "f", "no", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"'{word}' is neither True nor False")


def to_argv(arguments: dict[str, Any]) -> list[str]:
    """Return arguments by name as words of a command line; False and None leave their argument out.

    >>> to_argv({"lr": 0.1, "flip": True, "amp": False, "seeds": [1, 2]})
    ['--lr', '0.1', '--flip', '--seeds', '1', '2']
    """
    words = []
    for name, value in arguments.items():
        if value is not None and value is not False:
            words += [f"--{name}", *([] if value is True else map(str, _each(value)))]
    return words


class Parser(argparse.ArgumentParser):
    """argparse's parser, except that nothing is abbreviated and a mistake is a `UserError` (one line, status 2)."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        parsed, unknown = self.parse_known_args(sys.argv[1:] if args is None else args, namespace)
        if unknown and unknown[0].startswith("-"):
            name = unknown[0].split("=")[0]
            self.error(f"unknown argument {name}: {nearest(name, self.flags())}")
        if unknown:
            self.error(f"unexpected word {unknown[0]!r}: values follow the name of their argument")
        return parsed

    def parse_known_args(self, args: Sequence[str], namespace: argparse.Namespace | None = None):
        for word in args:
            if word.startswith("--") and word.partition("=")[2] == "--":  # argparse loses it
                self.error(f"{word}: -- is not a value")
        return super().parse_known_args(args, namespace)

    def flags(self) -> list[str]:
        """Return every argument that --help shows."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [flag for action in shown for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all arguments)" if "--help" not in message else message)


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of the known words is probably meant.

    >>> nearest("--batch-size", ["--batch_size", "--lr"]), nearest("--learning_rate", ["--batch_size", "--lr"])
    ('did you mean --batch_size?', 'did you mean --lr?')
    >>> nearest("--xyz", ["--batch_size", "--lr"])
    '--help lists all arguments'
    """
    known = list(known)
    dashes = "--" if word.startswith("-") else ""
    name = word.strip("-").replace("-", "_").lower()
    meant = dashes + next((ours for ours, theirs in SYNONYMS.items() if name in theirs), name)
    found = [meant] if meant in known else difflib.get_close_matches(dashes + name, known, n=1)
    return f"did you mean {found[0]}?" if found else "--help lists all arguments"
