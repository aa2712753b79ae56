"""What parts tell while they train: gathered per update, printed, logged, and advised on."""

import pytest
import torch

from espalier.fit import fit
from espalier.run import Run
from espalier.train.events import Evaluated, Noted, Stepped
from espalier.train.hearing import Hearing, advice, by_layer, shares
from tests.train.tiny import experiment


def test_passes_count_by_their_rows():
    hearing = Hearing()
    hearing.add({"silent": [torch.tensor(0.2), torch.tensor(0.6)]}, 3)
    hearing.add({"silent": [torch.tensor(0.6), torch.tensor(0.2)]}, 1)
    assert hearing.take()["silent"] == pytest.approx([0.3, 0.5])
    assert hearing.take() == {}


def test_the_published_number_is_the_active_share():
    found = shares({"silent": [0.8, 0.9238]})
    assert found["silent"] == pytest.approx(0.8619)
    assert found["active"] == found["sparsity_published"] == pytest.approx(0.1381)
    assert by_layer({"silent": [0.75, 0.5]})["layers"]["active"] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("silent", "word"), [(0.049, "raise"), (0.05, ""), (0.5, ""), (0.51, "lower"), (0.0, "raise")]
)
def test_advice_points_the_right_way(silent, word):
    # a higher threshold silences more
    assert advice({"silent": silent}).partition(": ")[2].partition(" ")[0] == word


def test_a_run_tells_and_logs_its_silent_share(tmp_path, corpus):
    plan = experiment(
        corpus, "model.block.ffn=wiggle", "model.block.ffn.threshold=1.0", "train.max_iters=12"
    )
    events = list(fit(plan, tmp_path / "run", device="cpu"))
    stepped = [event for event in events if isinstance(event, Stepped)]
    assert {event.shares["silent"] for event in stepped} == {1.0}  # no sigmoid is above 1
    assert {event.shares["active"] for event in events if isinstance(event, Evaluated)} == {0.0}
    noted = [event.message for event in events if isinstance(event, Noted)]
    assert [text for text in noted if "silent" in text] == [
        "more than 50 % of features are silent: lower model.block.ffn.threshold"
    ]
    records = list(Run.open(tmp_path / "run").metrics())
    layers = plan.model.n_layer
    for record in records:
        assert (record["silent"], record["active"], record["sparsity_published"]) == (1, 0, 0)
        if record["kind"] == "eval":
            assert record["layers"] == {"silent": [1.0] * layers, "active": [0.0] * layers}
