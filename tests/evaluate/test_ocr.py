"""Right, wrong and blank images, collapse, and what a page says of them."""

from pathlib import Path

import pytest
import torch

from espalier.config import decode
from espalier.data.chat import Speaker, Template
from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.data.settings import ImagesConfig
from espalier.engine.chat import Chat
from espalier.errors import UserError
from espalier.evaluate import ocr
from espalier.evaluate.loss import score
from espalier.evaluate.sheet import Pages, Sheet
from espalier.evaluate.tables import ocr as told
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.nn.gpt import GPTConfig, make
from espalier.report import transcripts
from tests.data import pictures

pytest.importorskip("rapidfuzz")
ALONE = ImagesConfig(rows="alone")


@pytest.fixture
def pages(tmp_path: Path) -> Corpus:
    said = {"red": "a cab", "blue": "bad", "grey": "cab ab"}
    found = [
        pictures.sample(colour, (pictures.shown(colour), "\nread"), answer, side=side)
        for side in ("train", "val")
        for colour, answer in said.items()
    ]
    return pictures.corpus(tmp_path / "pages", found)


def reader(corpus: Corpus) -> Chat:
    """A model far from its start, where every image looks alike."""
    tree = {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 2,
        "block_size": 64,
        "vocab_size": corpus.vocab_size,
        "front": {"name": "deep_encoder", **DeepEncoderConfig.small},
    }
    model = make(decode(GPTConfig, tree), seed=3).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    speaker = Speaker(decode(Template, corpus.meta["chat"], "chat"), corpus.tokenizer)
    return Chat(model, speaker, 64)


def test_the_loss_of_answers_is_the_one_that_training_reports(pages: Corpus) -> None:
    session = reader(pages)
    found = list(ocr.read(session, ocr.questions(pages, ALONE, "val", None), ocr.How(rows=2)))
    whole = score(session.model, pages.val, windows(pages.val, 64), 64)
    learnt = [len(session.speaker.plain.encode(page.question.truth)) for page in found]
    ends = (whole.tokens - sum(learnt)) // len(found)  # what closes an answer is learnt too
    nats = sum(page.loss * (n + ends) for page, n in zip(found, learnt, strict=True))
    assert nats == pytest.approx(whole.nll, rel=1e-5)


def test_another_image_and_a_blank_one_change_the_loss_of_a_model_that_looks(
    pages: Corpus,
) -> None:
    found = list(ocr.read(reader(pages), ocr.questions(pages, ALONE, "val", None), ocr.How(3)))
    for page in found:
        assert page.wrong is not None
        assert len({page.loss, page.wrong, page.blank}) == 3


def test_images_of_another_shape_are_no_fair_exchange(tmp_path: Path) -> None:
    found = [
        pictures.sample("one", (pictures.shown("red"), "\nread"), "a", side="val"),
        pictures.sample("two", (pictures.shown("red"), "\nread"), "b", side="val"),
        pictures.sample("three", (pictures.shown("blue"), "\nread"), "b", side="train"),
    ]
    corpus = pictures.corpus(tmp_path / "pages", found)
    pages = list(ocr.read(reader(corpus), ocr.questions(corpus, ALONE, "val", None), ocr.How(1)))
    assert [page.wrong for page in pages] == [None, None]  # the same image twice


def test_features_that_differ_have_a_cosine_below_one_and_those_of_a_dead_front_have_one(
    pages: Corpus,
) -> None:
    session, asked = reader(pages), ocr.questions(pages, ALONE, "val", None)
    front = session.model.trunk.front
    assert front is not None
    alive = ocr.cosine(front, asked)
    assert alive is not None
    assert alive < 1
    with torch.no_grad():
        front.get_parameter("sam_model.patch_embed.proj.weight").zero_()
    assert ocr.cosine(front, asked) == pytest.approx(1.0)
    assert ocr.cosine(front, asked[:1]) is None


def test_several_questions_about_one_image_are_no_collapse(tmp_path: Path) -> None:
    found = [
        pictures.sample(text, (pictures.shown("red"), f"\n{text}"), "a", side=side)
        for side, text in (("val", "one"), ("val", "two"), ("train", "three"))
    ]
    corpus = pictures.corpus(tmp_path / "pages", found)
    front = reader(corpus).model.trunk.front
    assert front is not None
    assert ocr.cosine(front, ocr.questions(corpus, ALONE, "val", None)) is None


def test_pages_are_told_in_lines_and_drawn_with_their_images(pages: Corpus) -> None:
    import contextlib

    sheet = Sheet(None, "float32", 2, 0, lambda *_: contextlib.nullcontext(lambda done: None))
    record = sheet.ocr(reader(pages), pages, Pages(ALONE))
    lines = "\n".join(told("pages", {"model": record}))
    assert "pages: 3 pages" in lines
    assert all(one["id"] in lines for one in record["each"])
    html = transcripts.page("model reads pages", record)
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html


def test_the_difference_of_two_texts_is_marked_on_both_sides() -> None:
    assert transcripts.marked("a<b", "a>bc") == (
        "a<del>&lt;</del>b",
        "a<ins>&gt;</ins>b<ins>c</ins>",
    )


def test_a_corpus_of_text_is_refused(tmp_path: Path) -> None:
    from tests.data.pictures import corpus, sample, shown

    found = [
        sample("a", ("text",), "b", side="val"),
        sample("c", (shown("red"), "x"), "b", side="train"),
    ]
    with pytest.raises(UserError, match="no sample of its val split has an image"):
        ocr.questions(corpus(tmp_path / "pages", found), ALONE, "val", None)
