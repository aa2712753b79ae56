"""Where samples with images come from: drawn ones, one's own JSON, and published tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from espalier.data.images import read
from espalier.data.samples import Fault, Picture, Sample, Turn
from espalier.data.sources.page.local import is_local
from espalier.data.sources.page.synthetic_ocr import SyntheticOcrConfig, vocabulary
from espalier.data.sources.pictured import configured, described, is_pictured, marked
from espalier.errors import UserError
from tests.data.pictures import png, spotted


def drawn(**settings: Any) -> list[Sample]:
    config = SyntheticOcrConfig(**settings)
    return [one for one in config.read(None, 0.25) if isinstance(one, Sample)]


def said(one: Sample) -> tuple[str, str]:
    """Question and answer, without the image and its line's end."""
    asked, answered = one.turns
    assert isinstance(asked.parts[1], str)
    assert isinstance(answered.parts[0], str)
    return asked.parts[1].removeprefix("\n"), answered.parts[0]


def words(text: str) -> set[str]:
    letters = "".join(c if c.isalpha() else " " for c in text.lower())
    return set(letters.split()) - {"total"}


def test_drawn_samples_are_the_same_each_time_and_others_with_another_seed():
    one, again, other = drawn(samples=6), drawn(samples=6), drawn(samples=6, seed=1)
    assert one == again
    assert [s.id for s in one] == [s.id for s in other]
    assert all(a.pictures != b.pictures for a, b in zip(one, other, strict=True))


def test_a_quarter_is_held_out_and_none_of_its_words_is_ever_trained_on():
    found = drawn(samples=40, words=400, kinds="lines,page", questions=0)
    sides = {side: [s for s in found if s.side == side] for side in ("train", "val")}
    assert [len(sides[side]) for side in ("train", "val")] == [30, 10]
    known, unseen = (set().union(*(words(said(s)[1]) for s in sides[k])) for k in sides)
    assert known.isdisjoint(unseen)
    assert unseen <= set(vocabulary(0, 400)[-100:])


@pytest.mark.parametrize("kind", ["receipt", "chart", "page", "lines"])
def test_each_box_lies_in_the_image_and_all_that_is_written_is_transcribed(kind):
    (one, *_) = drawn(samples=4, kinds=(kind,), side=256, lines=5)
    (shown,) = one.pictures
    assert isinstance(shown.source, bytes)
    width, height = read(shown.source).size
    text = said(one)[1]
    for written, left, top, right, bottom in one.facts["boxes"]:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert written in text
    in_boxes = "".join(written for written, *_ in one.facts["boxes"])
    assert sorted(in_boxes.replace(" ", "")) == sorted(text.replace("\n", "").replace(" ", ""))


def test_questions_have_their_answers_in_the_text():
    found = drawn(samples=24, questions=4, kinds="receipt,chart,page,lines")
    texts = {s.id: said(s)[1] for s in found if "question" not in s.facts}
    asked = [s for s in found if "question" in s.facts]
    assert len(asked) > 60
    for one in asked:
        assert said(one)[1] in texts[one.id.rpartition("-")[0]]


def test_the_total_is_the_sum():
    text = said(drawn(samples=2, kinds="receipt", questions=0)[0])[1].splitlines()
    prices = [round(float(line.split()[-1]) * 100) for line in text[1:]]
    assert sum(prices[:-1]) == prices[-1]


def test_all_letters_of_a_drawn_line_are_dark_on_light():
    (one, *_) = drawn(samples=2, kinds="lines", side=128, lines=4, questions=0)
    assert isinstance(one.pictures[0].source, bytes)
    image = read(one.pictures[0].source).convert("L")
    for _, *box in one.facts["boxes"]:
        low, high = image.crop(tuple(map(round, box))).getextrema()
        assert low < 100 < 200 < high


@pytest.mark.parametrize(("side", "mode"), [(128, 128), (500, 512), (1280, 1280), (2000, "gundam")])
def test_drawn_images_are_read_at_their_own_size(side, mode):
    assert SyntheticOcrConfig(side=side).mode() == mode


def test_settings_are_words_of_the_command_line():
    pages = configured("synthetic-ocr", ["side=128", "kinds=[lines]", "seed=3"], None, 12, 0.1)
    assert isinstance(pages.config, SyntheticOcrConfig)
    assert (pages.config.side, pages.config.kinds, pages.config.samples) == (128, ("lines",), 12)
    with pytest.raises(UserError, match="samples"):
        configured("synthetic-ocr", ["samples=null"], None, None, 0.1)
    with pytest.raises(UserError, match="Did you mean 'lines'"):
        configured("synthetic-ocr", ["lnes=2"], None, None, 0.1)
    with pytest.raises(UserError, match="takes settings, key=value"):
        configured("synthetic-ocr", ["lines"], None, None, 0.1)


A, B = Picture(b"a", "a"), Picture(b"b", "b")


@pytest.mark.parametrize(
    ("prompt", "pictures", "parts"),
    [
        ("<image>\nRead.", [A], (A, "\nRead.")),
        ("Read.", [A], (A, "\nRead.")),
        ("First <image> then <image>.", [A, B], ("First ", A, " then ", B, ".")),
        ("Both: <image>", [A, B], (A, "Both: ", B)),
        ("<image>\nWhat is <image>?", [A], (A, "\nWhat is <image>?")),
        ("What is <image>?", [], ("What is <image>?",)),
    ],
)
def test_a_mark_says_where_an_image_stands_and_no_more_marks_than_images_do(
    prompt, pictures, parts
):
    assert marked(prompt, pictures) == Turn("user", parts)


def test_a_conversation_gets_each_image_where_its_mark_is(tmp_path):
    record = {
        "images": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "<image>\nOne?"},
            {"from": "gpt", "value": "1"},
            {"from": "human", "value": "And <image>?"},
            {"from": "gpt", "value": "2"},
        ],
    }
    first, _, second, _ = described(record, tmp_path)
    assert [p.name for p in first.parts if isinstance(p, Picture)] == ["a.png"]
    assert [p.name for p in second.parts if isinstance(p, Picture)] == ["b.png"]


def own(folder: Path, **files: Any) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "r.png").write_bytes(png("red"))
    for name, records in files.items():
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


RECORD = {
    "id": "receipt_000",
    "image": "images/r.png",
    "source": "SROIE",
    "type": "receipt_ocr",
    "prompt": "<image>\nFree OCR.",
    "answer": "TOTAL 3",
}


def test_a_folder_of_nano_deepseek_ocr_is_read_as_it_is(tmp_path):
    place = own(tmp_path / "data", train=[RECORD], val=[RECORD | {"id": "v"}])
    assert is_local(str(place))
    one, held = configured("local", [], place, None, 0.1).read()
    assert isinstance(one, Sample)
    assert isinstance(held, Sample)
    assert (one.id, one.side, held.id, held.side) == ("receipt_000", "train", "v", "val")
    assert said(one) == ("Free OCR.", "TOTAL 3")
    assert one.pictures[0].source == place / "images" / "r.png"
    assert one.facts == {"source": "SROIE", "type": "receipt_ocr"}


def test_without_a_validation_file_the_hash_decides(tmp_path):
    place = own(tmp_path / "data", overfit_dataset=[RECORD])
    (one,) = configured("local", [], place, None, 0.1).read()
    assert isinstance(one, Sample)
    assert one.side is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"image": "/etc/passwd", "prompt": "q", "answer": "a"}, "leads out of"),
        ({"image": "../r.png", "prompt": "q", "answer": "a"}, "leads out of"),
        ({"image": "https://a.b/c.png", "prompt": "q", "answer": "a"}, "is no file here"),
        ({"image": "images/r.png", "prompt": "q"}, "no prompt and answer, both texts"),
        ({"image": 7, "prompt": "q", "answer": "a"}, "names no image"),
        ({"images": "r.png", "prompt": "q", "answer": "a"}, "are no list"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "neither text nor"),
        ("text", "no record"),
    ],
)
def test_a_bad_record_is_a_fault_with_its_reason(record, why, tmp_path):
    place = own(tmp_path / "data", train=[record, RECORD])
    fault, good = configured("local", [], place, None, 0.1).read()
    assert isinstance(fault, Fault)
    assert why in fault.why
    assert isinstance(good, Sample)


@pytest.mark.parametrize(
    ("text", "why"), [("[1,]", "is no JSON"), ('{"image": 1}', "no list of samples")]
)
def test_a_file_that_is_no_list_is_refused(text, why, tmp_path):
    (tmp_path / "train.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=why):
        list(configured("local", [], tmp_path, None, 0.1).read())


def test_lines_hold_messages_with_parts(tmp_path):
    own(tmp_path / "data")
    content = [{"type": "text", "text": "Read "}, {"type": "image", "image": "images/r.png"}]
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": "3\u2028"}]
    file = tmp_path / "data" / "chats.jsonl"
    line = json.dumps({"messages": talk}, ensure_ascii=False)
    file.write_text(line + "\n{\n", encoding="utf-8")
    assert is_local(str(file))
    one, fault = configured("local", [], file, None, 0.1).read()
    assert isinstance(one, Sample)
    assert one.turns[0].parts[0] == "Read "
    assert isinstance(fault, Fault)
    assert fault.why.startswith("no JSON")


def test_fox_is_read_from_its_folder(tmp_path):
    (tmp_path / "en_pdf_png").mkdir()
    talk = [{"from": "human", "value": "<image>\nOCR"}, {"from": "gpt", "value": "The text"}]
    records = [{"image": "en_1.png", "conversations": talk}, {"image": "en_2.png"}]
    (tmp_path / "en_page_ocr.json").write_text(json.dumps(records), encoding="utf-8")
    one, fault = configured("fox", ["prompt=Free OCR."], tmp_path, None, 0.1).read()
    assert isinstance(one, Sample)
    assert said(one) == ("Free OCR.", "The text")
    assert one.pictures[0].source == tmp_path / "en_pdf_png" / "en_1.png"
    assert isinstance(fault, Fault)


def test_omnidocbench_is_text_in_reading_order(tmp_path):
    def block(kind: str, text: str, order: int | None, **more: Any) -> dict[str, Any]:
        poly = [1, 2, 9, 2, 9, 5, 1, 5]
        return {"category_type": kind, "text": text, "order": order, "poly": poly} | more

    blocks = [
        block("text_block", "second", 2),
        block("footer", "last", None),
        block("title", "first", 1),
        block("table", "a table", 3),
        block("text_block", "hidden", 4, ignore=True),
    ]
    page = {"image_path": "p.png", "page_attribute": {"language": "english"}}
    records = [{"layout_dets": blocks, "page_info": page}]
    (tmp_path / "OmniDocBench.json").write_text(json.dumps(records), encoding="utf-8")
    (one,) = configured("omnidocbench", [], tmp_path, None, 0.1).read()
    assert isinstance(one, Sample)
    assert said(one)[1] == "first\n\nsecond\n\nlast"
    assert one.facts["boxes"][0] == ["first", 1, 2, 9, 5]
    assert one.facts["page"] == {"language": "english"}


def table(file: Path, columns: dict[str, list[Any]], **features: Any) -> Path:
    """A parquet file as `datasets` writes it."""
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict(columns)
    for name, kind in features.items():
        found = found.cast_column(name, datasets.List(kind) if name == "images" else kind)
    found.to_parquet(str(file))
    return file


def test_fox_and_omnidocbench_are_read_from_tables_with_their_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    talk = [{"from": "human", "value": "OCR"}, {"from": "gpt", "value": "The text"}]
    columns: dict[str, list[Any]] = {"image": [spotted("red")], "conversations": [talk]}
    file = table(tmp_path / "fox.parquet", columns, image=datasets.Image())
    (one,) = configured("fox", [], file, None, 0.1).read()
    assert isinstance(one, Sample)
    assert (one.id, said(one)[1]) == ("fox-0001", "The text")
    assert isinstance(one.pictures[0].source, bytes)

    block = {"category_type": "title", "text": "A title", "order": 1, "poly": [0, 0, 1, 1]}
    page = {"image_path": "p.png", "page_attribute": {"language": "english"}}
    columns = {"image": [spotted("red")], "layout_dets": [[block]], "page_info": [page]}
    file = table(tmp_path / "omni.parquet", columns, image=datasets.Image())
    (one,) = configured("omnidocbench", [], file, None, 0.1).read()
    assert isinstance(one, Sample)
    assert (one.id, said(one)[1]) == ("p.png", "A title")
    assert isinstance(one.pictures[0].source, bytes)


def test_finevision_has_its_turns_and_its_files_as_they_came(tmp_path):
    datasets = pytest.importorskip("datasets")
    talk = [{"user": "What?", "assistant": "This."}, {"user": "And?", "assistant": "That."}]
    columns = {"images": [[spotted("red")], []], "texts": [talk, talk[:1]], "source": ["s", "s"]}
    file = table(tmp_path / "t.parquet", columns, images=datasets.Image())
    one, text = configured("finevision:chartqa", [], file, None, 0.1).read()
    assert isinstance(one, Sample)
    assert isinstance(text, Sample)
    assert one.id == "chartqa-000000"
    assert [t.parts[-1] for t in one.turns] == ["\nWhat?", "This.", "And?", "That."]
    assert isinstance(one.pictures[0].source, bytes)
    assert read(one.pictures[0].source).tobytes() == spotted("red").tobytes()
    assert text.turns[0].parts == ("What?",)
    words_ = ["turns=first", "prompt=Free OCR.", "start=0"]
    first, _ = configured("finevision", words_, file, None, 0.1).read()
    assert isinstance(first, Sample)
    assert said(first) == ("Free OCR.", "This.")
    assert len(list(configured("finevision", [], file, 1, 0.1).read())) == 1


def test_finevision_with_other_texts_is_a_fault(tmp_path):
    file = table(tmp_path / "t.parquet", {"texts": [[{"question": "What?"}]]})
    (fault,) = configured("finevision", [], file, None, 0.1).read()
    assert isinstance(fault, Fault)
    assert fault.why == "its texts are no turns of user and assistant"


def test_smoltalk_is_conversations_without_images(tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    file = table(tmp_path / "t.parquet", {"messages": [talk], "source": ["x"]})
    (one,) = configured("smoltalk", [], file, None, 0.1).read()
    assert isinstance(one, Sample)
    assert one.pictures == []
    assert [t.parts for t in one.turns] == [("hi",), ("yo",)]


def test_olmocr_asks_for_tables_and_says_where_a_page_is_missing(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.png").write_bytes(png("red"))
    columns = {
        "id": ["a", "b", "c"],
        "primary_language": ["en", "en", "fr"],
        "is_rotation_valid": [True, True, True],
        "is_table": [True, False, False],
        "is_diagram": [False, False, False],
        "natural_text": ["<table>", "b", "c"],
        "url": ["u", "u", "u"],
        "page_number": [1, 2, 3],
    }
    file = table(tmp_path / "t.parquet", columns)
    one, fault = configured("olmocr", [], file, None, 0.1).read()
    assert isinstance(one, Sample)
    assert said(one) == ("Convert this table to HTML.", "<table>")
    assert isinstance(fault, Fault)
    assert fault.why.startswith("its page is a PDF: render it to ")


def test_a_table_that_cannot_be_read_is_told(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "none").mkdir()
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"cannot read .*t\.parquet"):
        list(configured("smoltalk", [], tmp_path / "t.parquet", None, 0.1).read())
    with pytest.raises(UserError, match="holds no table"):
        list(configured("smoltalk", [], tmp_path / "none", None, 0.1).read())


def test_a_source_of_ones_own_is_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from espalier.data.sources.pictured import PageConfig, answered\n"
        "from espalier.data.samples import Sample\n"
        "class MineConfig(PageConfig):\n"
        "    def read(self, place, val_fraction):\n"
        "        yield Sample('one', answered('q', [], 'a'))\n"
    )
    file = str(tmp_path / "mine.py")
    assert is_pictured(file)
    (one,) = configured(file, [], None, None, 0.1).read()
    assert isinstance(one, Sample)
    assert one.id == "one"
