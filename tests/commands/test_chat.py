"""From lines of conversations to an answer: prepare, train, chat."""

import io
import json
import sys
from pathlib import Path

import pytest

from espalier import cli
from tests.data.test_chat import talks, write

SHAPE = [
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=32",
    "model.block_size=96",
    "train.max_iters=2",
    "train.warmup_iters=0",
    "train.gradient_accumulation_steps=1",
    "data.batch_size=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two updates on tiny conversations: enough to have said something."""
    folder = tmp_path_factory.mktemp("chat")
    file, corpus = write(folder / "talk.jsonl", talks(40)), folder / "corpus"
    words = ["prepare", str(file), "--chat", "chatml", "--tokenizer", "byte", "--out", str(corpus)]
    assert cli.main([*words, "--val-fraction", "0.2"]) == 0
    words = ["train", "gpt2", f"data.corpus={corpus}", "model.vocab_size=null", *SHAPE]
    assert cli.main([*words, "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return folder / "run"


def said(capsys, *words: str) -> dict:
    capsys.readouterr()
    assert cli.main(["chat", *words, "--max-new-tokens", "6", "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_prompt_is_answered_and_the_same_seed_answers_the_same(run, capsys):
    words = (str(run), "--prompt", "say 3", "--prompt", "and?", "--system", "be brief")
    first = said(capsys, *words)
    assert [m["role"] for m in first["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert said(capsys, *words) == first


def test_an_answer_ends_before_the_token_that_ends_it(run):
    import espalier as esp
    from espalier.commands import chat
    from espalier.data.chat import Message
    from espalier.engine.generate import Options

    loaded = esp.load(run, device="cpu")
    session = chat.opened(loaded, chat.template_of(loaded, None))
    end = session.speaker.special["<|im_end|>"]
    loaded.model.trunk.norm.weight.data.zero_()
    loaded.model.trunk.norm.bias.data.copy_(loaded.model.trunk.embed.weight[end] * 1e3)
    pieces = list(session.answer([Message("user", "hi")], Options(5)))
    assert "".join(piece.text for piece in pieces) == ""
    assert pieces[-1].finish == "stop"
    assert pieces[-1].ids == [end]


def test_the_oldest_messages_make_room(run):
    import espalier as esp
    from espalier.commands import chat
    from espalier.data.chat import Message
    from espalier.errors import UserError

    loaded = esp.load(run, device="cpu")
    session = chat.opened(loaded, chat.template_of(loaded, None))
    long = [Message("user", "x" * 30), Message("assistant", "y" * 30), Message("user", "z")]
    assert session._fitting(long, 8, ()).ids == session.speaker.prompt(long[2:])
    with pytest.raises(UserError, match="this message has"):
        session._fitting([Message("user", "x" * 200)], 8, ())


def test_a_conversation_is_led_line_by_line(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("say 1\n\nclear\nsay 2\nquit\nnever read\n"))
    found = said(capsys, str(run))
    assert [m["content"] for m in found["messages"] if m["role"] == "user"] == ["say 2"]


def test_a_byte_of_the_input_that_is_no_text_does_not_end_the_conversation(
    run, capsys, monkeypatch
):
    typed = io.TextIOWrapper(io.BytesIO(b"sa\xffy\nquit\n"), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdin", typed)
    assert said(capsys, str(run))["messages"][0]["content"] == "sa\ufffdy"


def test_a_template_without_its_tokens_is_refused(run, capsys, tmp_path):
    from tests.train.tiny import corpus

    text = corpus(tmp_path / "corpus")
    words = ["train", "gpt2", f"data.corpus={text}", "model.vocab_size=null", *SHAPE]
    words += ["model.block_size=8", "train.max_iters=1", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    code = cli.main(["chat", str(tmp_path / "run"), "--template", "chatml", "--prompt", "abc"])
    assert code == 2
    assert "has no <|im_start|>, <|im_end|>: take --template plain" in capsys.readouterr().err


def test_a_model_that_reads_no_images_says_so(run, capsys):
    assert cli.main(["chat", str(run), "--prompt", "/image x.png", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "error: this model reads no images: it has no model.front\n"
