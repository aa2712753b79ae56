"""Our tokenizers as Hugging Face's tokenizer.json."""

import json
from itertools import pairwise
from typing import Any

from espalier.data.tokenizer.base import END_OF_TEXT, Tokenizer
from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.char import CharTokenizer
from espalier.data.tokenizer.hf import HfTokenizer
from espalier.data.tokenizer.ranks import Ranks, RankTokenizer, byte_aliases
from espalier.data.tokenizer.special import SpecialTokenizer
from espalier.pretrained.tokenizers import OURS

Tree = dict[str, Any]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
END_WORDS = ("eos_token", "bos_token", "unk_token")


def files(tokenizer: Tokenizer, longest: int, chat: str | None = None) -> dict[str, str]:
    """The files of a transformers directory, by name; ours alone where theirs has no such kind.

    `chat` is a template in Jinja.
    """
    found = tree(tokenizer)
    if found is None:
        return {OURS: json.dumps(tokenizer.spec(), ensure_ascii=False)}
    config: Tree = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.eot is not None:
        inner = tokenizer.inner if isinstance(tokenizer, SpecialTokenizer) else tokenizer
        end = inner.end if isinstance(inner, HfTokenizer) else None
        config |= dict.fromkeys(END_WORDS[:2], end or END_OF_TEXT)
    if chat is not None:
        config["chat_template"] = chat
    return {
        "tokenizer.json": json.dumps(found, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=1) + "\n",
    }


def tree(tokenizer: Tokenizer) -> Tree | None:
    """The content of tokenizer.json; None for what it cannot say (lists, SentencePiece)."""
    if isinstance(tokenizer, SpecialTokenizer):
        return _of_special(tokenizer)
    if isinstance(tokenizer, HfTokenizer):
        found: Tree = json.loads(tokenizer.source)
        return found
    if isinstance(tokenizer, RankTokenizer):
        return _of_ranks(tokenizer)
    if isinstance(tokenizer, ByteTokenizer):
        alias = {byte: text for text, byte in byte_aliases().items()}
        return _byte_level({alias[byte]: byte for byte in range(256)}, [], _ends(tokenizer), None)
    if isinstance(tokenizer, CharTokenizer):
        vocabulary = {symbol: i for i, symbol in enumerate(tokenizer.symbols)}
        made = _with_special(_whole(vocabulary, []), _ends(tokenizer))
        return made | {"decoder": {"type": "Fuse"}}  # symbol by symbol: nothing splits before
    return None


def merges(ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """The pair that makes each token of two bytes and more, in order of rank.

    It is what byte-pair encoding by the ranks below the token's own leaves of the token. Tokens
    that no two others make (a few of published vocabularies) have none.
    """
    found = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) < 2:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            least = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[least] >= rank:
                break
            parts[least : least + 2] = [parts[least] + parts[least + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


def _of_ranks(tokenizer: RankTokenizer) -> Tree:
    alias = {byte: text for text, byte in byte_aliases().items()}

    def spell(token: bytes) -> str:
        return "".join(alias[byte] for byte in token)

    vocabulary = {spell(token): rank for token, rank in tokenizer.ranks.items()}
    pairs = [(spell(a), spell(b)) for a, b in merges(tokenizer.ranks)]
    return _byte_level(vocabulary, pairs, tokenizer.special, tokenizer.pattern)


def _of_special(tokenizer: SpecialTokenizer) -> Tree | None:
    """None where `inner` has no tree, or one in which an id would mean two things."""
    inner = tree(tokenizer.inner)
    if inner is None or not isinstance(inner["model"]["vocab"], dict):
        return None
    known = {one["content"]: one["id"] for one in inner["added_tokens"]}
    new = {text: i for text, i in tokenizer.special.items() if known.get(text) != i}
    taken = {*known.values(), *inner["model"]["vocab"].values()}
    return _with_special(inner, new) if taken.isdisjoint(new.values()) else None


def _with_special(tree: Tree, special: dict[str, int]) -> Tree:
    """A tree and more special tokens, whose ids are free in it.

    An added token has the id of its text in the vocabulary, or else the next behind all.
    """
    vocabulary, added = tree["model"]["vocab"], tree["added_tokens"]
    taken = {*vocabulary.values(), *(one["id"] for one in added)}
    next_ids = range(len(taken), len(taken) + len(special))
    if max(taken) >= len(taken) or sorted(special.values()) != list(next_ids):
        vocabulary = vocabulary | {one["content"]: one["id"] for one in added} | special
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    more = [
        {"id": i, "content": text, **marks, "special": True}
        for text, i in sorted(special.items(), key=lambda item: item[1])
    ]
    model = tree["model"] | {"vocab": vocabulary}
    return tree | {"added_tokens": [*added, *more], "model": model}


def _byte_level(
    vocabulary: dict[str, int],
    pairs: list[tuple[str, str]],
    special: dict[str, int],
    pattern: str | None,
) -> Tree:
    aliased = BYTE_LEVEL | {"use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    steps = [split | {"invert": False}, aliased] if pattern else [aliased]
    return _with_special(_whole(vocabulary, pairs), special) | {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": BYTE_LEVEL | {"use_regex": True},
    }


def _whole(vocabulary: dict[str, int], pairs: list[tuple[str, str]]) -> Tree:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a whole word that is a token is that token, as tiktoken has it
            "vocab": vocabulary,
            "merges": [list(pair) for pair in pairs],
        },
    }


def _ends(tokenizer: Tokenizer) -> dict[str, int]:
    return {} if tokenizer.eot is None else {END_OF_TEXT: tokenizer.eot}
