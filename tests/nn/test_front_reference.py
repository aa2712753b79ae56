"""DeepEncoder against `transformers`: the same architecture, the same numbers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier import initial
from espalier.errors import UserError
from espalier.nn.front.deep_encoder import ClipConfig, DeepEncoder, DeepEncoderConfig, SamConfig
from espalier.nn.slots import Dims, reset
from espalier.nn.state import Image, at
from espalier.pretrained import deepseek_ocr

transformers = pytest.importorskip("transformers")

DIMS = Dims(n_layer=1, n_embd=32, n_head=4, block_size=8, vocab_size=50)
NOW = at(torch.zeros(1, 1, dtype=torch.long))
SIZES = {
    "sam": {
        "hidden_size": 24,
        "output_channels": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 128,
        "patch_size": 16,
        "window_size": 3,
        "global_attn_indexes": [1],
        "mlp_dim": 96,
    },
    "clip": {
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    },
}
# Our names -> those of transformers' UnlimitedOcr, DeepSeek-OCR's encoder with other names.
NAMES = (
    (r"^sam_model\.", "vision_tower.sam_encoder."),
    (r"^vision_model\.", "vision_tower.vision_encoder."),
    (r"^projector\.layers\.", "multi_modal_projector."),
    (r"\.transformer\.", ".encoder."),
    (r"\.blocks\.(\d+)\.norm([12])\.", r".layers.\1.layer_norm\2."),
    (r"\.blocks\.", ".layers."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.net_2\.", ".proj.conv1."),
    (r"\.net_3\.", ".proj.conv2."),
)


def encoder(seed: int = 0) -> DeepEncoder:
    sam = SamConfig(side=128, width=24, depth=3, heads=3, window=3, whole=(1,), neck=8, between=12)
    clip = ClipConfig(width=16, depth=2, heads=2, hidden=40, grid=2)
    built = DeepEncoderConfig(sam=sam, clip=clip).build(DIMS)
    assert isinstance(built, DeepEncoder)
    reset(built, seed)
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(torch.randn(p.shape, generator=noise) * 0.2)
    return built.eval()


def unlimited(ours: DeepEncoder) -> Any:
    """The reference with our weights."""
    module = pytest.importorskip("transformers.models.unlimited_ocr")
    text = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 8,
    }
    sam = SIZES["sam"] | {"downsample_channels": [12, 16]}
    config = module.UnlimitedOcrConfig(
        text_config=text, vision_config={"sam_config": sam, "encoder_config": SIZES["clip"]}
    )
    model = module.UnlimitedOcrModel(config).eval()
    missing, spare = model.load_state_dict(_theirs(ours.state_dict()), strict=False)
    assert not spare
    assert all(n.startswith("language_model.") or n.endswith("position_ids") for n in missing)
    return model


def _theirs(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, tensor in ours.items():
        if key == "vision_model.embeddings.patch_embedding.weight":
            continue
        name = key
        for pattern, theirs in NAMES:
            name = re.sub(pattern, theirs, name)
        if "qkv_proj" in name:
            for one, part in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("qkv_proj", f"{one}_proj")] = part
        else:
            found[name] = tensor
    return found


def picture(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("side", [64, 128, 208])
def test_features_equal_the_reference_below_at_and_above_the_tables_of_positions(side: int) -> None:
    ours = encoder()
    pixels = picture(0, 2, 3, side, side)
    want = unlimited(ours).get_image_features(pixels).pooler_output
    got = ours([(one, None) for one in pixels], NOW)
    torch.testing.assert_close(got, torch.cat(list(want)), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_tiles_of_three_columns_and_two_rows_equal_the_reference() -> None:
    ours = encoder()
    whole, tiles = picture(0, 3, 128, 128), picture(1, 2, 3, 3, 64, 64)
    image: Image = (whole, tiles)
    want = unlimited(ours).get_image_features(
        whole[None], tiles.flatten(0, 1), num_local_patches=[6], patches_grid=[[3, 2]]
    )
    got = ours([image], NOW)
    torch.testing.assert_close(got, want.pooler_output[0], atol=2e-5, rtol=1e-4)


def sam() -> Any:
    config = transformers.SamVisionConfig(**SIZES["sam"])
    return _shaken(transformers.SamVisionModel(config))


def clip() -> Any:
    config = transformers.CLIPVisionConfig(**SIZES["clip"])
    return _shaken(transformers.CLIPVisionModel(config))


def _shaken(model: Any) -> Any:
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=noise) * 0.2)
    return model.eval()


@torch.no_grad()
def test_a_sam_of_transformers_lends_its_weights_and_gives_the_same_map() -> None:
    ours, theirs = encoder(), sam()
    found = deepseek_ocr.from_parts(theirs.state_dict(), clip().state_dict(), ours, "here")
    _, spare = ours.load_state_dict(found, strict=False)
    assert not spare
    pixels = picture(0, 2, 3, 128, 128)
    want = theirs(pixels).last_hidden_state
    x = ours.sam_model.patch_embed(pixels, NOW).movedim(1, -1) + ours.sam_model.pos_embed
    for block in ours.sam_model.blocks:
        x = block(x, NOW)
    x = x.movedim(-1, 1)
    for part in ours.sam_model.neck:
        x = part(x, NOW)
    torch.testing.assert_close(x, want, atol=2e-5, rtol=1e-4)


def test_a_training_starts_from_a_sam_and_a_clip_on_disk(tmp_path: Path) -> None:
    ours, fresh = encoder(), encoder()
    sam().save_pretrained(tmp_path / "sam")
    clip().save_pretrained(tmp_path / "clip")
    initial.fill_front(ours, f"{tmp_path / 'sam'}+{tmp_path / 'clip'}")
    lent = deepseek_ocr.from_parts(sam().state_dict(), clip().state_dict(), fresh, "here")
    own = fresh.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, lent.get(name, own[name])), name
    assert not torch.equal(ours.sam_model.pos_embed, fresh.sam_model.pos_embed)


@torch.no_grad()
def test_a_clip_of_transformers_fed_with_its_own_patches_gives_the_same_vectors() -> None:
    ours, theirs = encoder(), clip()
    found = deepseek_ocr.from_parts(sam().state_dict(), theirs.state_dict(), ours, "here")
    ours.load_state_dict(found, strict=False)
    pixels = picture(0, 2, 3, 28, 28)
    want = theirs(pixels).last_hidden_state[:, 1:]
    patches = ours.vision_model.embeddings.patch_embedding(pixels, NOW)
    got = ours.vision_model(patches, NOW)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_official_names_go_there_and_back() -> None:
    ours = encoder()
    theirs = deepseek_ocr.to_theirs(ours)
    assert "model.view_seperator" in theirs
    assert "model.sam_model.blocks.0.attn.rel_pos_h" in theirs
    assert "model.vision_model.transformer.layers.1.self_attn.qkv_proj.weight" in theirs
    assert "model.projector.layers.bias" in theirs
    file = theirs | {
        "model.vision_model.embeddings.position_ids": torch.arange(5)[None],
        "model.embed_tokens.weight": torch.zeros(2, 2),
        "lm_head.weight": torch.zeros(2, 2),
    }
    back = deepseek_ocr.to_ours(file, ours, "here")
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.items())


def test_the_encoder_file_of_the_original_lacks_the_prefix() -> None:
    ours = encoder()
    bare = {k.removeprefix("model."): t for k, t in deepseek_ocr.to_theirs(ours).items()}
    assert deepseek_ocr.to_ours(bare, ours, "here").keys() == ours.state_dict().keys()


def test_a_file_that_does_not_fit_is_refused_by_name() -> None:
    ours = encoder()
    good = deepseek_ocr.to_theirs(ours)
    lacking = {k: t for k, t in good.items() if k != "model.image_newline"}
    with pytest.raises(UserError, match=r"here: 1 tensors of the encoder missing.*image_newline"):
        deepseek_ocr.to_ours(lacking, ours, "here")
    with pytest.raises(UserError, match=r"1 tensors are not the encoder's.*sam_model\.spare"):
        deepseek_ocr.to_ours(good | {"model.sam_model.spare": torch.ones(1)}, ours, "here")
    with pytest.raises(UserError, match=r"image_newline is \[3\], the configuration says \[32\]"):
        deepseek_ocr.to_ours(good | {"model.image_newline": torch.ones(3)}, ours, "here")
    broken = torch.full((32,), float("nan"))
    with pytest.raises(UserError, match=r"image_newline holds NaN"):
        deepseek_ocr.to_ours(good | {"model.image_newline": broken}, ours, "here")


def test_the_encoder_has_as_many_tensors_as_the_official_file() -> None:
    """477 in the official file, of which one is the buffer of CLIP's position numbers."""
    with torch.device("meta"):
        whole = DeepEncoderConfig().build(DIMS)
    assert len(whole.state_dict()) == 476
