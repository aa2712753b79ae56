"""Text comes whole: no half characters, no half stop strings."""

import pytest
import torch

from espalier.data.tokenizer import Tokenizer, choose, sentencepiece
from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.char import CharTokenizer
from espalier.data.tokenizer.hf import HfTokenizer
from espalier.engine.generate import Options
from espalier.engine.sampling import Sampling
from espalier.engine.text import Decoder, Session, Stops
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig, make

BYTES = ByteTokenizer()
FALLEN_BACK = ["hi 😀 there", "한", "한국어를 더 길게 씁니다 😀😀 hi", "é à"]


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    """A SentencePiece model that writes all but its few letters in bytes."""
    pytest.importorskip("sentencepiece")
    return sentencepiece.train(["hello world, this is a small text. " * 20] * 5, 280)


@pytest.fixture(scope="module")
def fallback() -> Tokenizer:
    """A tokenizer.json of Llama's kind, which writes all but `hi` in bytes."""
    library = pytest.importorskip("tokenizers")
    known = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "i", "▁h", "▁hi"]
    inner = library.Tokenizer(
        library.models.BPE(
            vocab={token: i for i, token in enumerate(known)},
            merges=[("▁", "h"), ("▁h", "i")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inner.normalizer = library.normalizers.Replace(" ", "▁")
    decoders = library.decoders
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(steps)
    return HfTokenizer(inner.to_str(), "llama")


@pytest.fixture(scope="module")
def session() -> Session:
    config = GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=24, vocab_size=260)
    return Session(make(config, 1).eval(), ByteTokenizer(eot=256), config.block_size)


def test_bytes_of_a_character_wait_for_one_another():
    decoder = Decoder(BYTES)
    pieces = [decoder.push(byte) for byte in "aé€😀z".encode()]
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "😀", "z"]
    assert decoder.flush() == ""


def test_a_character_broken_off_is_shown_at_the_end():
    decoder = Decoder(BYTES)
    assert decoder.push(0xE2) + decoder.push(0x82) == ""
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize(
    ("tokenizer", "ids"),
    [(CharTokenizer("a\ufffd"), [0, 1, 1, 0]), (BYTES, "a\ufffd\ufffda".encode())],
)
def test_a_replacement_character_of_the_text_itself_does_not_wait(tokenizer, ids):
    decoder = Decoder(tokenizer)
    shown = [decoder.push(token) for token in ids]
    assert list(filter(None, shown)) == ["a", "\ufffd", "\ufffd", "a"]
    assert shown[-1] == "a"


def test_a_published_vocabulary_splits_characters_too(shared_data):
    tokenizer = choose("gpt2", vocab=shared_data / "gpt2-bpe")
    text = "naïve 😀 日本語 – Ω"
    decoder = Decoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer.encode(text)]
    assert "" in pieces
    assert "".join(pieces) == text


@pytest.mark.parametrize("seed", range(5))
def test_pieces_join_to_what_decoding_at_once_gives(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(256, (300,), generator=generator).tolist()
    decoder = Decoder(BYTES)
    text = "".join(map(decoder.push, ids)) + decoder.flush()
    assert text == BYTES.decode(ids)


@pytest.mark.parametrize("text", FALLEN_BACK)
@pytest.mark.parametrize("prompt", ["hi", "한국어입니다"])
@pytest.mark.parametrize("name", ["pieces", "fallback"])
def test_characters_that_no_token_fits_come_whole(name, prompt, text, request):
    tokenizer = request.getfixturevalue(name)
    decoder = Decoder(tokenizer, tokenizer.encode(prompt).tolist())
    shown = [decoder.push(token) for token in tokenizer.encode(text).tolist()]
    assert "".join([*shown, decoder.flush()]) == text


@pytest.mark.parametrize("name", ["pieces", "fallback"])
def test_a_long_text_in_bytes_is_decoded_a_few_ids_at_a_time(name, request):
    tokenizer = request.getfixturevalue(name)
    decoder, text = Decoder(tokenizer), "한국어를씁니다" * 30
    assert "".join(map(decoder.push, tokenizer.encode(text).tolist())) == text
    assert len(decoder.ids) < 50


def test_a_broken_byte_after_a_character_in_bytes_leaves_what_follows(fallback):
    decoder = Decoder(fallback)
    ids = [*fallback.encode("한").tolist(), 1 + 0xFF, *fallback.encode(" hi").tolist()]
    assert "".join(map(decoder.push, ids)) == "한\ufffd hi"


@pytest.mark.parametrize("name", ["pieces", "fallback"])
def test_a_stop_string_in_bytes_is_met(name, request):
    tokenizer, stops = request.getfixturevalue(name), Stops(["한"])
    decoder = Decoder(tokenizer)
    for token in tokenizer.encode("hi한").tolist():
        stops.push(decoder.push(token))
    assert stops.met


def test_the_prompt_is_not_said_again():
    decoder = Decoder(BYTES, list("prompt \ufffd".encode()))
    assert decoder.push(ord("x")) == "x"


def test_a_stop_string_that_spans_pieces_is_cut_off():
    stops = Stops(["END", "###"])
    assert [stops.push(piece) for piece in ("one E", "N", "E", "ND", "more")][:4] == [
        "one ",
        "",
        "EN",
        "",
    ]
    assert stops.met


def test_the_earliest_stop_string_counts():
    stops = Stops(["late", "a"])
    assert stops.push("xyz a late") == "xyz "
    assert stops.met


def test_the_beginning_of_a_stop_string_that_never_came_is_shown():
    stops = Stops(["END"])
    assert stops.push("the EN") == "the "
    assert stops.flush() == "EN"
    assert not stops.met


def test_streamed_pieces_join_to_the_completion(session):
    options = Options(40, num_samples=3)
    texts = ["", "", ""]
    ends = {}
    for piece in session.stream(["ab"], options):
        texts[piece.row] += piece.text
        ends |= {piece.row: piece.finish} if piece.finish else {}
    whole = session.complete(["ab"], options)
    assert texts == [completion.text for completion in whole]
    assert texts[0] == session.tokenizer.decode(whole[0].ids)
    assert ends == dict.fromkeys(range(3), "length")


def test_a_completion_stops_before_the_string_and_others_go_on(session):
    free = session.complete(["ab"], Options(60, num_samples=4))
    stop = free[2].text[10:12]
    cut = session.complete(["ab"], Options(60, num_samples=4), stop=[stop])
    for got, want in zip(cut, free, strict=True):
        assert got.text == want.text.split(stop)[0]
        assert got.finish == ("stop" if stop in want.text else "length")
    assert len(cut[2].ids) < 60


def test_a_stop_token_ends_a_row(session):
    free = session.complete(["ab"], Options(30))[0]
    cut = session.complete(["ab"], Options(30, stop_ids={free.ids[7]}))[0]
    assert cut.finish == "stop"
    assert cut.ids == free.ids[: free.ids.index(free.ids[7]) + 1]


def test_an_empty_prompt_is_the_end_of_text_or_a_newline(session):
    assert session.encode("") == [256]
    assert session.encode("a<|endoftext|>b") == [97, 256, 98]
    chars = Session(session.model, CharTokenizer("\nab"), 24)
    assert chars.encode("") == [0]


def test_characters_outside_the_vocabulary_are_named(session):
    chars = Session(session.model, CharTokenizer("\nab"), 24)
    with pytest.raises(UserError, match="'x' at 1"):
        chars.encode("axb")


def test_padding_of_the_vocabulary_is_never_drawn(session):
    drawn = session.complete([""], Options(200, num_samples=5))
    assert max(token for one in drawn for token in one.ids) <= 256


def test_the_nanogpt_stream_draws_one_sample_after_another(session):
    torch_seed, ids = 5, session.encode("ab")
    sampling = Sampling(temperature=0.8, top_k=20, seed=torch_seed, rng="nanogpt")
    mine = session.complete(["ab"], Options(30, num_samples=2, sampling=sampling))
    want = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(torch_seed)
        for _ in range(2):
            row = list(ids)
            for _ in range(30):
                logits = session.model(torch.tensor([row[-24:]]))[:, -1] / 0.8
                logits[:, 257:] = -torch.inf
                least = logits.topk(20).values[:, -1:]
                probs = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
                row.append(int(torch.multinomial(probs, 1)))
            want.append(row[2:])
    assert [one.ids for one in mine] == want


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match="empty stop string"):
        Stops(["a", ""])
