"""Models of nano-deepseek-ocr: their encoder, their GPT, their tokenizer; heads never guessed."""

import json
import pickle
from pathlib import Path

import pytest
import tiktoken
import torch
from safetensors.torch import save_file
from torch import Tensor

from espalier import api, initial, pretrained
from espalier.commands.import_ import import_
from espalier.config import decode
from espalier.data.tokenizer import choose
from espalier.errors import UserError
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.sight import Sight, look
from espalier.nn.state import Pass
from espalier.pretrained import deepseek_ocr, hub, nanochat
from espalier.train.settings import TrainConfig

PATTERN = r"\w+|\W+"
SPECIAL = {"<|bos|>": 256, "<|user_start|>": 257}
SHAPE = {
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 2,
    "block_size": 64,
    "vocab_size": 259,  # of the tokenizer, and <|image|>
    "bias": False,
    "embed": {"name": "normed", "norm": {"name": "rms", "gain": False}},
    "position": "rotary",
    "block": {
        "name": "prenorm",
        "norm": {"name": "rms", "gain": False},
        "ffn": {"name": "mlp", "activation": "relu2"},
    },
    "head": {"name": "untied", "softcap": 15.0},
    "front": {"name": "deep_encoder", **DeepEncoderConfig.small},
}
NAMES = (
    ("trunk.stack.blocks.", "gpt.transformer.h."),
    (".attention.out.", ".attn.c_proj."),
    (".ffn.up.", ".mlp.c_fc."),
    (".ffn.down.", ".mlp.c_proj."),
    ("trunk.embed.", "gpt.transformer.wte."),
    ("head.", "gpt.lm_head."),
)


def model() -> GPT:
    net = make(decode(GPTConfig, SHAPE), 1)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    return net.eval()


def encoder(net: GPT) -> dict[str, Tensor]:
    """The encoder's tensors as nano-deepseek-ocr saves them."""
    assert net.trunk.front is not None
    found = deepseek_ocr.to_theirs(net.trunk.front)
    buffer = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    return {name.removeprefix("model."): t for name, t in found.items()} | buffer


def whole(net: GPT) -> dict[str, Tensor]:
    """All of step_N.pt."""
    found = encoder(net)
    for ours, tensor in net.state_dict().items():
        if ours.startswith("trunk.front."):
            continue
        name = ours
        for mine, theirs in NAMES:
            name = name.replace(mine, theirs)
        if ".attention.qkv." in name:
            for one, part in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace(".attention.qkv.", f".attn.c_{one}.")] = part.clone()
        else:
            found[name] = tensor
    return found


def pickled(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ranks = {bytes([i]): i for i in range(256)}
    made = tiktoken.Encoding(
        "rustbpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIAL
    )
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(made))
    return folder / "tokenizer.pkl"


def test_heads_must_be_given(tmp_path: Path) -> None:
    torch.save(whole(model()), tmp_path / "step_300.pt")
    with pytest.raises(UserError, match=r"step_300\.pt does not say how many heads .* --n-head"):
        pretrained.read(tmp_path / "step_300.pt")


def test_a_whole_model_is_its_encoder_and_its_gpt(tmp_path: Path) -> None:
    net = model()
    torch.save(whole(net), tmp_path / "step_300.pt")
    found = pretrained.read(tmp_path / "step_300.pt", n_head=2)
    assert (found.kind, found.step, found.config.n_head) == ("deepseek_ocr", 300, 2)
    theirs = {nanochat.renamed(n[4:]): t for n, t in whole(net).items() if n.startswith("gpt.")}
    shape = nanochat.shaped(nanochat.shapes(theirs, tmp_path) | {"n_head": 2}, tmp_path)
    text = nanochat.interpret(theirs, shape, tmp_path)
    for name, tensor in text.weights.items():
        assert torch.equal(found.weights[name], tensor), name
    for name, tensor in net.state_dict().items():
        if name.startswith("trunk.front."):
            assert torch.equal(found.weights[name], tensor), name


def test_what_is_imported_sees_normed_features(tmp_path: Path) -> None:
    """As its GPT norms them with its embeddings: the projector's scale does not matter."""
    net = model()
    page = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(3)) * 2 - 1
    ids = torch.randint(256, (1, 12), generator=torch.Generator().manual_seed(4))
    slots = torch.tensor([[-1, *range(7), -1, -1, -1, -1]])
    sight = Sight([[(page, None)]], slots, torch.arange(12)[None])
    logits = []
    for scale in (1.0, 50.0):
        held = whole(net)
        for name in ("projector.layers.weight", "projector.layers.bias", "image_newline"):
            held[name] = held[name] * scale
        held["view_seperator"] = held["view_seperator"] * scale
        torch.save(held, tmp_path / "step_1.pt")
        built = pretrained.read(tmp_path / "step_1.pt", n_head=2).build()
        now = look(Pass(sight.positions), built.trunk.front, sight)
        with torch.no_grad():
            logits.append(built(ids, now))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=1e-3)


def test_an_encoder_alone_is_a_start_not_a_model(tmp_path: Path) -> None:
    net, other = model(), make(decode(GPTConfig, SHAPE), 9)
    file = tmp_path / "deepencoder_300.pt"
    torch.save(encoder(net), file)
    with pytest.raises(UserError, match=r"an encoder of images alone; .* train\.init_front="):
        pretrained.read(file, n_head=2)
    assert net.trunk.front is not None
    assert other.trunk.front is not None
    found = deepseek_ocr.read(file, other.trunk.front)
    assert all(torch.equal(found[n], t) for n, t in net.trunk.front.state_dict().items())


def test_of_the_published_directory_nothing_but_the_encoder_is_read(tmp_path: Path) -> None:
    """Shards, an index, and a language model that has no place here."""
    net, other = model(), make(decode(GPTConfig, SHAPE), 9)
    assert net.trunk.front is not None
    assert other.trunk.front is not None
    theirs = deepseek_ocr.to_theirs(net.trunk.front)
    names = sorted(theirs)
    halves = [{n: theirs[n] for n in names[::2]}, {n: theirs[n] for n in names[1::2]}]
    halves[1] |= {"model.norm.weight": torch.ones(3), "lm_head.weight": torch.ones(2, 3)}
    index: dict[str, str] = {}
    for i, half in enumerate(halves):
        save_file(half, tmp_path / f"model-{i}.safetensors")
        index |= dict.fromkeys(half, f"model-{i}.safetensors")
    place = tmp_path / "model.safetensors.index.json"
    place.write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_vl_v2"}')
    initial.fill(other, decode(TrainConfig, {"init_front": str(tmp_path)}))
    mine = other.trunk.front.state_dict()
    assert all(torch.equal(mine[n], t) for n, t in net.trunk.front.state_dict().items())


def test_a_pickled_tokenizer_is_read_for_its_numbers(tmp_path: Path) -> None:
    found = choose(str(pickled(tmp_path)))
    assert found.vocab_size == 258
    assert found.encode("a<|bos|>").tolist() == [97, *b"<|bos|>"]  # specials are no text
    assert found.decode([256, 98]) == "<|bos|>b"


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, ("harm",)


def test_whatever_else_a_pickle_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match="only a tiktoken Encoding is read"):
        choose(str(tmp_path / "tokenizer.pkl"))


def test_the_command_makes_a_run_with_an_id_for_images(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole(model()), tmp_path / "checkpoints" / "step_300.pt")
    pickled(tmp_path / "tokenizer")
    import_(str(tmp_path / "checkpoints" / "step_300.pt"), n_head=2, out=tmp_path / "run")
    loaded = api.load(tmp_path / "run", device="cpu")
    assert loaded.tokenizer.vocab_size == 259
    assert loaded.tokenizer.special["<|image|>"] == 258  # type: ignore[attr-defined]
    assert loaded.config.model.front is not None


def test_nanochats_own_files_are_found_in_the_cache_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--nanochat-students--base-d20"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    text = {n[4:]: t for n, t in whole(model()).items() if n.startswith("gpt.")}
    torch.save(text, snapshot / "model_021400.pt")
    (snapshot / "meta_021400.json").write_text('{"step": 21400}')
    assert hub.locate("nanochat-students/base-d20") == snapshot
    with pytest.raises(UserError, match="10; nano-deepseek-ocr reads it with 16"):
        pretrained.read("nanochat-students/base-d20")
    found = pretrained.read("nanochat-students/base-d20", n_head=2)
    assert (found.step, found.config.vocab_size) == (21400, 259)
