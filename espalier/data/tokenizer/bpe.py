"""Byte-pair encoding trained here, on the text at hand."""

from collections.abc import Iterable
from typing import Any

from espalier.data.tokenizer.base import END_OF_TEXT
from espalier.data.tokenizer.ranks import Ranks, RankTokenizer, byte_aliases, read_spec
from espalier.errors import UserError, need

# GPT-4's splitting rule with numbers in pairs of digits, as nanochat has it for small vocabularies.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SMALLEST = 257  # the bytes and an end of text


class BpeTokenizer(RankTokenizer):
    """A vocabulary of bytes and merges; the last id is the end of text."""

    def __init__(self, ranks: Ranks, pattern: str = PATTERN):
        super().__init__("bpe", ranks, pattern, {END_OF_TEXT: len(ranks)})

    def spec(self) -> dict[str, Any]:
        return {"name": "bpe"} | super().spec()


def from_spec(spec: dict[str, Any]) -> BpeTokenizer:
    """The stored tokenizer, its hash checked."""
    ranks, pattern, _ = read_spec(spec)
    return BpeTokenizer(ranks, pattern)


def train(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Learn a vocabulary of at most `vocab_size` ids (fewer where the text has no more pairs)."""
    if vocab_size < SMALLEST:
        raise UserError(f"--vocab-size must be at least {SMALLEST}, got {vocab_size}")
    try:
        import rustbpe
    except ImportError:
        return BpeTokenizer(_train_with_tokenizers(texts, vocab_size - 1))
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=PATTERN)
    return BpeTokenizer({bytes(token): rank for token, rank in trainer.get_mergeable_ranks()})


def _train_with_tokenizers(texts: Iterable[str], size: int) -> Ranks:
    """The same, by Hugging Face's trainer (ties between pairs may fall otherwise)."""
    tokenizers = need("tokenizers", "hf")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    bytes_ = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, bytes_])
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        iter(texts),
        tokenizers.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, show_progress=False
        ),
    )
    alias = byte_aliases()
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(alias[c] for c in token) for token, _ in learned]
    return {token: rank for rank, token in enumerate(sorted(tokens, key=lambda t: len(t) > 1))}
