"""Images in: what is read and what is refused, squares, tiles, counts, and places among tokens."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import pytest
import torch

from espalier.data.images import (
    MODES,
    Grid,
    Mode,
    Views,
    cut,
    expand,
    grid,
    mode,
    normal,
    padded,
    placed,
    raw,
    read,
    squares,
    unfit,
    views,
    vision_tokens,
)
from espalier.errors import UserError

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

RED, BLUE, WHITE, GREY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (127, 127, 127)


def saved(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def plain(width: int, height: int, colour: tuple[int, ...] = RED) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def noise(width: int, height: int) -> Image.Image:
    data = torch.randint(256, (height * width * 3,), generator=torch.Generator().manual_seed(0))
    return Image.frombytes("RGB", (width, height), bytes(data.tolist()))


def png(width: int, height: int) -> bytes:
    """A file whose header promises this size and that holds nothing of it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    number = struct.Struct(">I").pack
    chunks = [number(len(c) - 4) + c + number(zlib.crc32(c)) for c in (head, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("name", "width", "height", "tokens"),
    [
        ("tiny", 300, 900, 73),
        ("small", 300, 900, 111),
        ("base", 300, 900, 273),
        ("large", 300, 900, 421),
        ("gundam", 640, 640, 273),
        ("gundam", 463, 1013, 493),
        ("gundam", 850, 600, 893),
        ("gundam", 1024, 1024, 693),
        ("gundam", 1300, 640, 483),
        ("gundam", 800, 1200, 903),
        ("gundam", 1900, 640, 583),
    ],
)
def test_an_image_takes_as_many_tokens_as_published(
    name: str, width: int, height: int, tokens: int
) -> None:
    assert vision_tokens(MODES[name], width, height) == tokens


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((463, 1013), Grid(1, 2)),
        ((850, 600), Grid(3, 2)),
        ((1024, 1024), Grid(2, 2)),
        ((640, 640), None),
        ((641, 640), Grid(2, 2)),
        ((20000, 1), Grid(6, 1)),
        ((1, 20000), Grid(1, 6)),
    ],
)
def test_tiles_have_the_shape_nearest_to_the_image(
    size: tuple[int, int], shape: Grid | None
) -> None:
    assert grid(*size) == shape


def test_of_two_grids_as_near_the_larger_wins_where_the_image_fills_half_of_it() -> None:
    """7:4 = 1.75 lies between 3:2 and 2:1, as far from one as from the other."""
    assert grid(700, 400) == Grid(2, 1)  # 280,000 pixels; half of six tiles is 1,228,800
    assert grid(1750, 1000) == Grid(3, 2)


def test_views_have_the_shapes_that_the_counts_say() -> None:
    got = views(noise(850, 600), mode("gundam"))
    assert got.whole.shape == (3, 1024, 1024)
    assert got.tiles is not None
    assert got.tiles.shape == (2, 3, 3, 640, 640)
    assert views(noise(20, 30), mode("gundam")).tiles is None
    assert views(noise(20, 30), mode("tiny")).whole.shape == (3, 512, 512)


def test_colours_become_numbers_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (0, 127, 255))
    image.putpixel((1, 0), (255, 0, 51))
    got = normal(Views(raw(image), None)).whole
    assert got.shape == (3, 1, 2)
    want = torch.tensor([[[-1.0, 1.0]], [[127 / 127.5 - 1, -1.0]], [[1.0, -0.6]]])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("size", [(463, 1013), (850, 600), (30, 30), (7, 500), (1000, 333)])
def test_padding_is_bit_for_bit_pillows_own(size: tuple[int, int]) -> None:
    image = noise(*size)
    want = ImageOps.pad(image, (128, 128), Image.Resampling.BICUBIC, color=GREY)
    assert padded(image, 128).tobytes() == want.tobytes()


def test_a_wide_image_stands_in_the_middle_of_grey() -> None:
    got = padded(plain(200, 100), 64)
    assert [got.getpixel((32, y)) for y in (15, 16, 47, 48)] == [GREY, RED, RED, GREY]


def test_a_strip_of_one_pixel_stays_visible() -> None:
    assert padded(plain(1, 20000), 64).getpixel((32, 5)) == RED


def test_small_modes_stretch_and_large_ones_pad() -> None:
    image = plain(200, 100)
    corner = {name: views(image, MODES[name]).whole[:, 0, 0] for name in ("tiny", "base")}
    assert corner["tiny"].tolist() == [1, -1, -1]
    torch.testing.assert_close(corner["base"], torch.full((3,), 127 / 127.5 - 1))


def test_tiles_are_cut_row_by_row() -> None:
    image = Image.new("RGB", (3, 2))
    for i in range(6):
        image.putpixel((i % 3, i // 3), (10 * i + 10,) * 3)
    assert cut(image, Grid(3, 2), 1)[:, :, 0, 0, 0].tolist() == [[10, 20, 30], [40, 50, 60]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_common_formats_are_read(kind: str) -> None:
    assert read(saved(plain(9, 5), kind)).size == (9, 5)


def test_a_photograph_is_turned_upright() -> None:
    image = plain(4, 2)
    image.putpixel((0, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    got = read(saved(image, exif=exif))
    assert got.size == (2, 4)
    assert got.getpixel((1, 0)) == BLUE


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 255, 255))
    got = read(saved(clear))
    assert [got.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0])
    assert read(saved(palette, transparency=0)).getpixel((0, 0)) == WHITE


def test_sixteen_bits_become_eight_and_are_not_cut_off() -> None:
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((0, 0), 32896)  # 128 x 257
    deep.putpixel((1, 0), 65535)
    got = read(saved(deep))
    assert [got.getpixel((x, 0)) for x in (0, 1)] == [(128,) * 3, WHITE]


def test_cmyk_and_grey_become_colours() -> None:
    assert read(saved(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "JPEG")).getpixel((0, 0)) == WHITE
    assert read(saved(Image.new("L", (1, 1), 127))).getpixel((0, 0)) == GREY


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"scan is empty \(0 bytes\)"),
        (saved(noise(40, 40))[:600], "scan is broken: image file is truncated"),
        (b"%PDF-1.7 ...", "scan is a PDF; render its pages first"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "scan is SVG"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "scan is HEIC; convert it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "scan is a Git LFS pointer"),
        (b"<!doctype html><html>", "scan is a web page"),
        (b"once upon a time", r"scan is no image that is read here \(AVIF, BMP"),
        (png(30_000, 30_000), "scan is too large: more than 178,956,970 pixels"),
        (png(9_500, 9_500), r"scan is too large: 9500 x 9500 = 90,250,000 pixels, at most 89,478"),
        (png(4, 4), "scan is broken"),
        (saved(Image.new("F", (2, 2)), "TIFF"), "scan is broken: its pixels are fractions"),
    ],
)
def test_a_bad_image_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(data, "scan")


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_several_frames_or_pages_are_refused(kind: str) -> None:
    data = saved(plain(2, 2), kind, save_all=True, append_images=[plain(2, 2, BLUE)])
    with pytest.raises(UserError, match="holds 2 frames or pages"):
        read(data, "scan")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png cannot be read: No such file"):
        read(tmp_path / "none.png")
    (tmp_path / "wrong.jpg").write_bytes(saved(plain(3, 2)))
    assert read(tmp_path / "wrong.jpg").size == (3, 2)  # a PNG by another name


def test_any_damage_is_either_read_or_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = [saved(noise(24, 16), kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP")]
    for turn in range(300):
        data = bytearray(whole[turn % len(whole)])
        for place in torch.randint(len(data), (4,), generator=generator).tolist():
            data[place] = int(torch.randint(256, (), generator=generator))
        with contextlib.suppress(UserError):
            assert read(bytes(data)).mode == "RGB"


def test_images_stand_among_tokens_as_content_not_as_text() -> None:
    got = expand([[1, 2], 3, [4], 2], image_id=9)
    assert got.ids == [1, 2, 9, 9, 9, 4, 9, 9]
    assert got.slots == [-1, -1, 0, 1, 2, -1, 3, 4]


def test_the_images_token_in_a_text_stays_a_token() -> None:
    assert expand([[9, 9]], image_id=9).slots == [-1, -1]


def test_the_next_row_counts_features_on() -> None:
    assert expand([1, [5], 2], image_id=9, first=7).slots == [7, -1, 8, 9]


def test_an_unknown_mode_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no image mode 'gundan'\. Did you mean 'gundam'\?"):
        mode("gundan")


def test_a_number_is_a_mode_of_so_many_pixels():
    assert mode(128) == mode("128") == Mode(128)
    assert vision_tokens(mode(128), 300, 100) == 7
    for wrong in (0, 100, "100"):
        with pytest.raises(UserError, match="must be a multiple of 64"):
            mode(wrong)


def test_images_stand_before_the_tokens_that_are_told():
    """At the beginning, twice at one place, and at the end."""
    row = placed([5, 6], [0, 1, 1, 2], [1, 2, 1, 1], 9)
    assert row.ids == [9, 5, 9, 9, 9, 6, 9]
    assert row.slots == [0, -1, 1, 2, 3, -1, 4]


@pytest.mark.parametrize(
    ("size", "colours", "why"),
    [
        ((64, 64), 1, "is blank"),
        ((1, 200), 2, None),
        ((1, 201), 2, "is a strip of 1 x 201 pixels"),
        ((64, 64), 2, None),
    ],
)
def test_what_has_nothing_to_read_is_unfit(size, colours, why):
    image = plain(*size)
    if colours == 2:
        image.putpixel((0, 0), BLUE)
    found = unfit(image)
    assert found is None if why is None else str(found).startswith(why)


def test_bytes_are_the_same_pixels():
    for name in ("gundam", "tiny"):
        one = views(noise(700, 300), mode(name))
        other = normal(squares(noise(700, 300), mode(name)))
        assert torch.equal(one.whole, other.whole)
        assert squares(noise(700, 300), mode(name)).whole.dtype == torch.uint8
