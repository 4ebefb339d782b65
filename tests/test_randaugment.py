"""RandAugment against pixels of the official code (tests/golden/randaugment.npz), and `--augment`."""

import hashlib
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.helpers.command_line import ROOT
from tools.data import transforms
from tools.data.randaugment import OPERATIONS, Draws, black_square, cutout, randaugment
from tools.data.transforms import AUGMENTATIONS, augmentations, training_transform
from tools.system.errors import UserError

HEIGHT, WIDTH, SEEDS = 24, 28, range(20)
SQUARES = [(0.0, 0.0), (14.25, 12.5), (27.9, 23.9), (3.0, 20.2), (20.5, 4.75), (8.0, 8.0), (7.999, 16.0)]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(ROOT / "tests/golden/randaugment.npz"))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """The image that the golden pixels were made from: ramps, coarse squares and noise."""
    seed = int.from_bytes(hashlib.sha256(b"goldenrivalrandaugment image").digest()[:4], "big")
    rng = np.random.RandomState(seed)
    blocks = np.ones((-(-HEIGHT // 4), -(-WIDTH // 4), 1))
    coarse = np.kron(rng.random_sample((4, 4, 3)), blocks)[:HEIGHT, :WIDTH]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ramp = np.stack([x / WIDTH, y / HEIGHT, (x + y) / (HEIGHT + WIDTH)], axis=2)
    noise = rng.random_sample((HEIGHT, WIDTH, 3))
    return Image.fromarray(np.floor(25 + 90 * coarse + 60 * ramp + 35 * noise).astype(np.uint8))


class OfficialDraws:
    """The official code's generators: Python's for choices and chances, NumPy's for strengths and the square."""

    def __init__(self, seed: int):
        random.seed(seed)
        np.random.seed(seed)

    def chance(self) -> float:
        return random.random()

    def strength(self) -> int:
        return np.random.randint(1, 10)

    def position(self, side: int) -> float:
        return np.random.uniform(0, side)


@pytest.mark.parametrize("number", range(14))
def test_each_operation_gives_the_official_pixels(number, golden, image):
    operation = OPERATIONS[number]
    assert operation.signed == golden["operation_signed"][number]
    for strength in range(1, 10):
        expected = golden["operation_value"][number, strength - 1]
        if not np.isnan(expected):
            assert operation.value(strength) == expected
        for column, sign in enumerate((1, -1 if operation.signed else 1)):
            pixels = np.asarray(operation.apply(image, sign * operation.value(strength)))
            assert np.array_equal(pixels, golden["operation_pixels"][number, strength - 1, column]), (strength, sign)


@pytest.mark.parametrize("number", range(7))
def test_the_black_square_is_the_official_one(number, golden, image):
    before = np.asarray(image).copy()
    assert np.array_equal(black_square(image, *SQUARES[number]), golden["cutout_pixels"][number])
    assert np.array_equal(image, before)


@pytest.mark.parametrize("number", SEEDS)
def test_the_whole_augmentation_gives_the_official_pixels(number, golden, image):
    assert np.array_equal(randaugment(image, OfficialDraws(SEEDS[number])), golden["draw_pixels"][number])


def test_draws_of_training_are_uniform_and_depend_on_torchs_seed_alone():
    image = Image.new("RGB", (40, 40), (90, 90, 90))
    draws = Draws()
    torch.manual_seed(0)
    chances = [draws.chance() for _ in range(2000)]
    strengths = np.bincount([draws.strength() for _ in range(2000)], minlength=10)
    positions = [draws.position(40) for _ in range(2000)]
    assert abs(np.mean(chances) - 0.5) < 0.03 and min(chances) >= 0 and max(chances) < 1
    assert strengths[0] == 0 and len(strengths) == 10 and strengths[1:].min() > 150
    assert abs(np.mean(positions) - 20) < 1 and max(positions) < 40

    def sample(seed: int) -> np.ndarray:
        random.seed(None)
        torch.manual_seed(seed)
        return np.asarray(randaugment(image))

    assert np.array_equal(sample(1), sample(1))
    assert any(not np.array_equal(sample(1), sample(seed)) for seed in range(2, 6))
    assert all((sample(seed) == 0).all(2).any() for seed in range(6))  # the square is never left out


@pytest.mark.parametrize("share, width, height", [(0.5, 40, 24), (0.5, 7, 31), (1.0, 16, 10), (0.01, 9, 5)])
def test_cutout_covers_a_rectangle_around_a_pixel_of_the_image(share, width, height):
    """The rectangle of ASL's `CutoutPIL`, both ends included, from the middle, which is any pixel of the image."""
    half = int(share * width + 0.5) // 2, int(share * height + 0.5) // 2
    expected = {
        (max(0, x - half[0]), max(0, y - half[1]), min(width - 1, x + half[0]), min(height - 1, y + half[1]))
        for x in range(width) for y in range(height)
    }  # fmt: skip
    found, colors = set(), set()
    for seed in range(200):
        torch.manual_seed(seed)
        image = Image.new("RGB", (width, height), (1, 2, 3))
        after = np.asarray(cutout(image, share)).astype(int)
        assert np.array_equal(np.asarray(image), np.broadcast_to((1, 2, 3), after.shape))
        rows, columns = np.nonzero((after != (1, 2, 3)).any(2))
        box = columns.min(), rows.min(), columns.max(), rows.max()
        assert len(rows) == (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
        assert len({*map(tuple, after[rows, columns])}) == 1
        found.add(tuple(map(int, box)))
        colors.add(tuple(after[rows[0], columns[0]]))
    assert found <= expected and len(found) > min(len(expected), 100) / 2 and len(colors) > 190


@pytest.mark.parametrize(
    "text",
    ["colorjitter,randaugment", "randaugment colorjitter", "randaugment+colorjitter", "randaugment-colorjitter", "/&;",
     "colorjitter_randaugment", "colorjitterrandaugment", " randaugment , ", "colorjitter|colorjitter", "", "--"],
)  # fmt: skip
def test_any_separator_and_order_names_the_augmentations(text):
    found = ["colorjitter" if isinstance(change, v2.ColorJitter) else change.__name__ for change in augmentations(text)]
    assert found == [name for name in ("colorjitter", "randaugment") if name in text]


@pytest.mark.parametrize("text", ["blur", "colorjitter,blur", "randaugment2", "color jitter", "RandAugment"])
def test_an_unknown_augmentation_is_an_error(text):
    with pytest.raises(UserError, match="unknown augmentation '.*': choose from colorjitter, randaugment"):
        augmentations(text)


def test_colors_change_after_the_flip_and_before_the_crop(monkeypatch):
    steps = []

    def noted(name: str, step: Callable) -> Callable:
        return lambda *given, **named: steps.append(name) or step(*given, **named)

    for name in ("resize_longer_side", "flip", "crop"):
        monkeypatch.setattr(transforms, name, noted(name, getattr(transforms, name)))
    for name, change in AUGMENTATIONS.items():
        monkeypatch.setitem(AUGMENTATIONS, name, noted(name, change))
    monkeypatch.setattr(transforms, "cutout", noted("cutout", cutout))
    for share in (0.0, 0.5):
        training_transform(32, 32, 64, "randaugment,colorjitter", share)(Image.new("RGB", (40, 30)))
    before, after = ["resize_longer_side", "flip"], ["colorjitter", "randaugment", "crop"]
    assert steps == [*before, *after, *before, "cutout", *after]
