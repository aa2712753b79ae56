"""WiggleGPT's ckpt.pt, versions 1 and 2: its published formulas say what the logits are."""

import pytest
import torch
from torch import Tensor

from espalier import api, pretrained
from espalier.errors import UserError
from tests.pretrained.formulas import Weights, linear, logits
from tests.pretrained.layouts import ARGS, SETTINGS, adamw_state, nanogpt_tensors

C, H, K, LEVEL = ARGS["n_embd"], 4 * ARGS["n_embd"], 3, 0.4  # 32 = 3 * 11 - 1: one zero is padded
IDS = [3, 17, 0, 28, 5, 5, 11, 2, 9, 14, 1, 7]
BIO = {"use_bio_mlp": True, "bio_compartments": K, "bio_threshold": LEVEL}


def tensors(version: int, bias: bool = True, seed: int = 1) -> dict[str, Tensor]:
    """The original's state dict in its order: a layer's own parameters before its children's."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}

    def put(name: str, *shape: int, mean: float = 0.0) -> None:
        found[name] = mean + 0.3 * torch.randn(shape, generator=generator)

    def linear(name: str, n_out: int, n_in: int) -> None:
        put(f"{name}.weight", n_out, n_in)
        if bias:
            put(f"{name}.bias", n_out)

    def wave(name: str) -> None:
        put(f"{name}.omega", H, mean=1.0)
        put(f"{name}.phi", H)
        put(f"{name}.baseline", H)

    for name, tensor in nanogpt_tensors(bias).items():
        layer, _, rest = name.partition(".mlp.")
        if not rest:
            found[name] = tensor
        if rest != "c_fc.weight":
            continue
        mlp = f"{layer}.mlp"
        if version == 1:
            put(f"{mlp}.dendritic.lateral", K, K)
            for k in range(K):
                linear(f"{mlp}.dendritic.compartments.{k}.0", H, 11)
            linear(f"{mlp}.dendritic.soma", H, 2 * K * H)
            wave(f"{mlp}.dendritic.soma_activation")
        else:
            linear(f"{mlp}.c_fc", H, C)
            wave(f"{mlp}.oscillating")
        linear(f"{mlp}.sparse_gate.gate", H, H)
        linear(f"{mlp}.sparse_gate.transform", H, H)
        wave(f"{mlp}.sparse_gate.activation")
        linear(f"{mlp}.c_proj", C, H)
    return found


def wave(w: Weights, x: Tensor, name: str) -> Tensor:
    angle = w[f"{name}.omega"] * x + w[f"{name}.phi"]
    return torch.sin(angle) * torch.tanh(x) + w[f"{name}.baseline"]


def dendritic(w: Weights, x: Tensor, name: str) -> Tensor:
    padded = torch.cat([x, x.new_zeros(len(x), 11 * K - C)], 1)
    u = [
        torch.tanh(linear(w, padded[:, 11 * k : 11 * k + 11], f"{name}.compartments.{k}.0"))
        for k in range(K)
    ]
    v = [sum(w[f"{name}.lateral"][k, to] * u[k] for k in range(K)) for to in range(K)]
    return wave(w, linear(w, torch.cat([*u, *v], 1), f"{name}.soma"), f"{name}.soma_activation")


def events(w: Weights, x: Tensor, name: str) -> Tensor:
    a = 1 / (1 + torch.exp(-linear(w, x, f"{name}.gate")))
    gate = 1 / (1 + torch.exp(-5 * (a - LEVEL)))
    return wave(w, linear(w, x * gate, f"{name}.transform"), f"{name}.activation")


def neurons(w: Weights, y: Tensor, name: str) -> Tensor:
    if f"{name}.dendritic.lateral" in w:
        y = dendritic(w, y, f"{name}.dendritic")
    else:
        y = wave(w, linear(w, y, f"{name}.c_fc"), f"{name}.oscillating")
    return linear(w, events(w, y, f"{name}.sparse_gate"), f"{name}.c_proj")


def checkpoint(version: int, bias: bool = True) -> dict[str, object]:
    model = tensors(version, bias)
    return {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in model.items()},
        "optimizer": adamw_state(model, 700),
        "model_args": ARGS | {"bias": bias} | BIO,
        "iter_num": 700,
        "best_val_loss": torch.tensor(3.5),
        "config": SETTINGS | BIO,
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_logits_are_what_the_formulas_say(tmp_path, version, bias):
    torch.save(checkpoint(version, bias), tmp_path / "ckpt.pt")
    found = pretrained.read(tmp_path / "ckpt.pt")
    with torch.no_grad():
        got = found.build()(torch.tensor([IDS]))[0]
    want = logits(tensors(version, bias), IDS, neurons)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert found.kind == "wigglegpt"
    assert found.config.block.ffn.name == {1: "wiggle", 2: "sparse_event"}[version]


@pytest.mark.parametrize("version", [1, 2])
def test_moments_and_iteration_come_along(tmp_path, version):
    torch.save(checkpoint(version), tmp_path / "ckpt.pt")
    found = pretrained.read(tmp_path)
    assert (found.step, found.val_loss) == (700, pytest.approx(3.5))
    assert found.moments is not None
    assert set(found.moments.first) == set(found.moments.second) == set(found.weights)
    names = [name for name in tensors(version) if name != "lm_head.weight"]
    decayed = [name for name in names if tensors(version)[name].ndim >= 2]
    if version == 1:  # three compartments are one weight here, each with its own number
        first = decayed.index("transformer.h.1.mlp.dendritic.compartments.0.0.weight")
        ours = found.moments.first["trunk.stack.blocks.1.ffn.up.branches.weight"]
        assert [t.unique().tolist() for t in ours.chunk(K)] == [[first], [first + 1], [first + 2]]
        lateral = found.moments.first["trunk.stack.blocks.0.ffn.up.coupling.weight"]
        assert lateral.unique().tolist() == [decayed.index("transformer.h.0.mlp.dendritic.lateral")]
    omega = found.moments.second["trunk.stack.blocks.0.ffn.event.activation.omega"]
    vectors = [name for name in names if name not in decayed]
    place = vectors.index("transformer.h.0.mlp.sparse_gate.activation.omega")
    assert omega.unique().tolist() == [100 + len(decayed) + place]


def test_training_goes_on_with_its_settings(tmp_path):
    torch.save(checkpoint(1), tmp_path / "ckpt.pt")
    plan = api.adopt(pretrained.read(tmp_path))
    assert plan.model.block.ffn.compartments == K
    assert plan.model.block.ffn.threshold == LEVEL
    assert plan.train.max_iters == SETTINGS["max_iters"]
    assert plan.train.optimizer.decay == ("matrix", "embedding")


def test_with_its_neurons_off_it_is_nanogpt(tmp_path):
    whole = checkpoint(1) | {"model": nanogpt_tensors(), "optimizer": None}
    whole["model_args"] = ARGS | BIO | {"use_bio_mlp": False}
    torch.save(whole, tmp_path / "ckpt.pt")
    found = pretrained.read(tmp_path)
    assert found.config.block.ffn.name == "mlp"
    torch.save(whole | {"model_args": ARGS}, tmp_path / "ckpt.pt")
    plain = pretrained.read(tmp_path).build()
    assert torch.equal(found.build()(torch.tensor([IDS])), plain(torch.tensor([IDS])))


def test_version_three_is_refused(tmp_path):
    whole = checkpoint(2)
    whole["model_args"] = ARGS | BIO | {"use_rmsnorm": True}
    torch.save(whole, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="fork of nanoGPT: model_args has use_rmsnorm"):
        pretrained.read(tmp_path)
