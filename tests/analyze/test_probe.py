"""Probes learn what stands in the stream, and control tasks tell what is learnt by heart."""

from typing import Any

import pytest
import torch

from espalier.analyze import probe
from espalier.data.corpus import Corpus
from espalier.errors import UserError
from tests.analyze.test_lens import looking
from tests.train import tiny


def test_a_separable_label_is_read_and_its_control_is_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 6)
    labels, held = (x[:, 0] + x[:, 1] > 0).long(), torch.arange(600) % 4 == 3
    task = probe.Task(labels, torch.arange(600))  # every token a type: nothing to learn by heart
    control = task.control(seed=1)
    assert probe.accuracy(x, task.labels, held) > 0.97
    assert probe.accuracy(x, control.labels, held) < 0.6


def test_a_control_that_features_spell_is_learnt_by_heart() -> None:
    types = torch.arange(600) % 5
    x = torch.nn.functional.one_hot(types, 5).float()
    task = probe.Task((types > 2).long(), types)
    control, held = task.control(seed=0), torch.arange(600) % 4 == 3
    assert len(control.labels.unique()) == 2
    assert all(len(control.labels[types == kind].unique()) == 1 for kind in range(5))
    assert probe.accuracy(x, task.labels, held) == 1
    assert probe.accuracy(x, control.labels, held) == 1  # selectivity 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a", "vowel"), ("Té", "vowel"), ("x", "consonant"), ("A", "capital"), ("7", "digit"),
        (" ", "space"), ("\n", "line"), ("?", "mark"), ("$", "mark"), ("", "other"),
    ],
)  # fmt: skip
def test_classes_of_characters(text: str, kind: str) -> None:
    assert probe.kind(text) == kind


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(tiny.corpus(tmp_path_factory.mktemp("corpus"), val=1601))


def model() -> Any:
    from espalier.config import decode
    from espalier.nn.gpt import GPTConfig, make
    from tests.analyze.test_heads import SIZES

    return make(decode(GPTConfig, SIZES), seed=3).eval()


def test_positions_are_read_where_they_were_added(text: Corpus) -> None:
    made = model()
    with torch.no_grad():
        made.trunk.position.weight.mul_(20)
    found = probe.look(looking(made, text, label="position"))
    first = found["rows"][0]
    assert (first["place"], first["accuracy"]) == ("embed", 1.0)
    assert found["classes"][0] == "1 of 8"


def test_labels_of_a_file(text: Corpus, tmp_path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("a: early\nb: early\ni: late\n")
    ids = torch.tensor([[0, 8, 1, 5]])
    found, names = probe.labels(looking(model(), text, label=str(file)), ids)
    assert names == ["early", "late"]
    assert found.tolist() == [[0, 1, 0, -1]]
    file.write_text("Z: early\n")
    with pytest.raises(UserError, match="no token of"):
        probe.labels(looking(model(), text, label=str(file)), ids)


def test_the_class_before(text: Corpus) -> None:
    ids = torch.tensor([[0, 1, 10, 4]])  # a b newline e
    found, names = probe.labels(looking(model(), text), ids)
    assert [names[n] if n >= 0 else None for n in found[0]] == [None, "vowel", "consonant", "line"]
