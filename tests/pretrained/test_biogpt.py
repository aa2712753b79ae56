"""BioGPT's biogpt_*.pt: the original's mathematics, written here from its formulas, decides."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier import api, pretrained
from espalier.commands import import_
from espalier.config import encode
from espalier.errors import UserError
from espalier.experiment import Experiment
from espalier.nn.gpt import make
from espalier.nn.slots import unused
from espalier.pretrained import biogpt
from espalier.run import Run
from espalier.train import checkpoint, setup

D, DEPTH, VOCAB, BLOCK = 24, 3, 29, 16
LAYOUT = [[8, 8], [8, 6, 4], [4, 4]]
IDS = [3, 17, 0, 28, 5, 5, 11, 2, 9, 14, 1, 7]
STEP = 40


def tensors(passes: int, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in the original's names, shapes and order; large enough to be far from linear.

    Its own parameters come before those of its parts.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}

    def put(name: str, *shape: int, scale: float = 0.3) -> None:
        found[name] = scale * torch.randn(shape, generator=generator)

    def both(name: str, *shape: int) -> None:
        put(f"{name}.weight", *shape)
        put(f"{name}.bias", shape[0])

    if passes > 1:
        put("pass_weights", passes)
    put("token_emb.weight", VOCAB, D)
    put("pos_emb.weight", BLOCK, D)
    for i, branches in enumerate(LAYOUT):
        layer = f"layers.{i}"
        put(f"{layer}.neuron_weights", len(branches), scale=1.0)
        both(f"{layer}.ln", D)
        for j, n in enumerate(branches):
            neuron, w = f"{layer}.neurons.{j}", D // n
            put(f"{neuron}.nmda_decay", 1, n, 1, w)
            put(f"{neuron}.qkv.weight", 3 * D, D)
            both(f"{neuron}.temporal_conv", D, w, 5)
            both(f"{neuron}.ff_up", 2 * D, w, 1)
            both(f"{neuron}.ff_down", D, 2 * w, 1)
            both(f"{neuron}.branch_norm", D)
            put(f"{neuron}.soma_proj.weight", D, D)
            both(f"{neuron}.ln_soma", D)
            both(f"{neuron}.soma_ffn.0", 3 * D, D)
            both(f"{neuron}.soma_ffn.3", D, 3 * D)
        for j in range(len(branches)):
            put(f"{layer}.neuron_projs.{j}.weight", D, D)
    link = "feedback_connections.fb_2_to_0"
    put(f"{link}.proj.weight", D, D)
    both(f"{link}.gate.0", D, 2 * D)
    both(f"{link}.ln", D)
    both("ln_f", D)
    put("lm_head.weight", VOCAB, D)
    return found


class Original:
    """Logits in float64 from the formulas, token by token and branch by branch."""

    def __init__(self, weights: dict[str, Tensor]):
        self.w = {name: tensor.double() for name, tensor in weights.items()}

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)

    def norm(self, x: Tensor, name: str, groups: int = 1) -> Tensor:
        parts = x.view(len(x), groups, -1)
        centred = parts - parts.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled.reshape(x.shape) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def neuron(self, h: Tensor, name: str, n: int) -> Tensor:
        w, time = D // n, len(h)
        q, k, v = self.linear(h, f"{name}.qkv").split(D, 1)
        a, f = torch.zeros_like(h), torch.zeros_like(h)
        for b in range(n):
            part, wide = slice(b * w, (b + 1) * w), slice(2 * b * w, 2 * (b + 1) * w)
            for t in range(time):
                scores = k[: t + 1, part] @ q[t, part] / math.sqrt(w)
                a[t, part] = scores.softmax(0) @ v[: t + 1, part]
            conv, bias = self.w[f"{name}.temporal_conv.weight"], f"{name}.temporal_conv.bias"
            for t in range(time):
                c = a[t, part] + self.w[bias][part]
                for tap in range(max(0, 4 - t), 5):  # index 4 is the token itself
                    c = c + conv[part, :, tap] @ a[t - 4 + tap, part]
                up = self.w[f"{name}.ff_up.weight"][wide, :, 0] @ c
                up = up + self.w[f"{name}.ff_up.bias"][wide]
                up = up / 2 * (1 + torch.erf(up / math.sqrt(2)))
                f[t, part] = self.w[f"{name}.ff_down.weight"][part, :, 0] @ up
                f[t, part] += self.w[f"{name}.ff_down.bias"][part]
        s = self.linear(self.norm(a + f, f"{name}.branch_norm", n), f"{name}.soma_proj")
        u = self.linear(self.norm(s, f"{name}.ln_soma"), f"{name}.soma_ffn.0")
        u = u / 2 * (1 + torch.erf(u / math.sqrt(2)))
        return s + self.linear(u, f"{name}.soma_ffn.3")

    def layers(self, x: Tensor) -> list[Tensor]:
        said = []
        for i, branches in enumerate(LAYOUT):
            h = self.norm(x, f"layers.{i}.ln")
            shares = self.w[f"layers.{i}.neuron_weights"].softmax(0)
            for j, n in enumerate(branches):
                y = self.neuron(h, f"layers.{i}.neurons.{j}", n)
                x = x + shares[j] * self.linear(y, f"layers.{i}.neuron_projs.{j}")
            said.append(x)
        return said

    def logits(self, ids: list[int]) -> Tensor:
        x = self.w["token_emb.weight"][ids] + self.w["pos_emb.weight"][: len(ids)]
        said = self.layers(x)
        y = said[-1]
        if "pass_weights" in self.w:
            link = "feedback_connections.fb_2_to_0"
            f = self.linear(said[2], f"{link}.proj")
            gate = self.linear(torch.cat([x, f], 1), f"{link}.gate.0").sigmoid()
            again = self.layers(x + gate * self.norm(f, f"{link}.ln"))[-1]
            one, two = self.w["pass_weights"].softmax(0)
            y = one * y + two * again
        return self.linear(self.norm(y, "ln_f"), "lm_head")


def checkpoint_of(passes: int, **changes: Any) -> dict[str, Any]:
    """What the original saves after `STEP` updates; entry i of its AdamW is filled with i."""
    weights = tensors(passes)
    idle = ("nmda_decay",) if passes > 1 else ("nmda_decay", "feedback_connections")
    state = {
        i: {
            "step": torch.tensor(float(STEP)),
            "exp_avg": torch.full_like(tensor, i),
            "exp_avg_sq": torch.full_like(tensor, 100 + i),
        }
        for i, (name, tensor) in enumerate(weights.items())
        if not any(word in name for word in idle)
    }
    config = {
        "vocab_size": VOCAB,
        "d_model": D,
        "n_layers": DEPTH,
        "soma_ffn_expansion": 3.0,
        "dropout": 0.0,
        "nmda_tau": 0.9,
        "max_seq_len": BLOCK,
        "n_passes": passes,
        "cortical_layout": None,
        "feedback_pairs": None,
        "use_checkpoint": True,
    }
    return {
        "step": STEP - 1,  # the update before the evaluation is number STEP - 1, from 0
        "model_state_dict": weights,
        "optimizer_state_dict": {"state": state, "param_groups": [{"lr": 6e-4}]},
        "val_loss": 2.5,
        "config": config | changes,
        "tokens_processed": STEP * 32 * BLOCK,
    }


def saved(folder: Path, passes: int, **changes: Any) -> Path:
    file = folder / "biogpt_latest.pt"
    torch.save(checkpoint_of(passes, **changes), file)
    return file


@pytest.mark.parametrize("passes", [1, 2])
def test_logits_are_what_the_formulas_say(tmp_path: Path, passes: int) -> None:
    found = pretrained.read(saved(tmp_path, passes))
    with torch.no_grad():
        logits = found.build()(torch.tensor([IDS]))[0]
    want = Original(tensors(passes)).logits(IDS)
    torch.testing.assert_close(logits.double(), want, atol=1e-5, rtol=1e-5)


def test_a_layout_in_the_file_stands_above_the_rule(tmp_path: Path) -> None:
    given = {"cortical_layout": LAYOUT, "feedback_pairs": [[2, 0]]}
    found, plain = pretrained.read(saved(tmp_path, 2, **given)), checkpoint_of(2)
    with torch.no_grad():
        want = biogpt.interpret(plain, tmp_path).build()(torch.tensor([IDS]))
        assert torch.equal(found.build()(torch.tensor([IDS])), want)


@pytest.mark.parametrize("passes", [1, 2])
def test_moments_stand_where_their_parameters_do(tmp_path: Path, passes: int) -> None:
    found = pretrained.read(saved(tmp_path, passes))
    assert found.moments is not None
    assert (found.step, found.moments.step, found.val_loss) == (STEP, STEP, 2.5)
    model = found.build()
    trained = {name for name, _ in model.named_parameters()} - set(unused(model))
    assert set(found.moments.first) == set(found.moments.second) == trained
    order = list(tensors(passes))
    number = order.index("layers.1.neurons.2.soma_ffn.3.bias")
    ours = "trunk.stack.blocks.1.neurons.2.soma.down.bias"
    assert found.moments.first[ours].unique().tolist() == [number]
    assert found.moments.second[ours].unique().tolist() == [100 + number]


def test_training_goes_on_with_the_originals_next_update(tmp_path: Path) -> None:
    """One update after the import equals torch's AdamW with the original's own state."""
    foreign = pretrained.read(saved(tmp_path, 1))
    plan = api.adopt(foreign)
    run = import_.save(foreign, plan, {"kind": "byte"}, tmp_path / "run", None)
    folder = run.latest()
    assert folder is not None
    ours, theirs = foreign.build().train(), foreign.build().train()
    stepper = setup.stepper(ours, foreign.config, plan.train, 4, "cpu")
    checkpoint.load_optimizer(stepper.optimizer, folder)
    idle = set(unused(theirs))
    named = {n: p for n, p in theirs.named_parameters() if n not in idle}
    assert foreign.moments is not None
    reference = torch.optim.AdamW(named.values(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    for name, p in named.items():
        reference.state[p] = {
            "step": torch.tensor(float(STEP)),
            "exp_avg": foreign.moments.first[name].clone(),
            "exp_avg_sq": foreign.moments.second[name].clone(),
        }
    ids = torch.tensor([IDS])
    for model in (ours, theirs):
        model(ids).square().mean().backward()
    reference.step()
    stepper.optimizer.step(3e-4, torch.ones(()), torch.zeros(()))
    for name, p in named.items():
        torch.testing.assert_close(ours.get_parameter(name), p, atol=1e-6, rtol=1e-5)


def test_the_run_has_the_published_settings_and_the_iteration(tmp_path: Path) -> None:
    foreign = pretrained.read(saved(tmp_path, 1))
    plan = api.adopt(foreign)
    run = import_.save(foreign, plan, {"kind": "byte"}, tmp_path / "run", None)
    assert (plan.data.batch_size, plan.train.gradient_accumulation_steps) == (4, 8)
    assert encode(plan)["train"]["optimizer"]["decay"] == ["matrix", "embedding", "vector"]
    assert Run.open(run.path).latest() == run.checkpoint(STEP)
    fresh = make(Experiment(model=foreign.config).model, 0)
    checkpoint.load_model(fresh, run.checkpoint(STEP))
    ids = torch.tensor([IDS])
    assert torch.equal(fresh.eval()(ids), foreign.build()(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_passes": 3}, "n_passes=3.*only files of one and two passes"),
        ({"d_model": "wide"}, "config lacks d_model"),
        ({"d_model": 48}, r"token_emb.weight is \[29, 24\]"),
        ({"n_passes": 2}, "missing: pass_weights"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = saved(tmp_path, 1, **changes)
    with pytest.raises(UserError, match=message):
        pretrained.read(file)


def test_tensors_go_back_as_they_came(tmp_path: Path) -> None:
    from espalier.pretrained.table import to_theirs

    found = pretrained.read(saved(tmp_path, 1))
    rows = biogpt.table(found.config, [(2, 0)])
    back = to_theirs(found.weights, rows, found.config)
    want = tensors(1)
    assert back.keys() == want.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in want.items())
