"""The corpora of the projects Espalier grew from, as each of them prepares it."""

from typing import NamedTuple

from espalier.data.sources.hub import Dataset


class Builtin(NamedTuple):
    """Where a corpus is streamed from, in order of preference, and how it is prepared."""

    datasets: tuple[Dataset, ...]
    tokenizer: str
    val_fraction: float
    target_tokens: int | None
    min_chars: int
    tokens: int
    expected: str
    """What a whole run gives (about `tokens`), by its source's own account."""


OPENWEBTEXT = Dataset("Skylion007/openwebtext")
# The hub's own conversion, for a `datasets` without loading scripts.
OPENWEBTEXT_PARQUET = Dataset("Skylion007/openwebtext", revision="refs/convert/parquet")

BUILTINS = {
    # nanoGPT data/openwebtext: GPT-2 tokens, 0.05 % for validation.
    "openwebtext": Builtin(
        datasets=(OPENWEBTEXT, OPENWEBTEXT_PARQUET),
        tokenizer="gpt2",
        val_fraction=0.0005,
        target_tokens=None,
        min_chars=1,
        tokens=9_040_000_000,
        expected="8.0 M documents, 9.0 G training tokens (17 GB), 4.4 M for validation (8.5 MB)",
    ),
    # BioGPT prepare_data: GPT-NeoX-20B tokens, documents of 50 characters and more.
    "pile": Builtin(
        datasets=(
            Dataset("monology/pile-uncopyrighted"),
            Dataset("EleutherAI/pile", "all"),
            OPENWEBTEXT,
            OPENWEBTEXT_PARQUET,
        ),
        tokenizer="gpt-neox",
        val_fraction=0.005,
        target_tokens=2_000_000_000,
        min_chars=50,
        tokens=2_000_000_000,
        expected="2.0 G tokens: 3.7 GiB for training, 19 MiB for validation",
    ),
    # FineWeb's own sample of 10 G tokens.
    "fineweb": Builtin(
        datasets=(
            Dataset("HuggingFaceFW/fineweb", "sample-10BT"),
            Dataset("HuggingFaceFW/fineweb-edu", "sample-10BT"),
        ),
        tokenizer="gpt2",
        val_fraction=0.0005,
        target_tokens=None,
        min_chars=1,
        tokens=10_000_000_000,
        expected="15 M documents, 10 G tokens (20 GB)",
    ),
}
