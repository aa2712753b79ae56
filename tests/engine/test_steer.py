"""Activation vectors: what a layer says on average, taken from one text and added to another."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from espalier.config import decode, encode
from espalier.engine import steer
from espalier.engine.generate import Options, generate
from espalier.engine.sampling import Sampling
from espalier.engine.steer import Vector
from espalier.errors import UserError
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.tree import merge

IDS = [3, 1, 4, 1, 5]
TOKENS = torch.tensor([IDS])


def model(**fields: object) -> GPT:
    sizes = {"n_layer": 3, "n_embd": 8, "n_head": 2, "vocab_size": 6, "block_size": 16}
    tree = sizes | {"init": {"std": 0.3}} | fields
    return make(decode(GPTConfig, merge(encode(GPTConfig()), tree)), seed=0).eval()


def outputs(net: GPT, layer: int) -> Tensor:
    heard: list[Tensor] = []
    with steer.find(net, layer).register_forward_hook(lambda _m, _x, out: heard.append(out)):
        net(TOKENS)
    return heard[0]


def test_a_vector_is_the_mean_over_time() -> None:
    net = model()
    got = steer.listen(net, IDS, 1)
    torch.testing.assert_close(got.values, outputs(net, 1)[0].mean(0))
    assert got.layer == 1


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    vector = Vector(torch.tensor([1.0, -2.0]), 4)
    vector.write(tmp_path / "v.safetensors")
    again = Vector.read(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vector.values)
    assert again.layer == 4


def test_two_subtract(tmp_path: Path) -> None:
    first, second = Vector(torch.tensor([3.0, 5.0]), 1), Vector(torch.tensor([1.0, 7.0]), 1)
    assert (first - second).values.tolist() == [2.0, -2.0]
    for name, vector in (("a", first), ("b", second)):
        vector.write(tmp_path / name)
    found = steer.between([tmp_path / "a", tmp_path / "b"], layer=2)
    assert (found.values.tolist(), found.layer) == ([2.0, -2.0], 2)
    with pytest.raises(UserError, match=r"layer 1 .* layer 2 .*cannot be subtracted"):
        first - Vector(torch.tensor([1.0, 7.0]), 2)


def test_a_layer_says_so_much_more_and_then_no_more() -> None:
    net, vector = model(), Vector(torch.arange(8.0), 1)
    before = outputs(net, 1)
    with steer.push(net, vector, 0.5):
        torch.testing.assert_close(outputs(net, 1), before + 0.5 * torch.arange(8.0))
    assert torch.equal(outputs(net, 1), before)


def test_generation_through_the_cache_is_steered_as_the_full_pass_is() -> None:
    net, vector = model(), Vector(10 * torch.randn(8, generator=torch.manual_seed(0)), 0)
    greedy = Options(6, sampling=Sampling(temperature=0))
    plain = generate(net, 16, [IDS], greedy)[0]
    with steer.push(net, vector, 1.0), torch.no_grad():
        got = generate(net, 16, [IDS], greedy)[0]
        ids = list(IDS)
        for _ in range(6):
            ids.append(int(net(torch.tensor([ids]))[0, -1].argmax()))
    assert got == ids[len(IDS) :]
    assert got != plain


def test_a_source_is_chosen_for_every_row() -> None:
    net = model(steering={"name": "one_hot"}, position="none")
    plain = net(TOKENS)
    with steer.choose(net, 1):
        other = net(TOKENS)
    assert not torch.equal(plain, other)
    assert torch.equal(net(TOKENS), plain)


@pytest.mark.parametrize(
    "stack",
    [{"name": "shared"}, {"name": "feedback", "passes": 2}],
    ids=["shared", "feedback"],
)
def test_a_layer_that_a_pass_runs_twice_is_refused(stack: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"layer 0 runs 2 times in a pass"):
        steer.find(model(stack=stack), 0)


@pytest.mark.parametrize("source", [-1, 2])
@pytest.mark.parametrize("name", ["one_hot", "mlp", "mixture"])
def test_a_source_that_is_not_there_is_refused(name: str, source: int) -> None:
    net = model(steering={"name": name, "sources": 2})
    with pytest.raises(UserError, match=rf"no source {source}: model\.steering has 0 to 1"):
        steer.choose(net, source)


def test_a_vector_is_written_to_a_file_in_a_directory(tmp_path: Path) -> None:
    vector = Vector(torch.zeros(2), 0)
    with pytest.raises(UserError, match="is a directory: name a file"):
        vector.write(tmp_path)


def test_what_cannot_be_steered_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no layer 3: the stack has 0 to 2"):
        steer.find(model(), 3)
    net = model()
    steer.push(net, Vector(torch.zeros(9), 0), 1.0)
    with pytest.raises(UserError, match="9 numbers, the model is 8 wide"):
        net(TOKENS)
    with pytest.raises(UserError, match=r"no model\.steering"):
        steer.choose(model(), 1)
    with pytest.raises(UserError, match="cannot read the vector"):
        Vector.read(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(UserError, match="holds no vector"):
        Vector.read(tmp_path / "junk")
