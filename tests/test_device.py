"""What the machine can do: known peaks by name, and the doctor's list."""

import json

import pytest

from espalier import cli, device


@pytest.mark.parametrize(
    ("gpu", "dtype", "peak"),
    [
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
    ],
)
def test_a_known_gpu_has_the_peak_of_its_data_sheet(gpu: str, dtype: str, peak: float) -> None:
    found = device.known_peak(gpu, dtype)
    assert found is not None
    assert found.flops == peak


@pytest.mark.parametrize(("gpu", "dtype"), [("Some GPU 9000", "bf16"), ("Tesla V100", "bf16")])
def test_an_unknown_peak_is_never_guessed(gpu: str, dtype: str) -> None:
    assert device.known_peak(gpu, dtype) is None


@pytest.mark.parametrize(
    ("flags", "yes"),
    [
        ("flags : fpu avx512_bf16", True),
        ("flags\t: fpu avx2", False),
        ("Features : asimd bf16", True),
    ],
)
def test_bf16_is_fast_where_the_cpu_says_so(
    flags: str, yes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.platform, "system", lambda: "Linux")
    monkeypatch.setattr(device, "_cpuinfo", lambda: f"model name : X\n{flags}\n")
    device._cpu_bf16.cache_clear()
    assert device.fast_bf16("cpu").yes is yes
    device._cpu_bf16.cache_clear()


def test_there_are_cores_and_memory() -> None:
    total, free = device.memory()
    assert device.cores() >= 1
    assert total >= free > 0


def test_the_doctor_gives_a_reason_or_a_remedy_for_everything(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert {"python", "torch", "device", "bf16", "compile", "threads", "memory"} <= set(findings)
    for finding in findings.values():
        assert finding["why"]
        if finding["name"].startswith("extra") and not finding["yes"]:
            assert "pip install" in finding["fix"]
