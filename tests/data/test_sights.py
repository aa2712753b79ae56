"""Samples with images as rows: features among tokens, packing, targets, order, mixing."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from espalier.data.corpus import Corpus
from espalier.data.loader import ordered, pairs, seen, windows
from espalier.data.reading import Reading
from espalier.data.settings import DataConfig, ImagesConfig, Ingredient
from espalier.data.sights import Seen, text
from espalier.errors import UserError
from espalier.train.objective import apart
from espalier.train.settings import TrainConfig
from espalier.train.stages import batches
from tests.data.pictures import corpus, sample, shown

# 256 bytes, then what nanochat's template adds, then the image
BOS, USER, USER_END, ANSWER, ANSWER_END, IMAGE = range(256, 262)
FEATURES = 3  # of a square of 64 pixels: one, a newline, a separator


def three(out: Path, **wishes: object) -> Corpus:
    """One image, none, two; and one for validation."""
    return corpus(
        out,
        [
            sample("one", [shown("red"), "a"], "b", side="train"),
            sample("none", ["c"], "d", side="train"),
            sample("two", [shown("blue"), "e", shown("red")], "f", side="train"),
            sample("held", [shown("green"), "g"], "h", side="val"),
        ],
        **wishes,
    )


def ids(row: torch.Tensor) -> list[int]:
    return [int(i) for i in row]


def test_an_image_stands_where_its_message_has_it_and_only_the_answer_is_learnt(tmp_path):
    found = three(tmp_path / "c")
    found.seeing(ImagesConfig(rows="alone"))
    inputs, targets, positions, slots, images = seen(found.train, np.array([0]), 32)
    a, b = ord("a"), ord("b")
    assert ids(inputs[0]) == [BOS, USER, IMAGE, IMAGE, IMAGE, a, USER_END, ANSWER, b, ANSWER_END]
    assert ids(slots[0]) == [-1, -1, 0, 1, 2, -1, -1, -1, -1, -1]
    assert ids(targets[0]) == [-1, -1, -1, -1, -1, -1, -1, b, ANSWER_END, BOS]
    assert ids(positions[0]) == list(range(10))
    assert [len(row) for row in images] == [1]
    assert images[0][0].whole.shape == (3, 64, 64)


def test_the_originals_targets_are_all_tokens_but_those_behind_a_feature(tmp_path):
    """The place before the image learns to emit it; the first token behind it is never learnt."""
    found = three(tmp_path / "c")
    found.seeing(ImagesConfig(rows="alone", targets="published"))
    inputs, targets, _, _, _ = seen(found.train, np.array([0]), 32)
    a, b = ord("a"), ord("b")
    assert ids(inputs[0]) == [BOS, USER, IMAGE, IMAGE, IMAGE, a, USER_END, ANSWER, b]
    assert ids(targets[0]) == [USER, IMAGE, -1, -1, -1, USER_END, ANSWER, b, ANSWER_END]


def test_packed_samples_are_documents_of_their_own_and_slots_count_through_the_row(tmp_path):
    """11 + 8 + 14 tokens, the last of which is only a target."""
    found = three(tmp_path / "c")
    rows = seen(found.train, windows(found.train, 32), 32)
    assert rows.inputs.shape == (1, 32)
    assert ids(rows.positions[0]) == [*range(11), *range(8), *range(13)]
    assert [s for s in ids(rows.slots[0]) if s >= 0] == list(range(3 * FEATURES))
    assert [len(row) for row in rows.images] == [3]
    ends = [ord("b"), ANSWER_END, BOS, ord("d"), ANSWER_END, BOS, ord("f"), ANSWER_END, BOS]
    assert [t for t in ids(rows.targets[0]) if t >= 0] == ends


def test_a_window_takes_whole_samples_and_pads_on_the_right(tmp_path):
    """19 tokens of two samples in a window of 21; the third, of 14, begins the next."""
    found = three(tmp_path / "c")
    rows = seen(found.train, windows(found.train, 20), 20)
    assert rows.inputs.shape == (2, 20)
    assert ids(rows.positions[0]) == [*range(11), *range(7), -1, -1]
    assert ids(rows.positions[1])[12:] == [12, -1, -1, -1, -1, -1, -1, -1]
    assert ids(rows.targets[0])[18:] == [-1, -1]


def test_at_most_so_many_images_are_in_a_packed_row(tmp_path):
    found = three(tmp_path / "c")
    found.seeing(ImagesConfig(most=1))
    rows = seen(found.train, windows(found.train, 60), 60)
    assert [len(row) for row in rows.images] == [1, 2], "a sample with more has a row to itself"


def test_a_sample_too_long_loses_the_end_of_its_answer_but_no_image(tmp_path):
    """`long` is BOS USER 3 a USER_END ANSWER and then the answer: 8 tokens before it."""
    long = sample("long", [shown("red"), "a"], "x" * 40, side="train")
    late = sample("late", ["y" * 40, shown("blue")], "z", side="train")
    held = sample("held", ["a"], "b", side="val")
    found = corpus(tmp_path / "c", [long, late, held])
    rows = seen(found.train, windows(found.train, 16), 16)
    assert len(rows.inputs) == 1
    assert [t for t in ids(rows.targets[0]) if t >= 0] == [ord("x")] * 9
    assert found.train.sights is not None
    assert found.train.sights.told(16).endswith(
        "samples longer than block_size=16: 1 lose their end, 1 are left out, whose images or "
        "answers lie behind it"
    )


def test_where_nothing_fits_the_least_length_is_told(tmp_path):
    found = three(tmp_path / "c", mode=512)
    with pytest.raises(UserError, match="no sample fits block_size=4: the shortest takes 8 tokens"):
        windows(found.train, 4)


def test_the_mode_decides_how_many_features_stand_there(tmp_path):
    found = three(tmp_path / "c")
    found.seeing(ImagesConfig(mode="tiny", rows="alone"))
    rows = seen(found.train, np.array([0, 1]), 400)
    assert [(row >= 0).sum() for row in rows.slots] == [73, 0]
    assert rows.images[0][0].whole.shape == (3, 512, 512)
    assert rows.inputs.shape == (2, 80), "as wide as the longest needs"


def test_tiles_come_with_an_image_where_it_is_large(tmp_path):
    """700 x 300 in two columns and a row: 273 + 10 (20 + 1) features."""
    wide = sample("wide", [shown("red", 700, 300)], "a", side="train")
    held = sample("held", [shown("blue")], "a", side="val")
    found = corpus(tmp_path / "c", [wide, held], mode="gundam")
    rows = seen(found.train, np.array([0]), 600)
    assert int((rows.slots >= 0).sum()) == 483
    assert rows.images[0][0].tiles is not None
    assert rows.images[0][0].tiles.shape == (1, 2, 3, 640, 640)


def test_what_a_text_says_is_never_an_image(tmp_path):
    said = sample("said", ["<|image|><image>"], "<|image|>", side="train")
    held = sample("held", [shown("red")], "a", side="val")
    found = corpus(tmp_path / "c", [said, held])
    rows = seen(found.train, windows(found.train, 64), 64)
    assert (rows.slots == -1).all()
    assert IMAGE not in rows.inputs[rows.positions >= 0]


def test_positions_are_those_of_the_objective_where_a_token_ends_documents(tmp_path):
    found = three(tmp_path / "c", chat="chatml")
    rows = seen(found.train, windows(found.train, 150), 150)
    told = apart(rows.inputs, found.train.ends).positions
    real = rows.positions >= 0
    assert torch.equal(rows.positions[real], told[real])


def test_each_epoch_has_every_sample_once_and_any_place_can_be_begun_at(tmp_path):
    found = [
        sample(f"s{i}", [shown(f"{i:03}"), "q"], f"{i:03}", side="val" if i == 7 else "train")
        for i in range(8)
    ]
    corpus(tmp_path / "c", found)
    config = DataConfig(
        corpus=str(tmp_path / "c"), batch_size=2, images=ImagesConfig(rows="alone", mode=64)
    )
    train = TrainConfig(gradient_accumulation_steps=1)
    whole = list(itertools.islice(batches(Reading(config, 5, 40), train, 0, 0), 7))
    answers = [bytes(i for i in ids(row) if 0 <= i < 256) for b in whole for row in b.targets]
    assert sorted(answers[:7]) == [f"{i:03}".encode() for i in range(7)] == sorted(answers[7:])
    assert answers[:7] != answers[7:]
    again = list(itertools.islice(batches(Reading(config, 5, 40), train, 4, 8), 3))
    for one, other in zip(whole[4:], again, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        mine, theirs = ([v.whole for row in b.images for v in row] for b in (one, other))
        assert all(map(torch.equal, mine, theirs))


def test_a_mixture_has_the_rows_of_each_of_its_corpora(tmp_path):
    three(tmp_path / "images")
    text_only = [sample(str(i), [f"{i}"], "t", side="train") for i in range(4)]
    held = sample("held", ["a"], "b", side="val")
    corpus(tmp_path / "text", [*text_only, held], tokenizer=str(tmp_path / "images"))
    parts = [Ingredient(corpus=str(tmp_path / name)) for name in ("images", "text")]
    reading = Reading(DataConfig(mixture=tuple(parts), mixing="even"), 1, 33)
    reading.plan(lambda steps: steps)
    rows, source = reading.seen(0, 8)
    assert source is not None
    assert sorted(source.tolist()) == [0] * 4 + [1] * 4
    for place, (home, images) in enumerate(zip(source.tolist(), rows.images, strict=True)):
        assert len(images) == (0 if home else 3)
        assert ((rows.slots[place] >= 0).sum() == 9) == (home == 0)


def test_another_end_of_conversations_is_refused_in_a_mixture(tmp_path):
    three(tmp_path / "one")
    three(tmp_path / "two", tokenizer=str(tmp_path / "one"), chat="chatml")
    parts = tuple(Ingredient(corpus=str(tmp_path / name)) for name in ("one", "two"))
    with pytest.raises(UserError, match="another tokenizer"):
        Reading(DataConfig(mixture=parts), 1, 33)


def test_text_has_the_same_form_without_images() -> None:
    inputs = torch.tensor([[5, 9, 6, 9, 7]])
    found = text(inputs, inputs, 9)
    assert isinstance(found, Seen)
    assert ids(found.positions[0]) == [0, 1, 0, 1, 0]
    assert found.images == ((),)


def test_readers_of_text_alone_say_that_there_are_images(tmp_path):
    found = three(tmp_path / "c")
    with pytest.raises(UserError, match="goes with images, and this reads text alone"):
        pairs(found.train, windows(found.train, 33), 33)


def test_an_image_that_is_gone_or_has_become_another_is_told_in_one_line(tmp_path):
    found = three(tmp_path / "c")
    assert found.images is not None
    file = found.images.file(0)
    kept = file.read_bytes()
    file.write_bytes(kept[: len(kept) // 2])
    rows = seen(found.train, windows(found.train, 33), 33)
    with pytest.raises(UserError, match=r"\.png is broken"):
        list(rows.images[0])
    with pytest.raises(UserError, match=r"\.png has changed since it was prepared"):
        found.verify()
    file.unlink()
    with pytest.raises(UserError, match=rf"{file} is missing: prepare the corpus again"):
        Corpus.open(tmp_path / "c")


def test_the_order_is_of_windows_by_their_numbers(tmp_path):
    found = three(tmp_path / "c")
    found.seeing(ImagesConfig(rows="alone"))
    assert windows(found.train, 33).tolist() == [0, 1, 2]
    assert sorted(ordered(found.train, 33, 3).run(0, 3).tolist()) == [0, 1, 2]
