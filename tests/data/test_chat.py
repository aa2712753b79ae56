"""Conversations: spelled by a template, learnt in their answers alone, packed whole."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from espalier.data.answers import Answers
from espalier.data.chat import Message, Shown, Speaker, Template, messages, named, widened
from espalier.data.conversations import prepare
from espalier.data.corpus import Corpus
from espalier.data.loader import batch, ordered, pairs, windows
from espalier.data.prepare import prepare as prepare_text
from espalier.data.request import Listener, Request
from espalier.data.tokenizer import choose
from espalier.errors import UserError
from espalier.train.objective import apart

TALK = [Message("user", "hi"), Message("assistant", "yo"), Message("user", "<|im_end|>")]
CHATML = named("chatml")


def speaker(name: str) -> Speaker:
    template = named(name)
    return Speaker(template, widened(choose("byte"), template))


def test_an_answer_is_learnt_with_what_ends_it_and_nothing_else_is():
    found = speaker("chatml").conversation(TALK)
    tokenizer = speaker("chatml").tokenizer
    texts = [tokenizer.decode([i]) for i in found.ids]
    learnt = "".join(t for t, counts in zip(texts, found.learnt, strict=True) if counts)
    assert learnt == "yo<|im_end|>"
    assert "".join(texts) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
        "<|im_start|>user\n<|im_end|><|im_end|>\n<|endoftext|>"
    )


def test_what_people_say_never_becomes_a_special_token():
    """256 bytes; <|im_start|> 256, <|im_end|> 257, <|endoftext|> 258."""
    ids = speaker("chatml").conversation(TALK).ids
    assert (ids.count(256), ids.count(257), ids.count(258)) == (3, 3, 1)
    assert ids[-1] == 258


def test_a_prompt_ends_where_the_answer_begins():
    one = speaker("chatml")
    prompt, whole = one.prompt(TALK[:1]), one.conversation(TALK[:2])
    assert whole.ids[: len(prompt)] == prompt
    assert whole.learnt.index(True) == len(prompt)
    assert one.stop_ids() == [258, 257]
    assert one.stop_texts() == []


def test_the_plain_template_needs_no_special_token_but_the_end():
    one = speaker("plain")
    assert one.tokenizer.vocab_size == 257
    found = one.conversation(TALK[:2])
    assert one.tokenizer.decode(found.ids) == (
        "### User:\nhi\n\n### Assistant:\nyo\n\n###<|endoftext|>"
    )
    assert found.learnt[-1]
    assert one.stop_texts() == ["\n\n###"]


def test_special_tokens_that_are_there_already_are_taken(tmp_path):
    once = widened(choose("byte"), CHATML)
    assert widened(once, CHATML) is once


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"text": "hi"}, "no messages"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "user"}]}, "message 1 has no role and content"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "nobody answers"),
    ],
)
def test_a_line_of_another_form_is_refused(record, why):
    with pytest.raises(UserError, match=f"here: {why}"):
        messages(record, "here")


def write(file: Path, talks: list[list[Message]]) -> Path:
    lines = [json.dumps({"messages": [m._asdict() for m in talk]}) for talk in talks]
    data = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def talks(count: int) -> list[list[Message]]:
    return [
        [Message("user", f"say {i}"), Message("assistant", str(i) * (1 + i % 7))]
        for i in range(count)
    ]


def corpus(tmp_path: Path, count: int = 60, name: str = "talk.jsonl") -> Corpus:
    file = write(tmp_path / name, talks(count))
    request = Request(str(file), tmp_path / "corpus", tokenizer="byte", val_fraction=0.2)
    return prepare(request, CHATML, Listener())


def test_a_corpus_holds_every_conversation_once_and_its_mask(tmp_path):
    found = corpus(tmp_path)
    assert sum(found.meta["documents"].values()) == 60
    wanted = [speaker("chatml").conversation(talk) for talk in talks(60)]
    assert len(found.train) + len(found.val) == sum(len(one.ids) for one in wanted)
    assert sum(found.meta["learnt"].values()) == sum(sum(one.learnt) for one in wanted)
    found.verify()
    again = Corpus.open(found.path)
    assert again.digest == found.digest
    assert again.tokenizer.vocab_size == 259


def test_gzip_gives_the_same_corpus(tmp_path):
    (tmp_path / "other").mkdir()
    packed = corpus(tmp_path / "other", name="talk.jsonl.gz")
    assert packed.digest == corpus(tmp_path).digest


def test_another_mask_is_another_corpus(tmp_path):
    found = corpus(tmp_path)
    file = found.path / "train.mask.bin"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(UserError, match=r"train\.mask\.bin has changed"):
        Corpus.open(found.path).verify()


def test_an_epoch_learns_every_learnt_token_once(tmp_path):
    """No conversation is longer than a window here, so that nothing is cut."""
    found, block = corpus(tmp_path), 96
    order = ordered(found.train, block, seed=5)
    inputs, targets = batch(found.train, order, 0, len(order), block)
    assert int((targets >= 0).sum()) == found.meta["learnt"]["train"]
    spelled = found.tokenizer.decode(targets[targets >= 0].tolist()).replace("<|endoftext|>", "")
    assert sorted(part for part in spelled.split("<|im_end|>") if part) == sorted(
        talk[1].content for talk in talks(60) if in_train(found, talk)
    )
    assert inputs.shape == (len(order), block)


def in_train(found: Corpus, talk: list[Message]) -> bool:
    text = found.tokenizer.decode(found.train.gather([0], len(found.train))[0])
    return f"user\n{talk[0].content}<|im_end|>" in text


def test_windows_begin_with_a_conversation_and_cut_none():
    """Conversations of 4, 3, 6 and 2 tokens in windows of 7 + 1: [4 3] [6 2]."""
    edges = [0, 4, 7, 13]
    bins = answers([1] * 15, edges).bins(7)
    assert bins.begin.tolist() == [0, 7]
    assert bins.end.tolist() == [7, 15]
    assert bins.read.tolist() == [0, 7]


def test_the_last_window_reads_from_further_ahead_and_learns_its_own_alone():
    """Conversations of 6 and 3 tokens, windows of 5 + 1: the second begins at 6 and is read at 3.

    Its targets stand at 4 .. 8; 7 and 8 are its own, and 6 is its first token, never a target.
    """
    found = answers([1] * 9, [0, 6])
    bins = found.bins(5)
    assert (bins.read.tolist(), bins.begin.tolist()) == ([0, 3], [0, 6])
    learnt = found.learnt(bins.read, 5)
    assert learnt.tolist() == [[True] * 5, [False, False, False, True, True]]


def test_a_conversation_longer_than_a_window_is_cut_to_its_beginning():
    bins = answers([1] * 12, [0, 9]).bins(5)
    assert bins.begin.tolist() == [0, 9]
    assert bins.end.tolist() == [6, 12]


def answers(mask: list[int], starts: list[int]) -> Answers:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    np.array(mask, np.uint8).tofile(folder / "mask")
    np.array(starts, "<i8").tofile(folder / "starts")
    return Answers(folder / "mask", folder / "starts")


def test_positions_restart_behind_the_end_of_a_conversation():
    ids = torch.tensor([[5, 9, 6, 7, 9, 9, 8]])
    now = apart(ids, ends=9)
    assert now.positions.tolist() == [[0, 1, 0, 1, 2, 0, 0]]
    assert now.packed
    assert not apart(ids, ends=None).packed


def test_conversations_in_one_window_do_not_see_each_other(tmp_path):
    """What the first says changes nothing in the logits of the second."""
    from espalier.nn.gpt import GPTConfig, make

    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 10}
    model = make(GPTConfig(**shape), seed=1).eval()
    ids = torch.tensor([[1, 2, 3, 9, 4, 5, 6, 7]])
    other = ids.clone()
    other[0, :3] = torch.tensor([7, 8, 1])
    with torch.no_grad():
        a, b = model(ids, apart(ids, 9)), model(other, apart(other, 9))
        alone = model(ids[:, 4:])
    assert not torch.allclose(a[:, :4], b[:, :4])
    torch.testing.assert_close(a[:, 4:], b[:, 4:])
    torch.testing.assert_close(a[:, 4:], alone, atol=1e-6, rtol=1e-5)


def test_evaluation_counts_learnt_tokens_alone(tmp_path):
    from espalier.evaluate.loss import score
    from espalier.nn.gpt import GPTConfig, make

    found = corpus(tmp_path)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 96, "vocab_size": 259}
    model = make(GPTConfig(**shape), seed=1)
    got = score(model, found.val, windows(found.val, 96), 96)
    assert got.tokens == found.meta["learnt"]["val"]
    ids, targets = pairs(found.val, windows(found.val, 96), 96)
    with torch.no_grad():
        logits = model.eval()(ids, apart(ids, found.val.ends)).double()
    want = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1
    )
    assert got.loss == pytest.approx(float(want), rel=1e-5)


def test_nanochats_template_has_a_token_for_who_begins_and_who_ends():
    """Bytes, then <|bos|> 256, user 257 and 258, assistant 259 and 260; <|bos|> ends it, too."""
    found = speaker("nanochat").conversation(TALK[:2])
    assert found.ids == [256, 257, *b"hi", 258, 259, *b"yo", 260, 256]
    assert [i for i, learnt in zip(found.ids, found.learnt, strict=True) if learnt] == [
        *b"yo",
        260,
        256,
    ]
    assert speaker("nanochat").stop_ids() == [256, 260]


def test_what_the_system_says_is_joined_to_the_first_message_where_the_template_says_so():
    one = speaker("nanochat")
    system = Message("system", "be brief")
    assert one.prompt([system, *TALK[:1]]) == [256, 257, *b"be brief\n\nhi", 258, 259]
    shown = Message("user", (Shown(0), "hi"))
    found = one.asked([system, shown])
    assert found.ids == one.prompt([system, *TALK[:1]])
    assert (found.places, found.images) == ([2 + len(b"be brief\n\n")], [0])


def test_an_image_takes_no_token_and_has_its_place_told():
    one = speaker("chatml")
    shown = [Message("user", ("a", Shown(7), "b")), Message("assistant", "c")]
    found = one.conversation(shown)
    assert found.ids == one.conversation([Message("user", "ab"), shown[1]]).ids
    assert found.images == [7]
    assert one.tokenizer.decode(found.ids[: found.places[0]]) == "<|im_start|>user\na"


def test_the_end_of_a_template_is_one_of_its_tokens():
    with pytest.raises(ValueError, match="`end` must be one of `special`"):
        Template(before="", after="x", stop="x", end="<|bos|>")


def test_overwriting_replaces_a_corpus_and_nothing_else(tmp_path):
    file = write(tmp_path / "talk.jsonl", talks(20))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x", "utf-8")
    (tmp_path / "plain").write_text("x", "utf-8")
    for name in ("thesis", "plain"):
        request = Request(str(file), tmp_path / name, tokenizer="byte", existing="overwrite")
        with pytest.raises(UserError, match="is no corpus of espalier's"):
            prepare(request, CHATML, Listener())
    assert (tmp_path / "thesis" / "chapter.txt").is_file()


def test_a_text_does_not_take_the_place_of_conversations_unasked(tmp_path):
    found = corpus(tmp_path)
    (tmp_path / "a.txt").write_text("some text to learn", "utf-8")
    with pytest.raises(UserError, match=r"holds another corpus .*--overwrite"):
        prepare_text(Request(str(tmp_path / "a.txt"), found.path, "byte"))


def test_a_tokenizer_without_the_tokens_of_a_template_is_named():
    with pytest.raises(UserError, match=r"has no <\|im_start\|>, <\|im_end\|>, of the chat"):
        Speaker(named("chatml"), choose("byte"))
