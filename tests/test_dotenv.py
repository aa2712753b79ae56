"""A `.env` gives tokens, and nothing else."""

import os
from pathlib import Path

import pytest

from espalier import dotenv

TEXT = """# tokens
HF_TOKEN=hf_abc
export WANDB_API_KEY="k e y"   # mine
WANDB_MODE='online'
WANDB_PROJECT = nano # told
LD_PRELOAD=/tmp/evil.so
nonsense
"""


def test_tokens_are_taken_and_what_is_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(TEXT)
    monkeypatch.setattr(os, "environ", {"WANDB_MODE": "offline"})
    assert dotenv.load(tmp_path / ".env") == ["HF_TOKEN", "WANDB_API_KEY", "WANDB_PROJECT"]
    assert os.environ == {
        "WANDB_MODE": "offline",
        "HF_TOKEN": "hf_abc",
        "WANDB_API_KEY": "k e y",
        "WANDB_PROJECT": "nano",
    }


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert dotenv.load(tmp_path / ".env") == []
