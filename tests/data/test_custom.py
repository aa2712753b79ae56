"""Lists of tokens, special tokens and SentencePiece: what is matched, what falls back, what not."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.data.tokenizer import END_OF_TEXT, Tokenizer, choose, fallback, load, train
from espalier.data.tokenizer.custom import BYTES, CustomTokenizer, shadowed
from espalier.data.tokenizer.special import SpecialTokenizer, with_special
from espalier.errors import UserError

TEXT = st.text(st.characters(codec="utf-8"))


def written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def test_the_longest_token_is_taken_not_the_first_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "list.txt", "a\nab\nabcd\nc\n")
    assert choose(f"custom:{file}").encode("abcabcd").tolist() == [1, 3, 2]


def test_a_line_may_name_its_own_end_a_tab_and_a_backslash(tmp_path: Path) -> None:
    file = written(tmp_path / "list.txt", "\\n\n\\t\n\\\\\n\n a\n")
    made = choose(f"custom:{file}")
    assert made.encode("\t\\\n a").tolist() == [1, 2, 0, 3]
    assert made.vocab_size == 4  # the blank line is none


def test_text_outside_a_bare_list_is_named_with_its_places(tmp_path: Path) -> None:
    file = written(tmp_path / "list.txt", "ab\n")
    with pytest.raises(UserError, match=r"not in the list of tokens: 'x' at 2, 'é' at 5 \(2 pl"):
        choose(f"custom:{file}").encode("abxabé")


def test_with_bytes_what_no_token_fits_is_its_utf8(tmp_path: Path) -> None:
    file = written(tmp_path / "list.txt", "ab\n")
    made = choose(f"custom-byte:{file}")
    ids = made.encode("abéa")
    assert ids.tolist() == [256, 0xC3, 0xA9, 97]
    table = fallback(made)
    assert table is not None
    assert int(table[ids].sum()) == 3
    assert made.decode([0xC3]) == "\ufffd"


def test_a_json_array_stands_behind_the_bytes(tmp_path: Path) -> None:
    file = written(tmp_path / "list.json", json.dumps(["b", "ab"]))
    assert choose(f"json:{file}").encode("abbz").tolist() == [257, 256, 122]


def test_a_json_mapping_keeps_its_ids_and_its_own_bytes(tmp_path: Path) -> None:
    named = {f"<0x{value:02X}>": 1000 + value for value in range(256)}
    made = choose(f"json:{written(tmp_path / 'a.json', json.dumps({'ab': 7} | named))}")
    assert made.encode("abz").tolist() == [7, 1000 + ord("z")]
    assert made.decode(made.encode("<0x41>")) == "<0x41>"  # six characters, not the byte
    assert len(made.encode("<0x41>")) == 6
    bare = choose(f"json:{written(tmp_path / 'b.json', json.dumps({'ab': 7}))}")
    assert bare.encode("abz").tolist() == [7, 8 + ord("z")]
    with pytest.raises(UserError, match="token id 3 has no text"):
        bare.decode([3])


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.txt", "", "lists no token"),
        ("a.txt", "x\ny\nx\n", "token 3 is there already: 'x'"),
        ("a.json", "[1, 2]", "neither an array of texts nor a mapping"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"x": 1, "y": 1}', "id 1 is given twice"),
        ("a.json", '{"x": -1}', "ids lie from 0"),
        ("a.json", '{"": 1}', "a token without text"),
        ("a.json", '["\\ud800"]', "half of a surrogate pair"),
        ("a.json", '{"<0x00>": 1, "x": 2}', "names 1 bytes .*: all 256, or none"),
    ],
)
def test_a_list_that_cannot_be_one_is_refused(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    kind = "json" if name.endswith("json") else "custom"
    with pytest.raises(UserError, match=why):
        choose(f"{kind}:{written(tmp_path / name, text)}")


def test_a_list_without_its_file_says_how_to_name_it() -> None:
    with pytest.raises(UserError, match="say which list: custom:FILE"):
        choose("custom")
    with pytest.raises(UserError, match=r"no file nowhere\.txt"):
        choose("json:nowhere.txt")


@given(TEXT, st.lists(st.text(st.sampled_from("ab é🙂\n"), min_size=1, max_size=5), unique=True))
def test_any_text_survives_any_list_with_bytes(text: str, tokens: list[str]) -> None:
    made = CustomTokenizer({token: 256 + i for i, token in enumerate(tokens)}, BYTES)
    sample = text + "".join(tokens) + text
    assert made.decode(made.encode(sample)) == sample
    assert load(json.loads(json.dumps(made.spec()))).encode(sample).tolist() == list(
        made.encode(sample)
    )


@given(
    st.text(st.sampled_from("abc"), max_size=30),
    st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, unique=True),
)
def test_without_shadowed_tokens_the_longest_is_the_first_of_the_list(
    text: str, tokens: list[str]
) -> None:
    made = CustomTokenizer(
        {token: 256 + i for i, token in enumerate(tokens)}, BYTES, shadowed(tokens)
    )
    found, at = [], 0
    while at < len(text):  # what ReaLLM-Forge's list tokenizer does
        first = next((t for t in tokens if text.startswith(t, at)), None)
        found.append(ord(text[at]) if first is None else 256 + tokens.index(first))
        at += len(first or "x")
    assert made.encode(text).tolist() == found


def test_a_list_of_256000_tokens_is_not_searched_one_by_one() -> None:
    chance = random.Random(0)
    words = {
        "".join(chance.choices("etaoin shrdlu", k=chance.randint(2, 9))) for _ in range(300_000)
    }
    tokens = sorted(words)[:256_000]
    made = CustomTokenizer({token: 256 + i for i, token in enumerate(tokens)}, BYTES)
    text = "".join(chance.choices(tokens, k=20_000))
    assert made.decode(made.encode(text)) == text  # one by one this would take minutes


SPECIAL = {"<|a|>": 300, "<|a|>b": 301, "<|endoftext|>": 302}


def test_special_tokens_are_read_longest_first_and_only_on_request() -> None:
    plain = choose("byte")
    made = SpecialTokenizer(plain, SPECIAL)
    assert made.encode("x<|a|>b<|a|>").tolist() == [120, 301, 300]
    assert made.decode([120, 301, 300]) == "x<|a|>b<|a|>"
    assert plain.encode("<|a|>").tolist() == list(b"<|a|>")
    assert (made.vocab_size, made.eot) == (303, 302)


def test_published_special_tokens_keep_their_ids_and_new_ones_follow(
    shared_data: Path, tmp_path: Path
) -> None:
    gpt2 = choose("gpt2", shared_data / "gpt2-bpe")
    file = written(tmp_path / "special.txt", "<|user|>\n<|endoftext|>\n")
    made = with_special(gpt2, file)
    assert made.encode("Hello world<|endoftext|><|user|>").tolist() == [15496, 995, 50256, 50257]
    assert 50256 not in gpt2.encode("Hello world<|endoftext|>").tolist()
    taken = written(tmp_path / "taken.json", json.dumps({"<|user|>": 995}))
    with pytest.raises(UserError, match=r"id 995 of '<\|user\|>' is the tokenizer's already; free"):
        with_special(gpt2, taken)


@given(TEXT, st.lists(st.sampled_from(sorted(SPECIAL)), max_size=4))
def test_any_text_survives_special_tokens(text: str, between: list[str]) -> None:
    made = SpecialTokenizer(choose("byte"), SPECIAL)
    sample = text.join(["", *between, ""])
    assert made.decode(made.encode(sample)) == sample


PROSE = "Hello hello world, the world says: hello! ünïcödé\n\n  indented 1234\n" * 20


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    pytest.importorskip("sentencepiece")
    return train("sentencepiece", [PROSE], 330)


def test_sentencepiece_trained_here_gives_every_text_back(sentencepiece: Tokenizer) -> None:
    @given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("▁ \n\0<0x>s/"))))
    def survives(text: str) -> None:
        assert sentencepiece.decode(sentencepiece.encode(text)) == text

    survives()
    assert sentencepiece.decode(sentencepiece.encode(PROSE)) == PROSE
    assert sentencepiece.vocab_size == 330


def test_a_model_file_is_kept_whole(sentencepiece: Tokenizer, tmp_path: Path) -> None:
    model = sentencepiece.model  # type: ignore[attr-defined]
    (tmp_path / "m.model").write_bytes(model)
    loaded = choose(f"sentencepiece:{tmp_path / 'm.model'}")
    again = load(json.loads(json.dumps(loaded.spec())))
    assert again.encode(PROSE).tolist() == sentencepiece.encode(PROSE).tolist()
    (tmp_path / "bad.model").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"bad.model: this is no SentencePiece model"):
        choose(f"sentencepiece:{tmp_path / 'bad.model'}")


def test_sentencepiece_says_when_the_vocabulary_is_too_small() -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(UserError, match="--vocab-size 50: SentencePiece says"):
        train("sentencepiece", [PROSE], 50)


def test_an_end_of_text_decodes_as_its_name(sentencepiece: Tokenizer) -> None:
    ids = [*sentencepiece.encode("hello"), sentencepiece.eot or 0, *sentencepiece.encode("world")]
    assert sentencepiece.decode(ids) == f"hello{END_OF_TEXT}world"
