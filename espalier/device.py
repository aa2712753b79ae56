"""What this machine can do, without torch at import: devices, bf16, peak arithmetic, memory."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Dense peaks from the vendors' data sheets in FLOP/s (no structured sparsity): 16-bit tensor cores
# with fp32 accumulation, and plain fp32. More particular names stand first.
_KNOWN_PEAKS: dict[str, dict[str, float]] = {
    r"B200": {"bf16": 2250e12, "fp16": 2250e12},
    r"GH200|H200": {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12},
    r"H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "fp32": 51e12},
    r"H100 NVL": {"bf16": 835e12, "fp16": 835e12, "fp32": 60e12},
    r"H100": {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12},
    r"A100": {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12},
    r"A10\b": {"bf16": 125e12, "fp16": 125e12, "fp32": 31.2e12},
    r"L40S": {"bf16": 362e12, "fp16": 362e12, "fp32": 91.6e12},
    r"L4\b": {"bf16": 121e12, "fp16": 121e12, "fp32": 30.3e12},
    r"RTX 4090": {"bf16": 165e12, "fp16": 165e12, "fp32": 82.6e12},
    r"RTX 3090": {"bf16": 71e12, "fp16": 71e12, "fp32": 35.6e12},
    r"V100": {"fp16": 125e12, "fp32": 15.7e12},
    r"\bT4\b": {"fp16": 65e12, "fp32": 8.1e12},
}


@dataclass(frozen=True)
class Answer:
    yes: bool
    why: str


@dataclass(frozen=True)
class Peak:
    """The most arithmetic a device does, and where the number comes from."""

    flops: float
    source: str


def choose() -> str:
    """The best device that torch sees."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return cpu_name()


@cache
def cpu_name() -> str:
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def fast_bf16(device: str) -> Answer:
    """Whether bf16 arithmetic has hardware of its own there; emulation is slower than fp32."""
    if device.startswith("cuda"):
        import torch

        yes = torch.cuda.is_bf16_supported(including_emulation=False)
        return Answer(yes, f"{name(device)} {'has' if yes else 'has no'} bf16 arithmetic")
    if device == "mps":
        return Answer(False, "bf16 on MPS brings no speed and loses digits")
    return _cpu_bf16()


@cache
def _cpu_bf16() -> Answer:
    if platform.system() == "Darwin":
        yes = _sysctl("hw.optional.arm.FEAT_BF16") == "1"
        return Answer(yes, f"this CPU {'has' if yes else 'has no'} FEAT_BF16")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    if not found:
        return Answer(False, "this system does not say what the CPU can do")
    flags = found[1].split()
    has = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    if has:
        return Answer(True, f"this CPU has {' and '.join(has)}")
    return Answer(False, "this CPU has none of amx_bf16, avx512_bf16, bf16")


def peak_flops(device: str, dtype: str) -> Peak | None:
    """Peak FLOP/s for "fp32", "bf16" or "fp16": known for a GPU, measured for a CPU, else None."""
    if device.startswith("cuda"):
        return known_peak(name(device), dtype)
    return _measured_cpu_peak(dtype) if device == "cpu" else None


def known_peak(gpu: str, dtype: str) -> Peak | None:
    for pattern, peaks in _KNOWN_PEAKS.items():
        if re.search(pattern, gpu):
            return Peak(peaks[dtype], f"data sheet of {gpu}") if dtype in peaks else None
    return None


@cache
def _measured_cpu_peak(dtype: str) -> Peak | None:
    if dtype == "fp16":
        return None
    return Peak(matmul_flops("cpu", dtype), "best square matrix product measured here")


def matmul_flops(device: str, dtype: str, seconds: float = 0.3) -> float:
    """FLOP/s of the best of many square matrix products within about `seconds`."""
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    n = 8192 if device != "cpu" else 2048 if cores() > 8 else 1024
    a, b = (torch.randn(n, n, device=device).to(kinds[dtype]) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), device, seconds)


def bandwidth(device: str, seconds: float = 0.3) -> float:
    """Bytes per second of the best copy, reading and writing counted; far larger than any cache."""
    import torch

    source = torch.zeros(2**28 if device.startswith("cuda") else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _best(lambda: target.copy_(source), device, seconds)


def _best(work: Callable[[], "torch.Tensor"], device: str, seconds: float) -> float:
    """Seconds of the fastest call; two rounds warm up.

    A GPU is given ten calls at a time, so that the host's part and the waiting are not in them.
    """
    import torch

    on_gpu = device.startswith("cuda")
    calls = 10 if on_gpu else 1
    fastest = float("inf")
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
        rounds += 1
        if rounds > 2:
            fastest = min(fastest, (time.perf_counter() - start) / calls)
    return fastest


def cores() -> int:
    """Logical cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """How many programs wanted a core, on average over the last minute; None where nobody says."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def memory() -> tuple[int, int]:
    """Total and available bytes of main memory; a container's limit counts."""
    total, free = _physical_memory()
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        room = int(text) - int(used.read_text(encoding="ascii"))
        return min(total, int(text)), min(free, room)
    return total, free


def _physical_memory() -> tuple[int, int]:
    table = Path("/proc/meminfo")
    if table.exists():
        rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", table.read_text("ascii"), re.MULTILINE))
        return int(rows["MemTotal"]) * 1024, int(rows["MemAvailable"]) * 1024
    total = int(_sysctl("hw.memsize") or 0)
    return total, total


def _cpuinfo() -> str:
    table = Path("/proc/cpuinfo")
    return table.read_text(encoding="utf-8", errors="replace") if table.exists() else ""


def _sysctl(key: str) -> str:
    if platform.system() != "Darwin":
        return ""
    found = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return found.stdout.strip()
