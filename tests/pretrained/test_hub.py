"""Ids, the cache, parity, and the table of known models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import espalier as esp
from espalier import cli, pretrained
from espalier.cost import count
from espalier.nn.gpt import sketch
from espalier.pretrained import hub, known, parity
from espalier.run import Run

transformers = pytest.importorskip("transformers")

GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 32, "vocab_size": 53}
NEOX = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "max_position_embeddings": 32,
    "vocab_size": 53,
}


def neox(parallel: bool, fraction: float) -> "torch.nn.Module":
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": fraction}
    config = transformers.GPTNeoXConfig(
        **NEOX, use_parallel_residual=parallel, rope_parameters=rope
    )
    return transformers.GPTNeoXForCausalLM(config)


MODELS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
    "neox-quarter": lambda: neox(True, 0.25),
    "neox-half-sequential": lambda: neox(False, 0.5),
    "neox-whole": lambda: neox(True, 1.0),
}


def filled(name: str = "gpt2") -> "torch.nn.Module":
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


def store(cache: Path, name: str, revision: str, model: "torch.nn.Module") -> Path:
    """As the hub's client lays it out."""
    folder = cache / f"models--{name.replace('/', '--')}"
    commit = f"c0ffee{revision}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    model.save_pretrained(folder / "snapshots" / commit)
    return folder / "snapshots" / commit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.fixture
def tokenizer(tmp_path):
    """Anything that has at most 53 ids."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}
    model = tokenizers.models.BPE(vocab=letters, merges=[])
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("gpt2", ("gpt2", "main")),
        ("EleutherAI/pythia-70m@step1000", ("EleutherAI/pythia-70m", "step1000")),
        ("./gpt2", None),
        ("/a/b", None),
        ("out/ckpt.pt", None),
        ("a/b/c", None),
    ],
)
def test_an_id_is_told_from_a_path(source, wanted):
    assert hub.parse(source) == (wanted and hub.Id(*wanted))


def test_a_cached_model_opens_by_its_id_and_revision(cache):
    first, second = filled(), filled("neox-whole")
    store(cache, "openai-community/gpt2", "main", first)
    store(cache, "EleutherAI/pythia-70m", "step1000", second)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        for source, theirs in (("gpt2", first), ("EleutherAI/pythia-70m@step1000", second)):
            got = esp.load(source, device="cpu").model(ids)
            torch.testing.assert_close(got, theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_missing_model_names_the_import_command(cache, capsys):
    assert cli.main(["sample", "gpt2-medium"]) == 2
    assert "Get it: espalier import gpt2-medium" in capsys.readouterr().err
    assert cli.main(["sample", "gtp2"]) == 2
    assert "Did you mean 'gpt2'?" in capsys.readouterr().err


def test_a_snapshot_without_all_its_shards_is_not_there(cache):
    model = filled()
    folder = store(cache, "gpt2", "main", model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    assert hub.cached(hub.Id("gpt2")) == folder
    next(folder.glob("model-00002*")).unlink()
    assert hub.cached(hub.Id("gpt2")) is None


def test_what_cannot_be_fetched_is_the_machines_fault(cache, capsys):
    assert cli.main(["import", "gpt2", "--out", str(cache / "run")]) == 3
    assert "cannot get gpt2 from the Hugging Face hub" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_an_import_reports_parity(name, tmp_path, tokenizer, capsys):
    filled(name).save_pretrained(tmp_path / "model")
    out = tmp_path / "run"
    words = ["import", str(tmp_path / "model"), "--tokenizer", tokenizer, "--out", str(out)]
    assert cli.main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)["parity"]
    assert found["largest"] < 1e-4
    assert found["agreeing"] == found["written"] > 0
    assert "parity: largest logit difference" in shown.err


def test_a_planted_wrong_weight_is_refused(tmp_path, tokenizer, capsys, monkeypatch):
    filled().save_pretrained(tmp_path / "model")
    read = pretrained.read

    def wrong(source, n_head=None):
        found = read(source, n_head)
        weights = dict(found.weights)
        weights["trunk.stack.blocks.1.ffn.up.weight"][3, 5] += 0.05
        return replace(found, weights=weights)

    monkeypatch.setattr(pretrained, "read", wrong)
    words = ["import", str(tmp_path / "model"), "--tokenizer", tokenizer]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "does not compute what transformers computes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_in_one_line(tmp_path, tokenizer, capsys, monkeypatch):
    def full(*_, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    filled().save_pretrained(tmp_path / "model")
    monkeypatch.setattr("safetensors.torch.serialize_file", full)
    words = ["import", str(tmp_path / "model"), "--tokenizer", tokenizer]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 3
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: cannot save step 0 in {tmp_path / 'run'}: I/O error: No space")


def test_rounding_is_told_from_a_wrong_weight_in_fp64(tmp_path):
    """Logits a thousand times as large differ by more than the limit in fp32, not in fp64."""
    theirs = filled()
    with torch.no_grad():
        theirs.transformer.ln_f.weight.mul_(1e4)
    theirs.save_pretrained(tmp_path)
    found = parity.compare(pretrained.read(tmp_path), [])
    assert found.largest > parity.LIMIT
    assert found.exact < 1e-6
    assert found.passed


def test_two_revisions_with_the_same_weights_are_noticed(cache, tmp_path, tokenizer, capsys):
    for revision in ("step1000", "step2000"):
        store(cache, "EleutherAI/pythia-70m", revision, filled("neox-quarter"))
    words = ["--tokenizer", tokenizer]
    for revision in ("step1000", "step2000"):
        out = tmp_path / "runs" / revision
        source = f"EleutherAI/pythia-70m@{revision}"
        assert cli.main(["import", source, *words, "--out", str(out)]) == 0
        origin = Run.open(out).environment["imported"]
        assert (origin["revision"], origin["commit"]) == (revision, f"c0ffee{revision}")
    assert "has the very weights of EleutherAI/pythia-70m@step1000" in capsys.readouterr().err


def test_tensors_alone_are_read_with_a_recipe(tmp_path):
    from safetensors.torch import save_file

    from espalier.nn.gpt import GPTConfig, make
    from espalier.train import checkpoint

    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 256}
    model = make(GPTConfig(**shape), seed=1)
    save_file(checkpoint.tensors(model), tmp_path / "weights.safetensors")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("# mine\nmodel: {n_layer: 2, n_head: 2, n_embd: 16, block_size: 8}\n")
    words = ["import", str(tmp_path / "weights.safetensors"), "--recipe", str(recipe)]
    assert cli.main([*words, "--tokenizer", "byte", "--out", str(tmp_path / "run")]) == 0
    ids = torch.arange(8)[None]
    assert torch.equal(esp.load(tmp_path / "run", device="cpu").model(ids), model(ids))


# Parameters in all, as the GPT-2 and Pythia papers' repositories tell them.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_the_published_number_of_parameters(name):
    assert count.parameters(sketch(known.table()[name].config)).total == PUBLISHED[name]


def test_the_list_says_what_each_model_takes(cache, capsys):
    store(cache, "gpt2", "main", filled())
    assert cli.main(["pretrained", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["models"]}
    assert found["gpt2"]["cached"]
    assert found["gpt2-medium"]["cached"] is None
    assert found["gpt2-medium"]["bytes"] == 4 * 354_823_168
    fits = {one["device"]: one["fits"] for one in found["EleutherAI/pythia-6.9b"]["tuning"]}
    assert fits["H200"]
    assert not fits["RTX 3070"]


def test_the_work_of_deep_models_is_counted_from_shallow_ones():
    """Equal layers: n of them take what one takes, and n - 1 times what the second adds."""
    from espalier.commands.pretrained import needs

    config = known.table()["EleutherAI/pythia-70m"].config
    shape = sketch(config)
    memory, work = needs(config, 128)
    assert memory == count.memory(shape, 1, 128).total
    assert abs(work - count.flops(shape, 128).train) <= config.n_layer  # a rest of each division


def test_verify_loads_and_generates(cache, capsys, tmp_path, tokenizer):
    assert cli.main(["pretrained", "verify"]) == 2
    assert "no known model is cached" in capsys.readouterr().err
    folder = store(cache, "gpt2", "main", filled())
    (folder / "tokenizer.json").write_bytes(Path(tokenizer).read_bytes())
    assert cli.main(["pretrained", "verify", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert found["model"] == "gpt2"
    assert found["text"]


def test_all_of_a_family_ask_for_their_room_first(cache, capsys, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 0, 10**9))
    assert cli.main(["import", "--all", "--out", str(cache / "runs")]) == 3
    shown = capsys.readouterr()
    assert "4 models, 11.2 GB to fetch, 11.2 GB as runs" in shown.out
    assert "do not fit" in shown.err
    done = cache / "runs" / "gpt2-xl" / "checkpoints" / "step-00000000"
    done.mkdir(parents=True)
    (done / "MANIFEST.json").touch()
    assert cli.main(["import", "--all", "--out", str(cache / "runs")]) == 3
    shown = capsys.readouterr()
    assert "gpt2-xl is there already" in shown.out
    assert "3 models, 5.01 GB to fetch" in shown.out
