"""`espalier push`: a card that says what there is, one line where it fails, and no token seen."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import espalier as esp
from espalier import cli
from espalier.commands.push import upto
from espalier.errors import UserError
from espalier.export import hub, verify
from espalier.nn.front.deep_encoder import DeepEncoderConfig
from espalier.pretrained import deepseek_ocr
from espalier.report.reading import Story
from tests.export.runs import make_run

client = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.errors")  # it is no attribute until it is imported
pytest.importorskip("matplotlib")

SECRET = "hf_canary0123456789"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, in a place without tokens, whose exports are believed."""
    verdict = verify.Verdict("EspalierForCausalLM", 0.0, None, 1.0, 0)
    monkeypatch.setattr(verify, "require", lambda *_: verdict)
    for name in hub.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "get_token", lambda: None)
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "run", {"position": "fire"})


class Hub:
    """A hub that takes everything, or answers every call with `error`."""

    error: Exception | None = None
    calls: list[tuple[str, dict[str, Any]]] = []

    def __init__(self, token: str) -> None:
        self.token = token

    def create_repo(self, repo: str, **fields: Any) -> Any:
        if Hub.error is not None:
            raise Hub.error
        Hub.calls.append(("create_repo", {"repo": repo, "token": self.token, **fields}))
        return SimpleNamespace(repo_id=f"someone/{repo}")

    def upload_folder(self, **fields: Any) -> None:
        names = {file.name for file in Path(fields["folder_path"]).iterdir()}
        Hub.calls.append(("upload_folder", fields | {"files": names}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(client, "HfApi", Hub)
    Hub.error, Hub.calls = None, []
    return Hub


def unseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed; the token stands neither there nor in any file made."""
    shown = "".join(capsys.readouterr())
    assert SECRET not in shown
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name != ".env":
            assert SECRET.encode() not in file.read_bytes(), file
    return shown


def test_a_dry_run_needs_no_token_and_writes_the_card(
    run: Path, tmp_path: Path, fake: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", str(run), "--repo", "me/tiny", "--dry-run"]) == 0
    assert "nothing was uploaded" in capsys.readouterr().out
    assert fake.calls == []
    card = (tmp_path / "run-hub" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for what in (
        "# tiny",
        'from_pretrained("me/tiny", trust_remote_code=True)',
        "AutoTokenizer",
        "* corpus: plays",
        f"* its digest: `{'ab' * 32}`",
        "validation loss 1.2500 at step 3",
        "training loss 1.0000 at step 3",
        "3 steps of ",
        "## Limits",
        "| model.safetensors | `",
        "position: {name: fire",
        "![loss while training](loss.png)",
    ):
        assert what in card, what
    assert "secret-place" not in card
    assert (tmp_path / "run-hub" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_reads_images_brings_its_encoder_in_the_official_names(
    run: Path, tmp_path: Path
) -> None:
    shape = {"front": {"name": "deep_encoder", **DeepEncoderConfig.small}}
    eyes, folder = make_run(tmp_path / "eyes", shape), tmp_path / "eyes-hub"
    assert cli.main(["push", str(eyes), "--repo", "me/eyes", "--dry-run"]) == 0
    front = esp.load(eyes, device="cpu").model.trunk.front
    assert front is not None
    held, own = deepseek_ocr.read(folder / "encoder.safetensors", front), front.state_dict()
    assert held.keys() == own.keys()
    assert all(torch.equal(held[name], own[name]) for name in own)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-text-to-text" in card
    assert "| encoder.safetensors | `" in card


def test_a_card_of_an_earlier_step_knows_no_later_one() -> None:
    early = {"kind": "train", "step": 1, "loss": 3.0}
    late = {"kind": "train", "step": 9, "loss": 1.0}
    story = Story(Path(), {}, {}, [early, late], [late], [], [])
    found = upto(story, 5)
    assert (found.train, found.evals, found.last_step) == ([early], [], 1)


def test_an_upload_is_one_commit_to_a_repository_made_for_it(
    run: Path,
    tmp_path: Path,
    fake: type[Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert cli.main(["push", str(run), "--repo", "tiny", "--private"]) == 0
    assert unseen(tmp_path, capsys).strip().endswith("/someone/tiny")
    (_, made), (_, sent) = fake.calls
    assert (made["repo"], made["private"], made["exist_ok"]) == ("tiny", True, True)
    assert made["token"] == SECRET
    assert sent["repo_id"] == "someone/tiny"
    assert {"README.md", "loss.png", "model.safetensors", "modeling_espalier.py"} <= sent["files"]


def answered(status: int) -> Exception:
    found = client.errors.HfHubHTTPError.__new__(client.errors.HfHubHTTPError)
    Exception.__init__(found, f"{status} for token {SECRET}\nand more lines")
    found.response = SimpleNamespace(status_code=status)
    return found


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (answered(401), 2, "the hub refuses the token or the repository (HTTP 401)"),
        (answered(503), 3, "the hub answers HTTP 503: 503 for token ***"),
        (ConnectionError(f"no route for {SECRET}"), 3, "cannot be reached (no route for ***)"),
        (client.errors.OfflineModeIsEnabled("offline"), 3, "the hub cannot be reached (offline)"),
    ],
)
def test_a_failing_hub_is_one_line_that_says_what_is_ready(
    run: Path,
    tmp_path: Path,
    fake: type[Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fake.error = error
    assert cli.main(["push", str(run), "--repo", "me/tiny"]) == code
    last = unseen(tmp_path, capsys).strip().split("\n")[-1]
    assert line in last
    folder = tmp_path / "run-hub"
    assert last.endswith(f"{folder} is ready; send it later with: hf upload me/tiny {folder}")
    assert (folder / "README.md").is_file()


def test_a_hub_that_does_not_listen(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client.constants, "ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / ".env").write_text(f"OTHER=1\nexport HF_TOKEN='{SECRET}'\n", encoding="utf-8")
    assert cli.main(["push", str(run), "--repo", "me/tiny"]) == 3
    assert "the hub cannot be reached" in unseen(tmp_path, capsys)


class Refusing(BaseHTTPRequestHandler):
    """A hub to which every token is a stranger's."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_hub_that_knows_no_such_token(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(client.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert cli.main(["push", str(run), "--repo", "me/tiny"]) == 2
    server.shutdown()
    assert "the hub refuses the token or the repository (HTTP 401)" in unseen(tmp_path, capsys)


def test_without_a_token_nothing_is_prepared(
    run: Path, tmp_path: Path, fake: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", str(run), "--repo", "me/tiny"]) == 2
    assert "no token for the hub: set HF_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "run-hub").exists()


def test_where_a_token_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in hub.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "get_token", lambda: None)
    with pytest.raises(UserError):
        hub.token()
    monkeypatch.setattr(client, "get_token", lambda: "cached")
    assert hub.token() == "cached"
    (tmp_path / ".env").write_text('HF_TOKEN="filed"\n', encoding="utf-8")
    assert hub.token() == "filed"
    monkeypatch.setenv("HF_TOKEN", "set")
    assert hub.token() == "set"
