"""What nanochat's first GPT has that others have not."""

import torch

from espalier.config import decode
from espalier.experiment import load
from espalier.nn.embed.normed import NormedConfig
from espalier.nn.position.rotary import Rotary
from espalier.nn.slots import Dims
from espalier.nn.state import at
from espalier.train.schedule.step import StepConfig
from espalier.train.slots import Span

DIMS = Dims(n_layer=1, n_embd=2, n_head=1, block_size=4, vocab_size=3)


def test_an_embedding_is_normed_and_its_logits_are_not() -> None:
    """The mean square of (3, 4) is 12.5."""
    part = decode(NormedConfig, {"norm": {"name": "rms", "gain": False, "eps": 1e-12}}).build(DIMS)
    with torch.no_grad():
        part.get_parameter("weight").copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]]))
    ids = torch.tensor([[0]])
    wanted = torch.tensor([[[3.0, 4.0]]]) / 12.5**0.5
    torch.testing.assert_close(part(ids, at(ids)), wanted)
    torch.testing.assert_close(part.logits(torch.tensor([1.0, 1.0])), torch.tensor([7.0, 1.0, 1.0]))


def test_tables_of_a_rotation_may_be_rounded() -> None:
    """cos 1 = 0.5403 lies between 0.5390625 and 0.54296875, neighbours in bfloat16."""
    exact, rounded = (
        Rotary(2, 1.0, 10000.0, 1, precision).table(torch.tensor([[1]]), 2)
        for precision in (torch.float32, torch.bfloat16)
    )
    torch.testing.assert_close(exact[0].item(), 0.5403023, rtol=1e-6, atol=0)
    assert rounded[0].item() == 0.5390625
    assert rounded[0].dtype == torch.float32


def test_stairs_may_come_every_so_many_updates_after_the_warm_up() -> None:
    schedule, span = StepConfig(every=2000, factor=0.1), Span(1.0, 0.0, 100, 5000)
    rates = [schedule.rate(step, span) for step in (100, 2099, 2100, 4099, 4100)]
    torch.testing.assert_close(rates, [1.0, 1.0, 0.1, 0.1, 0.01])


def test_heads_of_the_recipe_are_128_wide() -> None:
    model = load("nanochat-d20").model
    assert model.n_embd // model.n_head == 128
    assert load("nanochat-d20", ["model.position.tables=bfloat16"]).model.position.name == "rotary"
