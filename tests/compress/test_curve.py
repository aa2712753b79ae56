"""What surrounds the methods: masks in training, storage, calibration text, the results file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from espalier.compress import calibration, curve, storage
from espalier.compress.finetune import Finetune, finetune
from espalier.compress.slots import Job, PruneConfig, Pruned
from espalier.config import resolve
from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.errors import UserError
from espalier.evaluate.loss import score, window_losses
from espalier.nn.gpt import GPTConfig, make
from tests.train import tiny

SMALL = GPTConfig(n_layer=2, n_embd=16, n_head=2, block_size=8, vocab_size=11)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(tiny.corpus(tmp_path_factory.mktemp("data") / "cycle"))


def pruned(method: str, share: float, text: torch.Tensor) -> Pruned:
    config = resolve(PruneConfig, method)()
    assert isinstance(config, PruneConfig)
    return config.prune(make(SMALL, 3), SMALL, Job(share, config.scopes[0], text))


def test_masks_survive_training_and_the_rest_learns(corpus: Corpus) -> None:
    found = pruned("magnitude", 0.6, calibration.from_split(corpus.train, 8))
    before = {name: p.detach().clone() for name, p in found.model.named_parameters()}
    losses: list[float] = []
    finetune(found, corpus.train, Finetune(steps=40, learning_rate=1e-2), 1, losses.append)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    for name, p in found.model.named_parameters():
        keep = found.masks.get(name, torch.ones_like(p, dtype=torch.bool))
        assert not p[~keep].any(), name
        assert not torch.equal(p[keep], before[name][keep]), name


def test_weights_that_are_gone_add_nothing_to_the_norm_of_gradients(corpus: Corpus) -> None:
    from espalier.compress.masks import held

    found = pruned("magnitude", 0.6, calibration.from_split(corpus.train, 8))
    with held(found.model, found.masks):
        found.model(torch.zeros(1, 8, dtype=torch.long)).square().sum().backward()
    for name, keep in found.masks.items():
        gradient = found.model.get_parameter(name).grad
        assert gradient is not None
        assert not gradient[~keep].any()


def test_a_model_that_shrank_can_be_trained_on(corpus: Corpus) -> None:
    found = pruned("structured", 0.5, calibration.from_split(corpus.train, 8))
    assert found.difference is not None
    assert found.difference < 1e-6
    finetune(found, corpus.train, Finetune(steps=3), 1)


def test_packed_tensors_come_back(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 1.5, 0.0], [0.0, 0.0, -2.0]])
    packed = storage.pack({"a": dense, "b": torch.ones(3)}, ["a"])
    assert packed["a.mask"].tolist() == [0b01000100]
    assert packed["a.values"].tolist() == [1.5, -2.0]
    back = storage.unpack(packed)
    assert torch.equal(back["a"], dense)
    assert torch.equal(back["b"], torch.ones(3))


def test_storage_without_zeros_is_smaller_by_what_is_zero() -> None:
    zeros = torch.zeros(1000, 8)
    zeros[:, 0] = 1
    assert storage.size(storage.pack({"a": zeros}, ["a"])) < 1000 * 4 + 1000 + 400
    assert storage.size({"a": zeros}) > 32000


def test_the_text_that_judges_is_refused_for_calibration(corpus: Corpus, tmp_path: Path) -> None:
    ids = corpus.val.gather([0], len(corpus.val))[0]
    file = tmp_path / "val.txt"
    file.write_text(corpus.tokenizer.decode(ids.tolist()), encoding="utf-8")
    with pytest.raises(UserError, match=r"100% of the calibration text .*val\.txt stands in"):
        calibration.from_place(file, corpus, corpus.tokenizer, 8)
    file.write_text(tiny.SYMBOLS * 20, encoding="utf-8")
    text = calibration.from_place(file, corpus, corpus.tokenizer, 8)
    assert text.shape == (27, 8)


def test_the_training_split_shares_nothing_with_what_judges(corpus: Corpus) -> None:
    assert calibration.overlap(calibration.from_split(corpus.train, 8), corpus.val) == 0


def test_overlap_counts_passages() -> None:
    class Sixty:
        def __len__(self) -> int:
            return 100

        def gather(self, starts: object, length: int) -> np.ndarray:
            return np.arange(100)[None]

    # of 74 - 63 = 11 passages of 64, those from 0 to 5 stand in 0 .. 99 whole
    text = torch.tensor([*range(31, 100), 7, 7, 7, 7, 7])
    assert calibration.overlap(text, Sixty()) == pytest.approx(6 / 11)  # type: ignore[arg-type]


def test_losses_of_windows_add_up_to_the_loss(corpus: Corpus) -> None:
    model, starts = make(SMALL, 3), windows(corpus.val, 8)
    each = window_losses(model, corpus.val, starts, 8)
    assert len(each) == len(starts)
    assert each.mean() == pytest.approx(score(model, corpus.val, starts, 8).loss, abs=1e-6)


def test_levels_are_checked() -> None:
    assert curve.check([50, 0, 50]) == (0, 50)
    for wrong in ([100], [-1], [float("nan")], []):
        with pytest.raises(UserError, match="level"):
            curve.check(wrong)


def test_curves_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    results = curve.read(tmp_path / "none.json")
    one = curve.curve_of(results, {"method": "a"})
    results = curve.added(results, one, {"level": 50, "loss": 2})
    results = curve.added(results, curve.curve_of(results, {"method": "b"}), {"level": 0})
    results = curve.added(results, curve.curve_of(results, {"method": "a"}), {"level": 0})
    assert {
        c["settings"]["method"]: [x["level"] for x in c["levels"]] for c in results["curves"]
    } == {
        "a": [0, 50],
        "b": [0],
    }
    file = tmp_path / "other.json"
    file.write_text('{"format": "theirs"}', encoding="utf-8")
    with pytest.raises(UserError, match="move it away"):
        curve.read(file)
