"""One reader for every program: each kind of file has one rule; and copies look like their originals."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tools.data.annotations import read_annotation, read_sizes
from tools.data.datasets import ImageFiles, VOCImages
from tools.data.images import TURNS, find_images, read_image, save_smaller, upright_size
from tools.scale_devkit import scale_devkit
from tools.system.errors import UserError

ORIENTATION = 274
CORNERS = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 250, 250], [90, 90, 90]]], np.uint8)


def photo(path: Path, turned: int = 1, size: tuple[int, int] = (60, 40), **options: object) -> Path:
    """Write six colored fields, three by two, as a camera held in another way does: a viewer shows them upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    image = Image.fromarray(CORNERS).resize(size, Image.Resampling.NEAREST)
    # What the camera stores is turned the other way.
    inverse = {6: 8, 8: 6}.get(turned, turned)
    stored = image if turned == 1 else image.transpose(TURNS[inverse])
    stored.save(path, exif=exif, **options)
    return path


def fields(image: Image.Image) -> np.ndarray:
    """Return the six colors."""
    return np.asarray(image.resize((3, 2), Image.Resampling.BOX)).astype(int)


@pytest.mark.parametrize("suffix, options", [("jpg", {"quality": 95, "subsampling": 0}), ("png", {}), ("webp", {})])
@pytest.mark.parametrize("turned", range(1, 9))
def test_every_orientation_is_read_upright(tmp_path, suffix, options, turned):
    path = photo(tmp_path / f"a.{suffix}", turned, **options)
    image = read_image(path)
    assert image.size == (60, 40) == upright_size(path)
    assert np.abs(fields(image) - CORNERS).max() < 25
    assert ImageOps.exif_transpose(image).size == (60, 40)  # nothing is left that turns it again


@pytest.mark.parametrize("value", [0, 9, 77, 65535])
def test_a_strange_orientation_counts_as_upright(tmp_path, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif.tobytes())
    assert read_image(tmp_path / "a.jpg").size == (60, 40)


GARBAGE = (b"garbage garbage", b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 90)


@pytest.mark.parametrize("exif", GARBAGE)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_data_cost_nothing(tmp_path, suffix, exif):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (9, 7), (200, 0, 0)).save(path, exif=b"Exif\0\0" + exif)
    assert read_image(path).size == (9, 7) == upright_size(path)
    assert ImageFiles([path], 32)[0].problem == ""


def png_with(image: Image.Image, kind: bytes, data: bytes, crc: int | None = None, start: int = 33) -> bytes:
    """Return a PNG with one more chunk, after its header or from the byte `start`."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    content = buffer.getvalue()
    chunk = len(data).to_bytes(4, "big") + kind + data
    crc = zlib.crc32(kind + data) if crc is None else crc
    return content[:start] + chunk + crc.to_bytes(4, "big") + content[start:]


SIDE_DATA = [(b"tEXt", b"Comment\0" + b"x" * 30, 1), (b"zTXt", b"a\0\0damaged", None), (b"iCCP", b"a\0\0damaged", None)]
SIDE_DATA += [(b"eXIf", b"garbage", None), (b"pHYs", b"1", None), (b"gAMA", b"", None), (b"tIME", b"\xff" * 7, 7)]
SIDE_DATA += [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000)), None), (b"sRGB", b"", None), (b"cHRM", b"x", 1)]


@pytest.mark.parametrize("start", [33, -12])  # before and behind the pixels
@pytest.mark.parametrize("kind, data, crc", SIDE_DATA)
def test_damaged_side_data_of_a_png_cost_nothing(tmp_path, kind, data, crc, start):
    image = Image.new("RGB", (9, 7), (200, 0, 0))
    (tmp_path / "a.png").write_bytes(png_with(image, kind, data, crc, start))
    assert (np.asarray(read_image(tmp_path / "a.png")) == (200, 0, 0)).all()


@pytest.mark.parametrize("start", [33, -12])
def test_a_png_with_damaged_side_data_keeps_its_orientation(tmp_path, start):
    path = photo(tmp_path / "a.png", 6)
    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", exif=image.getexif())
    chunk = b"\0\0\0\1pHYs1" + zlib.crc32(b"pHYs1").to_bytes(4, "big")
    path.write_bytes(buffer.getvalue()[:start] + chunk + buffer.getvalue()[start:])
    assert upright_size(path) == read_image(path).size == (60, 40)
    assert np.abs(fields(read_image(path)) - CORNERS).max() < 25


@pytest.mark.parametrize("marker", range(0xE1, 0xF0))
@pytest.mark.parametrize(
    "data", [b"Exif\0\0MM\0*", b"MPF\0II*\0\xff\xff\xff\xff", b"ICC_PROFILE\0\1\2", b"Adobe\0\1", b""]
)
def test_damaged_side_data_of_a_jpeg_cost_nothing(tmp_path, marker, data):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 0, 0)).save(buffer, "JPEG")
    segment = bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[:2] + segment + buffer.getvalue()[2:])
    assert read_image(tmp_path / "a.jpg").size == (9, 7) == upright_size(tmp_path / "a.jpg")


def test_the_upper_half_of_16_bits_counts(tmp_path):
    values = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = np.asarray(read_image(tmp_path / "a.png"))
    assert np.array_equal(pixels, np.repeat((values >> 8)[..., None], 3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_each_mode_becomes_rgb_as_in_the_official_code(tmp_path, mode):
    colors = Image.fromarray(CORNERS).resize((60, 40), Image.Resampling.NEAREST)
    image = colors.convert(mode) if mode not in ("LA", "RGBA") else colors.convert(mode[:-1])
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize((60, 40)))
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    options = {"transparency": b"\0\x80"} if mode == "P" else {}
    image.save(path, **options)
    result = read_image(path)
    assert result.mode == "RGB" and not result.has_transparency_data
    assert np.array_equal(result, Image.open(path).convert("RGB"))
    if mode in ("RGBA", "P"):  # what is below the transparency
        assert np.abs(fields(result) - CORNERS).max() < 25


def test_the_first_of_several_images_counts(tmp_path):
    red, blue = (Image.new("RGB", (9, 7), color) for color in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert read_image(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_costs_itself_alone(tmp_path, suffix):
    good, bad = tmp_path / f"good.{suffix}", tmp_path / f"bad.{suffix}"
    Image.effect_noise((70, 50), 90).convert("RGB").save(good)
    bad.write_bytes(good.read_bytes()[:-900])
    with pytest.raises(UserError, match=r"cannot decode .*bad"):
        read_image(bad)
    items = [ImageFiles([good, bad], 32)[index] for index in range(2)]
    assert items[0].problem == "" and items[1].problem.startswith("cannot decode")


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_a_copy_looks_like_its_original(tmp_path, turned):
    source = photo(tmp_path / "a.jpg", turned, (300, 200), quality=95, subsampling=0)
    size, factor = save_smaller(source, tmp_path / "copy.jpg", 60, 95)
    copy = Image.open(tmp_path / "copy.jpg")
    assert size == copy.size == (60, 40) and factor == 0.2
    assert copy.getexif().get(ORIENTATION, 1) == 1
    for shown in (ImageOps.exif_transpose(copy), read_image(tmp_path / "copy.jpg")):
        assert np.abs(fields(shown) - fields(ImageOps.exif_transpose(Image.open(source)))).max() < 25


def test_a_copy_keeps_the_color_profile_of_rgb_alone(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (90, 60)).save(tmp_path / "rgb.jpg", icc_profile=profile)
    Image.new("CMYK", (90, 60)).save(tmp_path / "cmyk.jpg", icc_profile=profile.replace(b"RGB ", b"CMYK", 1))
    Image.new("RGB", (90, 60)).save(tmp_path / "damaged.jpg", icc_profile=b"damaged")
    for name, expected in (("rgb", profile), ("cmyk", None), ("damaged", None)):
        save_smaller(tmp_path / f"{name}.jpg", tmp_path / "copy.jpg", 30, 95)
        assert Image.open(tmp_path / "copy.jpg").info.get("icc_profile") == expected


def test_a_scaled_devkit_is_upright_and_its_sizes_too(devkit, tmp_path):
    photo(devkit / "JPEGImages/im_0.jpg", 6, (300, 200))
    assert read_sizes(devkit, ["im_0"]) == [(200, 300)]
    (devkit / "JPEGImages/im_1.jpg").rename(devkit / "JPEGImages/im_1.PNG")
    (devkit / "Annotations/im_1.xml").rename(devkit / "Annotations/im_1.XML")
    assert scale_devkit(devkit, tmp_path / "small", 30) == 8
    dataset = VOCImages(tmp_path / "small", "Main/train")
    assert dataset[0][0].size == (30, 20)
    assert sorted(os.listdir(tmp_path / "small/JPEGImages")) == [f"im_{i}.jpg" for i in range(8)]
    before, after = (read_annotation(f / "Annotations/im_1.xml", ["cat", "dog"]) for f in (tmp_path / "small",) * 2)
    assert len(before) == len(after) == 1


def test_a_devkit_without_images_is_not_scaled(devkit, tmp_path):
    for path in (devkit / "JPEGImages").iterdir():
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(UserError, match="holds no image"):
        scale_devkit(devkit, tmp_path / "small", 30)
    assert not (tmp_path / "small").exists()


def test_links_are_followed_once_and_what_is_left_out_is_listed(tmp_path, monkeypatch):
    (tmp_path / "far/sub").mkdir(parents=True)
    (tmp_path / "photos/.hidden").mkdir(parents=True)
    for name in ("far/sub/b.JPG", "photos/a.png", "photos/._a.png", "photos/.hidden/c.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    (tmp_path / "photos/notes.txt").write_text("")
    (tmp_path / "photos/.DS_Store").write_text("")
    (tmp_path / "photos/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/sub/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/broken.jpg").symlink_to(tmp_path / "nothing.jpg")
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "phot*"):
        images, others = find_images([name])
        assert [str(path) for path in images] == ["photos/a.png", "photos/link/sub/b.JPG"]
        assert [str(path) for path in others] == ["photos/link/sub/back", "photos/broken.jpg", "photos/notes.txt"]
