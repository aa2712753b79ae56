"""Every tokenizer: what it gives back, what it refuses, and known ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.data.tokenizer import END_OF_TEXT, Tokenizer, choose, load, train
from espalier.data.tokenizer import bpe as bpe_module
from espalier.data.tokenizer.special import SpecialTokenizer
from espalier.data.tokenizer.tiktoken import published
from espalier.errors import MachineError, UserError

SAMPLE = "Hello hello world, the world says: hello! ünïcödé\n\n  indented 1234 <|endoftext|>\n"
KINDS = (
    "char",
    "char with end",
    "byte",
    "byte with end",
    "bpe",
    "hf",
    "sentencepiece",
    "custom-byte",
    "custom-byte with end",
    "json",
    "special",
)


def hf_json() -> str:
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    inner.train_from_iterator([SAMPLE * 3], trainer)
    return str(inner.to_str())


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: Any, tmp_path_factory: Any) -> Tokenizer:
    kind = request.param
    if kind == "hf":
        file = tmp_path_factory.mktemp("hf") / "tokenizer.json"
        file.write_text(hf_json(), encoding="utf-8")
        return choose(str(file))
    name, _, end = kind.partition(" ")
    if name in ("custom-byte", "json"):
        tokens = ["he", "hello", " world", "\\n", "ünï", END_OF_TEXT]
        file = tmp_path_factory.mktemp("list") / "tokens"
        text = json.dumps(tokens) if name == "json" else "\n".join(tokens)
        file.write_text(text, encoding="utf-8")
        return choose(f"{name}:{file}", eot=256 if end else None)
    if name == "special":
        return SpecialTokenizer(choose("byte"), {"hello": 256, "hello!": 300})
    if name == "sentencepiece":
        pytest.importorskip("sentencepiece")
    if name == "byte":
        return choose("byte", eot=256 if end else None)
    return train(name, [SAMPLE], 300, END_OF_TEXT if end else None)


def test_decoding_what_was_encoded_gives_the_text_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(SAMPLE)) == SAMPLE


def test_ids_are_int64_and_inside_the_vocabulary(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(SAMPLE)
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size


def test_a_batch_gives_what_its_members_give_alone(tokenizer: Tokenizer) -> None:
    texts = ["hello", "", SAMPLE, "world\n", f"a{END_OF_TEXT}", ""]
    together = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in together] == [tokenizer.encode(t).tolist() for t in texts]
    assert tokenizer.encode_batch([]) == []


def test_a_tokenizer_survives_json(tokenizer: Tokenizer) -> None:
    again = load(json.loads(json.dumps(tokenizer.spec())))
    assert again.encode(SAMPLE).tolist() == tokenizer.encode(SAMPLE).tolist()
    assert (again.vocab_size, again.eot) == (tokenizer.vocab_size, tokenizer.eot)


def test_an_end_of_text_written_in_the_text_is_ordinary_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(END_OF_TEXT)
    assert len(ids) > 1
    assert tokenizer.eot not in ids.tolist()


def test_an_id_outside_the_vocabulary_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=f"{tokenizer.vocab_size} at position 1 is outside"):
        tokenizer.decode([0, tokenizer.vocab_size])


def test_characters_get_ids_in_order_of_code_points() -> None:
    made = train("char", ["hello\n"], 0)
    assert made.encode("hello").tolist() == [2, 1, 3, 3, 4]  # \n e h l o
    assert (made.vocab_size, made.eot) == (5, None)


def test_an_unknown_character_is_named_with_its_position() -> None:
    made = train("char", ["abc"], 0)
    with pytest.raises(UserError, match=r"'é' at 1, '🙂' at 3 \(3 places\)"):
        made.encode("aéc🙂é")


def test_bytes_are_their_own_ids() -> None:
    assert choose("byte").encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert choose("byte").decode([0xC3]) == "\ufffd"
    assert choose("byte", eot=256).decode([97, 256, 98]) == f"a{END_OF_TEXT}b"


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_bytes_and_a_small_bpe(text: str) -> None:
    for made in (choose("byte"), SMALL_BPE):
        assert made.decode(made.encode(text)) == text


SMALL_BPE = train("bpe", [SAMPLE], 270)


def test_a_bpe_learns_the_commonest_pair_first() -> None:
    made = train("bpe", ["ababab ababab"], 258)
    assert isinstance(made, bpe_module.BpeTokenizer)
    assert made.ranks[b"ab"] == 256
    assert (made.vocab_size, made.eot) == (258, 257)
    assert made.encode("ab").tolist() == [256]


def test_hugging_faces_trainer_learns_as_short_a_code() -> None:
    pytest.importorskip("tokenizers")
    text = SAMPLE * 4
    ours = train("bpe", [text], 300)
    ranks = bpe_module._train_with_tokenizers([text], 299)
    theirs = bpe_module.BpeTokenizer(ranks)
    assert theirs.vocab_size == ours.vocab_size
    assert len(theirs.encode(text)) == pytest.approx(len(ours.encode(text)), rel=0.03)
    assert theirs.decode(theirs.encode(text)) == text


def test_a_changed_stored_vocabulary_is_refused() -> None:
    spec = SMALL_BPE.spec()
    spec["ranks"] = spec["ranks"].replace("YQ==", "YmI=", 1)
    with pytest.raises(UserError, match="does not match its own hash"):
        load(spec)
    with pytest.raises(UserError, match="incomplete"):
        load({"name": "bpe"})


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'gpt2'"):
        choose("gtp2")


def test_gpt2_gives_the_published_ids(shared_data: Path) -> None:
    gpt2 = choose("gpt2", shared_data / "gpt2-bpe")
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert gpt2.encode("Hello, my dog is cute").tolist() == [15496, 11, 616, 3290, 318, 13779]
    assert (gpt2.vocab_size, gpt2.eot) == (50257, 50256)


def test_gpt2_is_found_through_the_environment(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_VOCAB", str(shared_data))
    assert choose("gpt2").encode("Hello world").tolist() == [15496, 995]


def test_gpt_neox_gives_the_ids_of_its_own_file(shared_data: Path) -> None:
    file = shared_data / "gpt-neox-20b-tokenizer.json"
    neox = choose("gpt-neox", file)
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(file))
    assert neox.encode(SAMPLE[:40]).tolist() == theirs.encode(SAMPLE[:40]).ids
    assert (neox.vocab_size, neox.eot) == (50277, 0)


def test_a_vocabulary_of_another_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n", encoding="utf-8")
    with pytest.raises(UserError, match="is not the published vocabulary of gpt2"):
        published("gpt2", tmp_path)


def test_gpt2_without_network_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path))
    monkeypatch.delenv("ESPALIER_VOCAB", raising=False)
    monkeypatch.setattr("espalier.data.tokenizer.tiktoken.PUBLIC", "http://127.0.0.1:9/")
    monkeypatch.setattr("espalier.data.download.FIRST_PAUSE", 0.0)
    with pytest.raises(MachineError, match="--vocab DIR"):
        choose("gpt2")
