"""How a model converses, and how it reads images, comes along in an export and back again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import espalier as esp
from espalier import cli
from espalier.config import encode
from espalier.data.chat import TEMPLATES, Message, Speaker, named, widened
from espalier.data.illustrated import IMAGE
from espalier.data.tokenizer.base import Tokenizer
from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.custom import CustomTokenizer
from espalier.data.tokenizer.ranks import RankTokenizer
from espalier.data.tokenizer.special import SpecialTokenizer
from espalier.data.tokenizer.tiktoken import R50K
from espalier.durable import read_json, write_json
from espalier.errors import UserError
from espalier.export import tokenizers, verify
from espalier.export.template import jinja
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from tests.export.models import LLAMA
from tests.export.runs import make_run

TALK = [
    Message("system", "be brief"),
    Message("user", "What is 'a tree'?\n"),
    Message("assistant", "A plant \\n."),
    Message("user", "And a bush 🙂?"),
]
FRONT = {"front": {"name": "deep_encoder", **DeepEncoderConfig.small}}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clean process, which takes seconds."""
    verdict = verify.Verdict("Nobody", 0.0, None, 1.0, 0)
    monkeypatch.setattr(verify, "require", lambda *_: verdict)


def tuned(place: Path, template: str, model: dict[str, Any] = LLAMA) -> Path:
    """A run that speaks by a template."""
    speaks = widened(ByteTokenizer(), named(template), IMAGE)
    run = make_run(place, model | {"vocab_size": speaks.vocab_size, "block_size": 256}, speaks)
    write_json(run / "chat.json", encode(named(template)))
    return run


def exported(run: Path, to: str, out: Path) -> Path:
    assert cli.main(["export", str(run), "--to", to, "--out", str(out)]) == 0
    return out


def asked(place: Path) -> list[int]:
    return esp.load(place, device="cpu").chat.asked(TALK).ids


@pytest.mark.parametrize("name", [*yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))])
def test_transformers_writes_a_conversation_as_we_do(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    speaker = Speaker(named(name), widened(ByteTokenizer(), named(name)))
    made = tokenizers.files(speaker.tokenizer, 64, jinja(speaker.template))
    for file, text in made.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for talk in (TALK, TALK[1:], TALK[:1]):
        found = theirs.apply_chat_template(
            [{"role": one.role, "content": one.content} for one in talk],
            add_generation_prompt=True,
            return_dict=False,
        )
        assert found == speaker.prompt(talk)


@pytest.mark.parametrize("to", ["hf", "safetensors"])
def test_an_export_and_its_import_converse_as_the_run_does(
    to: str, tmp_path: Path, unchecked: None
) -> None:
    run = tuned(tmp_path / "run", "chatml")
    out = exported(run, to, tmp_path / "out")
    again = tmp_path / "again"
    assert cli.main(["import", str(out), "--out", str(again)]) == 0
    assert asked(out) == asked(again) == asked(run)


def test_generation_ends_where_an_answer_does(tmp_path: Path, unchecked: None) -> None:
    out = exported(tuned(tmp_path / "run", "chatml"), "hf", tmp_path / "out")
    special = esp.load(out, device="cpu").chat.speaker.special
    ends = read_json(out / "generation_config.json")["eos_token_id"]
    assert special["<|im_end|>"] in ends


def test_what_transformers_cannot_be_told_is_one_line(
    tmp_path: Path, unchecked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tuned(tmp_path / "run", "plain"), "hf", tmp_path / "out")
    assert r"note: an answer ends before '\n\n###': stop there" in capsys.readouterr().out
    lists = CustomTokenizer({chr(i): i for i in range(29)})
    speaks = widened(lists, named("chatml"))
    own = make_run(tmp_path / "own", {"vocab_size": speaks.vocab_size}, speaks)
    write_json(own / "chat.json", encode(named("chatml")))
    exported(own, "hf", tmp_path / "lists")
    assert "the chat template stands in chat.json alone" in capsys.readouterr().out
    assert esp.load(tmp_path / "lists", device="cpu").tokenizer.spec() == speaks.spec()


@pytest.mark.parametrize("template", ["chatml", "nanochat"])
def test_a_gguf_file_holds_template_and_ends(
    template: str, tmp_path: Path, unchecked: None
) -> None:
    gguf = pytest.importorskip("gguf")
    run = tuned(tmp_path / "run", template)
    file = exported(run, "gguf", tmp_path / "out") / "model-f32.gguf"
    held = gguf.GGUFReader(file)
    speaker = esp.load(run, device="cpu").chat.speaker
    assert held.get_field("tokenizer.chat_template").contents() == jinja(speaker.template)
    names = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    ends = {field.contents() for name in names if (field := held.get_field(name))}
    assert ends >= set(speaker.stop_ids()) - {speaker.end}
    tokens = held.get_field("tokenizer.ggml.tokens").contents()
    assert {tokens[i]: i for i in speaker.special.values()} == speaker.special


@pytest.mark.parametrize("to", ["hf", "safetensors"])
@pytest.mark.parametrize(
    "model",
    [
        {"position": "fire"},
        {"stack": {"name": "shared", "block": None, "ffn": {"size": 2}}},
        {"n_layer": 2, "layers": [{"repeat": 1, "block": {"norm": "rms"}}, {"repeat": 1}]},
    ],
)
def test_an_export_of_any_model_is_read_back(
    to: str, model: dict[str, Any], tmp_path: Path, unchecked: None
) -> None:
    run = make_run(tmp_path / "run", model)
    out = exported(run, to, tmp_path / "out")
    assert cli.main(["import", str(out), "--out", str(tmp_path / "again")]) == 0
    ids = torch.arange(16)[None]
    mine, *others = (
        esp.load(place, device="cpu").model(ids) for place in (run, out, tmp_path / "again")
    )
    assert all(torch.equal(mine, one) for one in others)


def test_code_that_an_export_names_is_not_run(tmp_path: Path, unchecked: None) -> None:
    out = exported(make_run(tmp_path / "run", {}), "safetensors", tmp_path / "out")
    (tmp_path / "spiky.py").write_text("raise SystemExit", encoding="utf-8")
    config = read_json(out / "config.json")
    config["model"]["block"]["norm"]["name"] = str(tmp_path / "spiky.py")
    write_json(out / "config.json", config)
    with pytest.raises(UserError, match=r"the part .*spiky.py is code from outside"):
        esp.load(out, device="cpu")


@pytest.mark.parametrize("to", ["hf", "safetensors"])
def test_a_model_reads_images_after_export_as_before(
    to: str, tmp_path: Path, unchecked: None
) -> None:
    run = tuned(tmp_path / "run", "nanochat", FRONT)
    file = run / "config.yaml"
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    text["data"]["images"]["mode"] = 128
    file.write_text(yaml.safe_dump(text), encoding="utf-8")
    out = exported(run, to, tmp_path / "out")
    back = esp.load(out, device="cpu")
    assert back.image_mode == 128
    assert back.chat.image_id == read_json(out / "config.json")["image_token_id"]


def of_ids(inner: Tokenizer, special: dict[str, int]) -> dict[str, int] | None:
    theirs = pytest.importorskip("tokenizers")
    tree = tokenizers.tree(SpecialTokenizer(inner, special))
    if tree is None:
        return None
    made = theirs.Tokenizer.from_str(json.dumps(tree))
    return {text: made.token_to_id(text) for text in special}


@pytest.mark.parametrize(
    "special",
    [{"<a>": 257, "<b>": 258}, {"<b>": 258, "<a>": 257}, {"<a>": 300, "<|endoftext|>": 256}],
)
def test_special_tokens_keep_their_ids(special: dict[str, int]) -> None:
    assert of_ids(ByteTokenizer(256), special) == special


def test_ids_of_a_published_vocabulary_may_stand_apart() -> None:
    """As p50k_base has its end of text amid its pairs, and cl100k_base its last behind a gap."""
    theirs = pytest.importorskip("tokenizers")
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 257}
    special = {"<|endoftext|>": 256, "<|last|>": 260}
    tree = tokenizers.tree(RankTokenizer("apart", ranks, R50K, special))
    made = theirs.Tokenizer.from_str(json.dumps(tree))
    assert made.encode("<|endoftext|>ab<|last|>").ids == [256, 257, 260]


def test_an_id_that_means_two_things_stays_ours() -> None:
    assert of_ids(ByteTokenizer(256), {"<a>": 65}) is None
