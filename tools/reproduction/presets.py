"""The studies that `reproduce_tables.py` knows by name; `data/studies.json` declares them."""

from dataclasses import dataclass, field
from typing import Any

from tools.system.files import ROOT, read_object


@dataclass(frozen=True)
class Preset:
    """Data and settings of a study."""

    about: str
    arguments: dict[str, Any]  # of the training scripts
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)  # by a row's tag: what its paper does differently
    published: dict[str, list[dict]] = field(default_factory=dict)  # by a row's tag: see `tools.reproduction.published`
    tables: list[str] | None = None  # unless --tables is given; None: all
    seeds: list[int] = field(default_factory=lambda: [0])  # unless --seeds is given
    toy_images: int = 0  # number of images to draw; 0: --data_dir names the data
    longer_side: int = 0  # length to scale the images down to first, pixels; 0: do not scale
    own_classes: bool = False  # the classes are those of the data's classes.json, not VOC's


PRESETS = {name: Preset(**declared) for name, declared in read_object(ROOT / "data/studies.json").items()}
