"""`espalier sample --save-vector` and `--vector`: a layer's mean output, kept and added."""

from pathlib import Path

import pytest

from tests.commands.sampling import run
from tests.pretrained.layouts import write_out


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_out(tmp_path_factory.mktemp("out"))


def save(capsys, source: Path, prompt: str, file: Path) -> str:
    code, out, err = run(
        capsys, source, "--prompt", prompt, "--save-vector", file, "--vector-layer", 1
    )
    assert (code, out) == (0, "")
    return err


def test_a_vector_is_saved_and_changes_what_is_written(source, capsys, tmp_path):
    file = tmp_path / "calm.safetensors"
    said = save(capsys, source, "calm sea", file)
    assert said == f"wrote layer 1's mean over 8 tokens to {file}\n"
    words = [source, "--prompt", "a", "--max-new-tokens", 30]
    plain = run(capsys, *words)
    assert run(capsys, *words, "--vector", file, "--vector-scale", 0) == plain
    code, pushed, _ = run(capsys, *words, "--vector", file, "--vector-scale", 50)
    assert code == 0
    assert pushed != plain[1]


def test_a_vector_minus_itself_changes_nothing(source, capsys, tmp_path):
    file = tmp_path / "v.safetensors"
    save(capsys, source, "calm sea", file)
    words = [source, "--prompt", "a", "--max-new-tokens", 30]
    assert run(capsys, *words, "--vector", f"{file},{file}") == run(capsys, *words)


def test_mistakes_take_one_line(source, capsys, tmp_path):
    code, _, err = run(capsys, source, "--vector", tmp_path / "none")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot read the vector" in err
    code, _, err = run(capsys, source, "--save-vector", tmp_path / "v", "--vector-layer", 9)
    assert (code, "there is no layer 9" in err) == (2, True)
    code, _, err = run(capsys, source, "--source", 1)
    assert (code, "no model.steering" in err) == (2, True)


@pytest.mark.parametrize("place", ["nowhere/v.safetensors", "."])
def test_a_vector_without_a_place_is_refused_before_the_model_is_loaded(place, capsys, tmp_path):
    code, _, err = run(capsys, "no-model", "--save-vector", tmp_path / place)
    assert (code, "name a file in a directory that is there" in err) == (2, True)
