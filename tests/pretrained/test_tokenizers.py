"""Whose tokenizer weights get that came without one."""

from pathlib import Path

import pytest

from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig
from espalier.pretrained import Foreign, tokenizers


def bare(kind: str, place: Path) -> Foreign:
    """A model with nothing beside its weights."""
    return Foreign(kind, place / "model.pt", GPTConfig(), {})


@pytest.mark.parametrize(
    ("kind", "size", "name"),
    [
        ("gpt2", 50257, "gpt2"),
        ("nanogpt", 50304, "gpt2"),
        ("wigglegpt", 50304, "gpt2"),
        ("gpt_neox", 50304, "gpt-neox"),
        ("gpt_neox", 50432, "gpt-neox"),
        ("biogpt", 50304, "gpt-neox"),
    ],
)
def test_the_kind_says_whose_tokenizer_it_is(kind, size, name, tmp_path, monkeypatch):
    class Found:
        vocab_size = 50257

        def __init__(self, name):
            self.name = name

    monkeypatch.setattr(tokenizers, "choose", Found)
    assert tokenizers.find(bare(kind, tmp_path), None, size).name == name


@pytest.mark.parametrize("kind", ["llama", "nanochat", "plain"])
def test_one_that_may_have_any_tokenizer_asks_for_it(kind, tmp_path):
    with pytest.raises(UserError, match=f"none is known for a {kind} model of 50304 ids: give --"):
        tokenizers.find(bare(kind, tmp_path), None, 50304)
