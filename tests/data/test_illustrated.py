"""Samples with images into a corpus: what is kept, what is left out and why, how it is split."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from espalier.data.chat import Message, Shown
from espalier.data.corpus import Corpus
from espalier.data.request import Listener
from espalier.data.samples import Fault, Picture, picture, samples
from espalier.errors import UserError
from tests.data.pictures import Image, corpus, png, sample, shown, spotted

HELD = sample("held", [shown("green"), "q"], "a", side="val")
GOOD = sample("good", [shown("red"), "q"], "a", side="train")


def saved(image: Any, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises this size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    number = struct.Struct(">I").pack
    chunks = [number(len(c) - 4) + c + number(zlib.crc32(c)) for c in (head, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


RED, BLUE = spotted("red"), spotted("blue")
BAD = {
    "is empty (0 bytes)": b"",
    "is broken": png("red")[:60],
    "a web page": b"<html>no image</html>",
    "a PDF; render its pages first": b"%PDF-1.7",
    "SVG; render it first": b"<svg/>",
    "HEIC; convert it": b"\x00\x00\x00\x18ftypheic",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "holds 2 frames or pages": saved(RED, "GIF", save_all=True, append_images=[BLUE]),
    "holds 2 frames": saved(RED, "TIFF", save_all=True, append_images=[BLUE]),
    "is too large": bomb(30_000, 30_000),
    "is blank": saved(Image.new("RGB", (64, 64), "white"), "PNG"),
    "is blank: all": saved(Image.new("RGB", (1, 1)), "PNG"),
    "is a strip of 1 x 20000 pixels": saved(Image.new("RGB", (1, 20_000)), "PNG"),
}


@pytest.mark.parametrize("why", BAD)
def test_a_bad_image_is_left_out_and_told_with_its_reason(why, tmp_path):
    told: list[str] = []
    bad = sample("bad", [Picture(BAD[why], "bad.png"), "q"], "a", side="train")
    found = corpus(tmp_path / "c", [bad, GOOD, HELD], listener=Listener(told.append))
    assert [one.id for one in samples(found, "train")] == ["good"]
    assert found.meta["left_out"] == 1
    assert told[0].startswith("left out: bad: bad.png ")
    assert why in told[0]
    assert json.loads((tmp_path / "c" / "left-out.jsonl").read_text())["what"] == "bad"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("CMYK", saved(RED.convert("CMYK"), "JPEG")),
        ("16 bits", saved(Image.fromarray(np.eye(8, dtype=np.uint16) * 40_000), "PNG")),
        ("palette", saved(RED.convert("P"), "PNG", transparency=0)),
        ("wrong ending", saved(RED, "JPEG")),
    ],
)
def test_what_is_odd_but_can_be_read_is_kept(kind, data, tmp_path):
    odd = sample(kind, [Picture(data, "odd.png"), "q"], "a", side="train")
    found = corpus(tmp_path / "c", [odd, HELD])
    assert found.meta["left_out"] == 0
    assert found.images is not None
    assert found.images.file(0).read_bytes() == data, "as it came"
    assert found.images.file(0).suffix == (".jpg" if data[:2] == b"\xff\xd8" else ".png")


def test_a_turned_photograph_has_the_size_that_it_has_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    data = saved(spotted("red", 96, 64), "JPEG", exif=turned)
    one = sample("turned", [Picture(data, "it"), "q"], "a", side="train")
    found = corpus(tmp_path / "c", [one, HELD])
    assert found.images is not None
    assert found.images.entries[0][1:3] == (64, 96)


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_a_sample_without_an_answer_is_left_out(answer, tmp_path):
    empty = sample("empty", [shown("red"), "q"], answer, side="train")
    found = corpus(tmp_path / "c", [empty, GOOD, HELD])
    assert found.meta["left_out"] == 1


def test_more_than_ten_are_told_together(tmp_path):
    told: list[str] = []
    bad = [Fault(f"bad {i}", "no reason") for i in range(12)]
    corpus(tmp_path / "c", [*bad, GOOD, HELD], listener=Listener(told.append))
    assert told[-1] == "left out: 12 in all, listed in left-out.jsonl"
    assert len(told) == 11


@pytest.mark.parametrize("path", ["/etc/passwd", "../up.png", "a/../../up.png"])
def test_a_path_that_leads_out_of_the_folder_is_refused(path, tmp_path):
    with pytest.raises(UserError, match="leads out of"):
        picture(path, tmp_path)


def test_half_a_surrogate_pair_beside_what_is_learnt_is_kept_and_in_a_path_is_a_reason(tmp_path):
    odd = sample("\ud800", [shown("red"), "q"], "a", side="train", facts={"from": "\udfff"})
    bad = [
        sample(f"\ud800{i}", [Picture(tmp_path / name, "it"), "q"], "a", side="train")
        for i, name in enumerate(("\ud800.png", "\0.png"))
    ]
    found = corpus(tmp_path / "c", [odd, *bad, HELD])
    (one,) = samples(found, "train")
    assert (one.id, one.facts) == ("\ud800", {"from": "\udfff"})
    lines = (tmp_path / "c" / "left-out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["what"] for line in lines] == ["\ud8000", "\ud8001"]


def test_equal_images_are_kept_once_and_named_by_their_hash(tmp_path):
    two = [sample(str(i), [shown("red"), f"{i}"], "a", side="train") for i in range(2)]
    found = corpus(tmp_path / "c", [*two, HELD])
    assert found.meta["images"]["count"] == 2
    assert [one.images for one in samples(found, "train")] == [[0], [0]]
    found.verify()


def test_samples_of_one_image_stay_on_one_side(tmp_path):
    """Ten questions each about ten images."""
    told: list[str] = []
    found = [
        sample(f"{i}-{j}", [shown(f"{i:03}"), f"q{j}"], "a") for i in range(10) for j in range(10)
    ]
    made = corpus(tmp_path / "c", found, listener=Listener(told.append), val_fraction=0.3)
    seen = {name: {one.images[0] for one in samples(made, name)} for name in ("train", "val")}
    assert seen["train"].isdisjoint(seen["val"])
    assert seen["train"] | seen["val"] == set(range(10))
    assert made.meta["shared"] == 0
    assert told == []


def test_a_validation_that_is_the_training_is_told(tmp_path):
    told: list[str] = []
    same = sample("same", [shown("red"), "q"], "a", side="val")
    corpus(tmp_path / "c", [GOOD, same], listener=Listener(told.append))
    assert told[0].startswith("1 validation samples begin with an image that training has, too")


def test_one_image_alone_cannot_be_split(tmp_path):
    with pytest.raises(UserError, match="fewer than two samples with different images"):
        corpus(tmp_path / "c", [sample(str(i), [shown("red"), "q"], "a") for i in range(3)])
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "c.partial").exists()


def test_what_was_said_can_be_read_back(tmp_path):
    found = corpus(tmp_path / "c", [GOOD, HELD])
    (one,) = samples(found, "train")
    assert one.messages == [Message("user", (Shown(0), "q")), Message("assistant", "a")]
    assert one.question == one.messages[:1]
    assert one.answer == "a"


def test_a_line_of_the_samples_ends_at_a_line_feed_alone(tmp_path):
    said = "a\u2028b\x85c"
    found = corpus(tmp_path / "c", [sample("one", [shown("red"), "q"], said, side="train"), HELD])
    assert [one.answer for one in samples(found, "train")] == [said]


def test_characters_are_a_vocabulary_too(tmp_path):
    found = corpus(tmp_path / "c", [GOOD, HELD], tokenizer="char", chat="chatml")
    assert found.tokenizer.decode(found.train.gather(0, 6)[0]) == "<|im_start|>user\n"
    assert Corpus.open(tmp_path / "c").vocab_size == found.vocab_size


def test_the_same_samples_give_the_same_corpus(tmp_path):
    one, other = (corpus(tmp_path / name, [GOOD, HELD]) for name in ("a", "b"))
    assert one.digest == other.digest
    assert corpus(tmp_path / "c", [GOOD, HELD], mode=128).digest != one.digest


def test_a_corpus_that_is_there_stays(tmp_path):
    corpus(tmp_path / "c", [GOOD, HELD])
    with pytest.raises(UserError, match="is there already: --overwrite replaces it"):
        corpus(tmp_path / "c", [GOOD, HELD])
    corpus(tmp_path / "c", [GOOD, HELD], existing="overwrite")


def test_what_a_killed_preparation_left_is_cleared_away(tmp_path: Path):
    left = tmp_path / "c.partial" / "images" / "ab"
    left.mkdir(parents=True)
    (left / "old.png").write_bytes(b"old")
    found = corpus(tmp_path / "c", [GOOD, HELD])
    assert not (found.path / "images" / "ab" / "old.png").exists()
