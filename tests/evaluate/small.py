"""A small random GPT-2 by `transformers` with GPT-2's own tokenizer, and local tasks."""

import json
from pathlib import Path
from typing import Any

import yaml

CHOICES = [
    ("The sky is", [" blue", " very blue today", " a door"], 0),
    ("Two and two are", [" four", " five", " fish and chips"], 0),
    ("A cat has", [" nine lives", " wheels", " four legs and a tail"], 1),
    ("In the beginning was the word, and the word was with", [" God", " me", " a fish"], 2),
    ("Long ago " * 40 + "there lived", [" a king", " kings and queens", " nobody"], 0),
]
TEXTS = [
    "To be, or not to be, that is the question.",
    "Call me Ishmael. " * 12,
    "It was the best of times, it was the worst of times; " * 3,
]
ASKED = ["Once upon a time", "The answer is", "Yes. No. Yes. No. " * 10, "It"]


def hugging_face(folder: Path, tokenizer: Path) -> Path:
    """2 layers of 32, 48 tokens of context; weights large enough to have opinions."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    torch.manual_seed(11)
    config = GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=48, vocab_size=50257)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    model.save_pretrained(folder)
    words = GPT2TokenizerFast(
        vocab=str(tokenizer / "encoder.json"), merges=str(tokenizer / "vocab.bpe")
    )
    words.save_pretrained(folder)
    return folder


def tasks(folder: Path) -> Path:
    """Task files for each kind of request."""
    folder.mkdir(exist_ok=True)
    choices = [{"q": q, "choices": c, "gold": gold} for q, c, gold in CHOICES]
    _task(folder, "local_choice", choices, {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    })  # fmt: skip
    _task(folder, "local_text", [{"text": text} for text in TEXTS], {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
    })  # fmt: skip
    _task(folder, "local_answer", [{"q": q, "a": "yes"} for q in ASKED], {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n", " the"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    })  # fmt: skip
    return folder


def _task(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "metadata": {"version": 1.0},
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
