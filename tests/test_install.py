"""The installer's choice of torch, against stand-in indexes and wheel folders; installs nothing."""

import argparse
import importlib.util
import platform
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
WISH = "torch>=2.9,<2.14"


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    place = Path(__file__).parent.parent / "tools" / "install.py"
    if not place.exists():
        pytest.skip("tools/ is not part of this installation")
    spec = importlib.util.spec_from_file_location("espalier_install", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index on this machine, and the file behind its page for torch."""
    page = tmp_path / "torch" / "index.html"
    page.parent.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", page
    server.shutdown()
    server.server_close()


def link(version: str, tag: str = TAG, machine: str = platform.machine()) -> str:
    name = f"torch-{version}-{tag}-{tag}-manylinux_2_28_{machine}.whl"
    return f'<a href="/whl/{name.replace("+", "%2B")}">{name}</a>\n'


def wishes(**given: str) -> argparse.Namespace:
    return argparse.Namespace(**{"torch": "", "index": "", "wheels": ""} | given)


@pytest.fixture
def bare(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine without driver, torch or local wheels."""
    monkeypatch.setattr(installer.sys, "platform", "linux")
    monkeypatch.setattr(installer, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(installer, "installed_torch", lambda python: None)
    monkeypatch.setattr(installer, "local_wheel", lambda python, wish, links: None)


@pytest.mark.usefixtures("bare")
def test_the_cpu_index_gives_the_newest_cpu_build_in_the_range(
    installer: ModuleType, index: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, page = index
    versions = ["2.8.0+cpu", "2.9.1+cpu", "2.13.0+cpu", "2.14.0+cpu", "2.13.1+cu130"]
    page.write_text("".join(map(link, versions)) + link("2.13.2+cpu", machine="other"), "utf-8")
    monkeypatch.setenv("ESPALIER_TORCH_CPU_INDEX", url)
    choice = installer.choose_torch(Path(sys.executable), wishes())
    assert choice.requirement == "torch==2.13.0+cpu"
    assert choice.options == ("--extra-index-url", url)


@pytest.mark.usefixtures("bare")
def test_an_index_out_of_reach_falls_back_with_a_warning(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPALIER_TORCH_CPU_INDEX", "http://127.0.0.1:9")
    choice = installer.choose_torch(Path(sys.executable), wishes())
    assert choice.requirement == installer.torch_range()
    assert "several GB" in capsys.readouterr().err


@pytest.mark.usefixtures("bare")
def test_a_local_wheel_serves_without_contacting_the_index(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contact(url: str) -> str:
        raise AssertionError(f"contacted {url}")

    monkeypatch.setattr(installer, "local_wheel", lambda python, wish, links: "2.12.0+cpu")
    monkeypatch.setattr(installer, "read_page", contact)
    choice = installer.choose_torch(Path(sys.executable), wishes())
    assert choice.requirement == "torch==2.12.0+cpu"


@pytest.mark.usefixtures("bare")
def test_a_driver_takes_the_plain_index(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "has_nvidia_driver", lambda: True)
    choice = installer.choose_torch(Path(sys.executable), wishes())
    assert choice.requirement == installer.torch_range()
    assert choice.options == ()


@pytest.mark.usefixtures("bare")
def test_the_callers_wish_comes_first(installer: ModuleType) -> None:
    python = Path(sys.executable)
    assert installer.choose_torch(python, wishes(torch="torch==2.12.*")).requirement == (
        "torch==2.12.*"
    )
    assert installer.choose_torch(python, wishes(index="http://x")).index == "http://x"


def test_pip_finds_a_wheel_in_a_folder_without_any_index(
    installer: ModuleType, tmp_path: Path
) -> None:
    write_wheel(tmp_path, "2.13.7+cpu")
    links = ("--find-links", str(tmp_path))
    assert installer.local_wheel(Path(sys.executable), WISH, links) == "2.13.7+cpu"


def write_wheel(folder: Path, version: str) -> None:
    """The least that pip takes for a wheel."""
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(
    ("version", "inside"),
    [("2.8.9", False), ("2.9.0", True), ("2.13.5+cpu", True), ("2.14.0", False)],
)
def test_the_range_is_half_open(installer: ModuleType, version: str, inside: bool) -> None:
    assert installer.within(version, WISH) is inside
