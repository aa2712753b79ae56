"""Searches are planned on a corpus that nobody has to prepare."""

import pytest

from espalier.data.corpus import Corpus


@pytest.fixture
def any_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of 65 symbols, wherever it is said to be."""

    class Any65:
        vocab_size = 65

    monkeypatch.setattr(Corpus, "open", lambda place: Any65())
