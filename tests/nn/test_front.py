"""The front: images placed among tokens, and DeepSeek-OCR's encoder against known counts."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import decode
from espalier.errors import ConfigError
from espalier.nn.front.deep_encoder import DeepEncoder, DeepEncoderConfig
from espalier.nn.gpt import GPT, GPTConfig, make, sketch
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import Dims, reset, unused
from espalier.nn.state import Image, Pass, allocate, at, seeing
from espalier.nn.vision.layers import resized
from espalier.nn.vision.sam import SamLayer, SpatialAttention, between

WIDE = Dims(n_layer=1, n_embd=1280, n_head=10, block_size=8, vocab_size=8)
SMALL = {
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 4,
    "block_size": 32,
    "vocab_size": 50,
    "front": {"name": "deep_encoder", **DeepEncoderConfig.small},
}
IDS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(1))


def tiny() -> GPT:
    """Config D's encoder: a 128-pixel square is 2 x (2 + 1) + 1 = 7 features."""
    model = make(decode(GPTConfig, SMALL), 0).eval()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=noise) * 0.1)
    return model


def front(model: GPT) -> DeepEncoder:
    assert isinstance(model.trunk.front, DeepEncoder)
    return model.trunk.front


def picture(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def page(seed: int) -> Image:
    return picture(seed, 3, 128, 128), None


def slots(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def published() -> DeepEncoder:
    with torch.device("meta"):
        encoder = DeepEncoderConfig().build(WIDE)
    assert isinstance(encoder, DeepEncoder)
    return encoder


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_the_published_sizes_have_the_published_counts() -> None:
    encoder = published()
    assert count(encoder.sam_model) == 95_569_152
    assert count(encoder.vision_model) == 303_177_728
    assert count(encoder.projector) == 2_622_720
    assert count(encoder) == 401_372_160


def test_only_clips_own_patches_are_never_read() -> None:
    encoder = published()
    idle = unused(encoder)
    assert idle == ["vision_model.embeddings.patch_embedding.weight"]
    assert encoder.get_parameter(idle[0]).numel() == 602_112
    assert not encoder.get_parameter(idle[0]).requires_grad


@pytest.mark.parametrize(("side", "tokens"), [(512, 73), (640, 111), (1024, 273), (1280, 421)])
def test_a_whole_image_takes_as_many_tokens_as_published(side: int, tokens: int) -> None:
    image = torch.empty(3, side, side, device="meta")
    ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    with torch.no_grad():
        assert published()([(image, None)], at(ids)).shape == (tokens, 1280)


def test_gundam_with_two_rows_and_three_columns_takes_893_tokens() -> None:
    whole = torch.empty(3, 1024, 1024, device="meta")
    tiles = torch.empty(2, 3, 3, 640, 640, device="meta")
    ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    with torch.no_grad():
        assert published()([(whole, tiles)], at(ids)).shape == (893, 1280)


@torch.no_grad()
def test_features_stand_in_rows_with_newlines_tiles_first_and_a_separator_last() -> None:
    encoder, now = front(tiny()), at(IDS)
    whole, tiles = picture(0, 3, 128, 128), picture(1, 1, 2, 3, 64, 64)
    got = encoder([(whole, tiles)], now)
    left, right = (encoder.encode(tiles[0, i][None], now)[0] for i in range(2))
    square = encoder.encode(whole[None], now)[0]
    newline = encoder.image_newline[None]
    assert left.shape == (1, 1, 32)
    want = torch.cat(
        [
            *(left[0], right[0], newline),
            *(square[0], newline, square[1], newline),
            encoder.view_separator[None],
        ]
    )
    torch.testing.assert_close(got, want)


@torch.no_grad()
def test_images_of_different_sizes_give_what_each_gives_alone() -> None:
    encoder, now = front(tiny()), at(IDS)
    images: list[Image] = [
        page(0),
        (picture(1, 3, 192, 192), None),
        (picture(2, 3, 128, 128), picture(3, 2, 1, 3, 64, 64)),
    ]
    alone = torch.cat([encoder([image], now) for image in images])
    torch.testing.assert_close(encoder(images, now), alone)


@torch.no_grad()
def test_features_replace_tokens_exactly_where_slots_say() -> None:
    model = tiny()
    seen: list[Tensor] = []
    model.trunk.stack.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    where = slots([-1, 0, 1, 2, 3, 4, 5, 6, -1, -1, -1, -1], [-1] * 11 + [6])
    model(IDS, seeing(at(IDS), [page(0)], where))
    model(IDS)
    features = front(model)([page(0)], at(IDS))
    position = model.trunk.position.get_parameter("weight")[:12]
    torch.testing.assert_close(seen[0][0, 1:8], features + position[1:8])
    torch.testing.assert_close(seen[0][1, 11], features[6] + position[11])
    changed = (seen[0] != seen[1]).any(-1)
    assert torch.equal(changed, where >= 0)


@torch.no_grad()
def test_a_mixed_batch_gives_every_row_what_it_gives_alone() -> None:
    model = tiny()
    ids = torch.cat([IDS, IDS[:1] + 0])
    image = [-1, 0, 1, 2, 3, 4, 5, 6, -1, -1, -1, -1]
    other = [-1, -1] + [7 + i for i in range(7)] + [-1] * 3
    got = model(ids, seeing(at(ids), [page(0), page(1)], slots(image, [-1] * 12, other)))
    first = model(ids[:1], seeing(at(ids[:1]), [page(0)], slots(image)))
    third = model(ids[2:], seeing(at(ids[2:]), [page(1)], slots([max(s - 7, -1) for s in other])))
    torch.testing.assert_close(
        got, torch.cat([first, model(ids[1:2]), third]), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_what_stands_as_token_under_a_feature_changes_nothing() -> None:
    model, where = tiny(), slots([-1, 0, 1, 2, 3, 4, 5, 6, -1, -1, -1, -1])
    ids = IDS[:1]
    other = torch.where(where >= 0, 9, ids)
    got = [model(x, seeing(at(x), [page(0)], where)) for x in (ids, other)]
    assert torch.equal(*got)


@torch.no_grad()
def test_after_a_prefill_with_an_image_single_tokens_give_the_full_pass() -> None:
    model, where = tiny(), slots([-1, 0, 1, 2, 3, 4, 5, 6, -1, -1, -1, -1])
    ids = IDS[:1]
    full = model(ids, seeing(at(ids), [page(0)], where))
    states = allocate(model, 1, 32, "cpu")
    now = Pass(torch.arange(9)[None], states, 32)
    out = [model(ids[:, :9], seeing(now, [page(0)], where[:, :9]))]
    for i in range(9, 12):
        step = Pass(torch.full((1, 1), i), states, 32, fresh=False)
        out.append(model(ids[:, i : i + 1], step))
    torch.testing.assert_close(torch.cat(out, 1), full, atol=1e-5, rtol=1e-4)


def loss(model: GPT, now: Pass) -> Tensor:
    where = slots([-1, 0, 1, 2, 3, 4, 5, 6, -1, -1, -1, -1], [-1] * 12)
    logits = model(IDS, seeing(now, [page(0)], where))
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


def test_every_parameter_that_is_read_learns_from_an_image() -> None:
    model = tiny().train()
    loss(model, at(IDS)).backward()  # type: ignore[no-untyped-call]
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == unused(model)


def test_recomputing_the_encoder_changes_no_gradient() -> None:
    grads = []
    for again in (False, True):
        model = tiny().train()
        loss(model, at(IDS, checkpoint=again)).backward()  # type: ignore[no-untyped-call]
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_rough_numbers_stay_near_the_exact_ones() -> None:
    model = make(decode(GPTConfig, SMALL), 0).eval()
    exact = front(model)([page(0)], at(IDS))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = front(model)([page(0)], at(IDS)).float()
    rough = front(model.bfloat16())([page(0)], at(IDS)).float()
    for got in (mixed, rough):
        assert (got - exact).abs().max() < 0.05 * exact.abs().max()


def test_it_learns_to_tell_two_images_apart() -> None:
    """One text, two images, two answers: without the image no loss is below log 2."""
    model = make(decode(GPTConfig, SMALL), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.zeros(2, 8, dtype=torch.long)
    where = slots([*range(7), -1], [*range(7, 14), -1])
    answers = torch.tensor([3, 4])
    for _ in range(40):
        logits = model(ids, seeing(at(ids), [page(0), page(1)], where))[:, -1]
        loss = F.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.3


def test_a_model_without_a_front_has_the_tensors_it_had() -> None:
    plain = decode(GPTConfig, {k: v for k, v in SMALL.items() if k != "front"})
    keys = list(sketch(plain).state_dict())
    seeing_keys = list(sketch(decode(GPTConfig, SMALL)).state_dict())
    assert keys == [key for key in seeing_keys if not key.startswith("trunk.front.")]
    ours, theirs = make(plain, 3).state_dict(), make(plain, 3).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in keys)


def test_a_window_sees_the_zeros_that_fill_it_up() -> None:
    """Four positions in windows of 3: the last is alone with 8 zeros, whose values are the bias."""
    layer = SamLayer(2, 1, 3, 4)
    reset(layer, 0)
    qkv = layer.attn.qkv
    assert isinstance(qkv, Dense)
    assert qkv.bias is not None
    with torch.no_grad():
        qkv.weight.zero_()
        qkv.weight[4:] = torch.eye(2)  # values are the inputs, and all scores are equal
        qkv.bias.copy_(torch.tensor([0, 0, 0, 0, 1.0, 1.0]))
        assert isinstance(layer.attn.proj, Dense)
        layer.attn.proj.weight.copy_(torch.eye(2))
        layer.attn.proj.bias.zero_()  # type: ignore[union-attr]
        x = torch.zeros(1, 4, 4, 2)
        x[0, 3, 3] = torch.tensor([9.0, 18.0])
        got = layer.attended(x, at(IDS))
    torch.testing.assert_close(got[0, 3, 3], torch.tensor([1 + 9 / 9, 1 + 18 / 9]))
    torch.testing.assert_close(got[0, 0, 0], torch.tensor([1.0, 1.0]))


def test_relative_positions_are_query_minus_key() -> None:
    table = torch.arange(5.0)[:, None]  # offsets -2, -1, 0, 1, 2
    assert between(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_a_table_of_another_size_is_interpolated_linearly() -> None:
    table = torch.tensor([[0.0], [3.0], [6.0]])
    got = between(table, 1)[0, 0, 0]  # one offset out of three: the middle
    assert got == 3.0
    # 3 -> 5 points at (i + 0.5) * 3 / 5 - 0.5 = -0.2, 0.4, 1, 1.6, 2.2, clamped to [0, 2]
    wide = between(table, 3)[..., 0]
    torch.testing.assert_close(wide[:, 0], torch.tensor([3.0, 4.8, 6.0]))
    torch.testing.assert_close(wide[0], torch.tensor([3.0, 1.2, 0.0]))


@torch.no_grad()
def test_relative_positions_add_to_scores_with_the_query_unscaled() -> None:
    """One head, width 4, two columns; equal keys: the score difference is q (Rw[0] - Rw[-1])."""
    part = SpatialAttention(4, 1, 2)
    reset(part, 0)
    for linear in (part.qkv, part.proj):
        assert isinstance(linear, Dense)
        linear.weight.zero_()
        assert linear.bias is not None
        linear.bias.zero_()
    part.qkv.weight[8:] = torch.eye(4)  # type: ignore[index,operator]
    part.qkv.bias[:4] = 1.0  # type: ignore[index,operator]
    part.proj.weight.copy_(torch.eye(4))  # type: ignore[operator,union-attr]
    part.rel_pos_w[1] = 0.25  # same column: 4 x 1 x 0.25 = 1 more than the other
    x = torch.zeros(1, 1, 2, 4)
    x[0, 0, 0, 0] = 1.0
    part.rel_pos_h.zero_()
    got = part(x, at(IDS))[0, 0, :, 0]
    share = math.e / (math.e + 1)
    torch.testing.assert_close(got, torch.tensor([share, 1 - share]))


def test_positions_of_the_same_size_are_taken_as_they_are() -> None:
    table = picture(0, 4, 4, 2)
    assert torch.equal(resized(table, 4), table)
    assert resized(torch.ones(4, 4, 2), 6).allclose(torch.ones(6, 6, 2))


@pytest.mark.parametrize(
    ("sam", "said"),
    [
        ({"heads": 5}, r"front\.sam\.heads=5 must divide front\.sam\.width=768"),
        ({"side": 100}, r"front\.sam\.side=100 must be a multiple of front\.sam\.patch=16"),
        ({"whole": [12]}, r"front\.sam\.whole: no layer 12, sam\.depth=12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(sam: dict[str, object], said: str) -> None:
    config = decode(DeepEncoderConfig, {"sam": sam})
    with pytest.raises(ConfigError, match=said):
        config.build(WIDE)
