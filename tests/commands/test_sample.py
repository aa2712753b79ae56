"""`espalier sample`: what it takes, what it prints, and one clear line for what it cannot use."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import espalier as esp
from espalier import cli
from espalier.commands.sample import How, groups, to_options
from espalier.errors import UserError
from tests.commands.sampling import run
from tests.pretrained.layouts import SYMBOLS, write_out


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_out(tmp_path_factory.mktemp("out"))


def test_text_follows_the_prompt(source, capsys):
    code, out, err = run(capsys, source, "--prompt", "hello", "--max-new-tokens", 20)
    assert (code, err) == (0, "")
    assert out.startswith("hello")
    assert len(out) == len("hello") + 20 + 1


def test_nanogpts_spellings_and_rule_work(source, capsys):
    words = ["--start=hello", "--num_samples=3", "--max_new_tokens=10", "--top_k=5"]
    code, out, _ = run(capsys, source / "ckpt.pt", *words)
    samples = out.split("---------------\n")
    assert (code, len(samples), samples[-1]) == (0, 4, "")
    assert all(text.startswith("hello") for text in samples[:3])
    assert len(set(samples[:3])) == 3


def test_json_holds_every_sample(source, capsys):
    code, out, _ = run(capsys, source, "--num-samples", 20, "--max-new-tokens", 5, "--json")
    found = json.loads(out)
    assert code == 0
    assert len(found["samples"]) == 20
    assert {(one["tokens"], one["finish"]) for one in found["samples"]} == {(5, "length")}
    # made in groups, each with its own noise
    assert len({one["text"] for one in found["samples"]}) > 15


def test_stop_strings_end_the_text(source, capsys):
    _, free, _ = run(capsys, source, "--max-new-tokens", 200)
    stop = free[20:22]
    code, out, _ = run(capsys, source, "--max-new-tokens", 200, "--stop", "~~", "--stop", stop)
    assert code == 0
    assert out == free[: free.index(stop)] + "\n"


def test_a_prompt_from_a_file(source, capsys, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("good day", encoding="utf-8")
    code, out, _ = run(capsys, source, "--prompt", f"FILE:{file}", "--max-new-tokens", 3)
    assert code == 0
    assert out.startswith("good day")


def test_the_same_seed_gives_the_same_text_in_any_number(source, capsys):
    words = [source, "--prompt", "a", "--max-new-tokens", 30]
    one = run(capsys, *words)[1]
    several = run(capsys, *words, "--num-samples", 2)[1]
    other = run(capsys, *words, "--seed", 5)[1]
    assert several.startswith(one)
    assert other != one


def test_what_is_cut_is_said(source, capsys):
    code, out, err = run(capsys, source, "--prompt", "a" * 20, "--max-new-tokens", 2)
    assert (code, out[:20]) == (0, "a" * 20)
    assert "the prompt has 20 tokens, the model reads 16: its beginning is not seen" in err
    code, _, err = run(capsys, source, "--top-k", 900, "--max-new-tokens", 2)
    assert (code, err) == (0, "top_k 900: all 29 tokens are kept\n")


def test_a_conversation_goes_on_after_a_bad_prompt(source, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nABC\nday"))
    code, out, err = run(capsys, source, "--interactive", "--max-new-tokens", 4)
    assert code == 0
    assert out.count("> ") == 4
    assert "hello" in out
    assert "day" in out
    assert "'A' at 0, 'B' at 1" in err


def test_a_byte_of_the_input_that_is_no_text_does_not_end_the_conversation(
    source, capsys, monkeypatch
):
    typed = io.TextIOWrapper(io.BytesIO(b"he\xffllo\nday\n"), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdin", typed)
    code, out, err = run(capsys, source, "--interactive", "--max-new-tokens", 4)
    assert (code, "'\ufffd' at 2" in err, "day" in out) == (0, True, True)


class Impatient(io.StringIO):
    """A terminal on which ^C is pressed at the second prompt."""

    def readline(self, size: int = -1) -> str:
        if self.tell():
            raise KeyboardInterrupt
        return super().readline(size)


def test_an_interrupt_at_the_prompt_leaves(source, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Impatient("hello\n"))
    code, out, _ = run(capsys, source, "--interactive", "--max-new-tokens", 4)
    assert code == 0
    assert out.count("> ") == 2


def test_an_interrupt_in_a_text_ends_the_text_alone(source, capsys, monkeypatch):
    calls = []

    def interrupted(*_: object) -> object:
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr("espalier.engine.generate.Generation.step", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nagain\n"))
    code, _, _ = run(capsys, source, "--interactive")
    assert (code, len(calls)) == (0, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "aXbY"], "error: not in the character vocabulary: 'X' at 1, 'Y' at 3"),
        (["--temperature", "-1"], "temperature must be 0 (greedy), or from 1e-30 to"),
        (["--temperature", "nan"], "temperature must be a finite number, got nan"),
        (["--top-k", "-5"], "top_k must be at least 1, got -5"),
        (["--top-p", "1.5"], "top_p must be above 0 and at most 1, got 1.5"),
        (["--top-p", "0"], "top_p must be above 0 and at most 1, got 0.0"),
        (["--repetition-penalty", "0"], "repetition_penalty must be from 0.01 to 100"),
        (["--num-samples", "0"], "num_samples must be at least 1, got 0"),
        (["--temperature", "1e-300"], "temperature must be 0 (greedy), or from 1e-30 to"),
        (["--repetition-penalty", "1e-300"], "repetition_penalty must be from 0.01 to 100"),
        (["--max-new-tokens", "1.5"], "value for --max-new-tokens: 1.5 is not a whole number"),
        (["--max-new-tokens", "-1"], "max_new_tokens must be 0 or more, got -1"),
        (["--seed", "9223372036854775808"], "seed must be from 0 to 9223372036854775807"),
        (["--rule", "slide"], "no rule 'slide': crop (nanoGPT's), or refill:N"),
        (["--rule", "refill:99"], "rule refill:99: drops more than the block of 16 tokens"),
        (["--stop", ""], "--stop takes a text"),
        (["--prompt", "FILE:nowhere.txt"], "cannot read the prompt nowhere.txt"),
        (["--step", "7"], "is no run: it has no step 7 to choose"),
        (["--tokenizer", "nonsense"], "no tokenizer named 'nonsense'"),
        (["--tokenizer", "byte"], "the tokenizer has 256 ids, the model 29"),
        (["--temprature", "1"], "temprature"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(source, capsys, words, message):
    code, out, err = run(capsys, source, *words)
    assert code == 2
    assert message in err
    assert out == ""
    assert err.count("\n") == 1


def test_binary_prompts_are_refused(source, capsys, tmp_path):
    file = tmp_path / "prompt.bin"
    file.write_bytes(b"ab\xff")
    code, _, err = run(capsys, source, "--prompt", f"FILE:{file}")
    assert (code, err) == (2, f"error: the prompt {file} is not UTF-8 text (byte 2)\n")


def test_things_that_are_no_model(capsys, tmp_path):
    def line(path: Path) -> str:
        code, _, err = run(capsys, path)
        assert code == 2
        return err

    assert line(tmp_path / "x") == f"error: nothing at {tmp_path / 'x'}\n"
    assert "holds no model" in line(tmp_path)
    file = tmp_path / "ckpt.pt"
    file.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    assert "Git LFS pointer" in line(file)
    file.write_text("<html></html>", encoding="utf-8")
    assert "is a web page" in line(file)


def test_a_device_that_is_not_here_is_named(source, capsys):
    assert cli.main(["sample", str(source), "--device", "cuda:99"]) == 2
    assert "device 'cuda:99' cannot be used" in capsys.readouterr().err


def test_the_python_api_speaks_the_same_text(source, capsys):
    loaded = esp.load(str(source), device="cpu")
    text = loaded.generate("hello", 20, temperature=0.8, top_k=200)
    assert run(capsys, source, "--prompt", "hello", "--max-new-tokens", 20)[1] == f"hello{text}\n"
    assert loaded.model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 29)
    assert loaded.config.model.n_layer == 2
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("abc")) == "abc"
    several = loaded.generate(["hello", "a"], 20, num_samples=2, temperature=0.8, top_k=200)
    assert several[0] == text
    assert len(several) == 4
    with pytest.raises(UserError, match="generate has no option temprature"):
        loaded.generate("a", temprature=1)


def test_importing_the_package_leaves_torch_alone():
    code = "import sys, espalier; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_recipe_becomes_a_model():
    model = esp.build("shakespeare-char-cpu", ["model.vocab_size=65", "model.n_layer=2"])
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 65)


@pytest.mark.parametrize("weights", ["float32", "bf16", "int8"])
def test_weights_are_kept_as_asked(source, capsys, weights):
    words = [source, "--prompt", "hello", "--max-new-tokens", 20, "--weights", weights]
    code, out, err = run(capsys, *words)
    assert code == 0
    assert len(out) == len("hello") + 20 + 1
    said = "int8 weights: the run's corpus is not here, so their perplexity is not measured\n"
    assert err == (said if weights == "int8" else "")
    loaded = esp.load(str(source), device="cpu")
    text = loaded.generate("hello", 20, temperature=0.8, top_k=200, weights=weights)
    assert out == f"hello{text}\n"


def test_the_cost_of_int8_weights_is_measured_on_the_runs_own_validation_text(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    corpus, out = tmp_path / "corpus", tmp_path / "run"
    assert cli.main(["prepare", str(text), "--tokenizer", "char", "--out", str(corpus)]) == 0
    words = ["model.n_layer=1", "model.n_embd=32", "model.block_size=16", "train.max_iters=3"]
    recipe = ["train", "shakespeare-char-cpu", f"data.corpus={corpus}", *words]
    assert cli.main([*recipe, "--out", str(out)]) == 0
    capsys.readouterr()
    words = ["--prompt", "the", "--max-new-tokens", 3, "--weights", "int8"]
    code, _, err = run(capsys, out, *words)
    assert code == 0
    assert err.startswith("int8 weights: perplexity ")
    assert "windows of 16 tokens of the validation split" in err


def test_a_draft_proposes_and_the_greedy_text_stays(source, capsys):
    words = [source, "--prompt", "hello", "--max-new-tokens", 30, "--temperature", 0]
    alone = run(capsys, *words)[1]
    assert run(capsys, *words, "--draft", source)[1] == alone
    several = run(capsys, *words, "--draft", source, "--num-samples", 2)[1]
    assert several == f"{alone}---------------\n" * 2
    code, _, err = run(capsys, *words, "--draft", source, "--rng", "nanogpt")
    assert (code, err) == (2, "error: a draft cannot draw nanoGPT's tokens: use rng=rows\n")


def test_a_draft_with_another_tokenizer_is_refused(source, capsys, tmp_path):
    write_out(tmp_path, SYMBOLS[::-1])
    code, _, err = run(capsys, source, "--draft", tmp_path)
    assert code == 2
    assert "the draft has another tokenizer" in err


def test_any_number_of_samples_begins_at_once():
    options = to_options(How(num_samples=10**12))
    assert next(iter(groups(options))).num_samples == 16


@pytest.mark.parametrize("look", ["--colorize", "--heatmaps"])
def test_a_file_in_place_of_the_folder_is_refused_before_the_model_is_loaded(
    look, capsys, tmp_path
):
    file = tmp_path / "page.html"
    file.touch()
    assert run(capsys, "no-model", look, "--save", file) == (
        2,
        "",
        f"error: --save {file} is a file: name a folder\n",
    )


def test_a_draft_without_a_tokenizer_has_the_one_that_is_named(capsys, tmp_path):
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
        write_out(tmp_path / name)
        (tmp_path / name / "meta.pkl").rename(tmp_path / "meta.pkl")
    words = ["--tokenizer", tmp_path / "meta.pkl", "--draft", tmp_path / "small"]
    code, out, _ = run(
        capsys, tmp_path / "large", *words, "--prompt", "hello", "--max-new-tokens", 3
    )
    assert (code, len(out)) == (0, len("hello") + 3 + 1)
