"""`espalier doctor`: what this machine can do; each no comes with its reason and its remedy."""

import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from espalier import console, device
from espalier.units import size

# What each extra brings, by the module that shows it is there.
EXTRAS = {
    "hf": ("transformers", "Hugging Face models and tokenizers"),
    "data": ("datasets", "streaming data sets, parquet"),
    "plots": ("matplotlib", "drawn curves in reports"),
    "track": ("tensorboard", "TensorBoard and W&B mirrors"),
    "eval": ("lm_eval", "lm-eval tasks, statistics"),
    "search": ("optuna", "guided search"),
    "dist": ("submitit", "SLURM"),
    "ray": ("ray", "Ray clusters"),
    "quant": ("torchao", "quantised models"),
    "interp": ("nnsight", "bridges to interpretability tools"),
    "web": ("starlette", "web page and API"),
    "vision": ("PIL", "images"),
    "agent": ("mcp", "MCP server"),
    "gpu": ("liger_kernel", "faster CUDA kernels, never needed"),
    "dev": ("pytest", "tests and linters"),
}


@dataclass(frozen=True)
class Finding:
    """One capability: there or not, why, and what to do about it."""

    name: str
    yes: bool
    why: str
    fix: str = ""


def doctor(*, slow: Path | None = None) -> dict[str, object]:
    """Say what this machine can do, and what to install for what it cannot.

    For example:

        espalier doctor
        espalier doctor --slow runs/shakespeare-char-cpu-0123456789ab

    Parameters
    ----------
    slow
        A run: say instead why it is slower than it should be (measures some steps, under a minute).
    """
    if slow is not None:
        return _slow(slow)
    findings = [*_python(), *_torch(), *_machine(), *_extras()]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "yes" if finding.yes else "no "
        console.out(f"{mark}  {finding.name:{width}}  {finding.why}")
        if finding.fix:
            console.out(f"     {'':{width}}  -> {finding.fix}")
    return {"findings": [asdict(finding) for finding in findings]}


def _slow(path: Path) -> dict[str, object]:
    from espalier.slow.diagnose import diagnose

    found = diagnose(path)
    for fact in found.facts:
        console.out(fact)
    if found.shares:
        parts = ", ".join(f"{kind} {share:.0%}" for kind, share in found.shares.items())
        console.out(f"where its time goes: {parts}")
    width = max((len(cause.name) for cause in found.causes), default=0)
    for cause in found.causes:
        console.out(f"{cause.name:{width}}  {cause.evidence}\n{'':{width}}  -> {cause.remedy}")
    if not found.causes:
        console.out("nothing was found that makes it slow")
    return found.tree()


def _python() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()}")


def _torch() -> Iterator[Finding]:
    if not importlib.util.find_spec("torch"):
        yield Finding("torch", False, "not installed", "pip install 'torch>=2.9,<2.14'")
        return
    import torch

    yield Finding("torch", True, torch.__version__)
    where = device.choose()
    yield Finding("device", True, f"{where}: {device.name(where)}", _driver_without_cuda(where))
    bf16 = device.fast_bf16(where)
    yield Finding("bf16", bf16.yes, bf16.why, "" if bf16.yes else "dtype: auto takes fp32 or fp16")
    yield _compile(where)
    yield Finding("threads", True, f"{torch.get_num_threads()} of {device.cores()} usable cores")
    yield from _speed(where)


def _driver_without_cuda(where: str) -> str:
    if where == "cuda" or not shutil.which("nvidia-smi"):
        return ""
    return "an NVIDIA driver is here but this torch does not use it: install the CUDA build"


def _compile(where: str) -> Finding:
    """What torch.compile needs besides torch: Triton on CUDA, a C++ compiler on a CPU."""
    if where == "cuda":
        there = importlib.util.find_spec("triton") is not None
        return Finding("compile", there, "Triton is here" if there else "no Triton", "")
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "cl"))), None)
    if compiler:
        return Finding("compile", True, f"C++ compiler {compiler}")
    return Finding(
        "compile", False, "no C++ compiler", "apt install g++ (or xcode-select --install)"
    )


def _speed(where: str) -> Iterator[Finding]:
    for dtype in ("fp32", "bf16"):
        flops = device.matmul_flops(where, dtype)
        yield Finding(
            f"matmul {dtype}",
            True,
            f"{flops / 1e9:,.0f} GFLOP/s measured{_share(where, dtype, flops)}",
        )
    yield Finding("memory copy", True, f"{size(device.bandwidth(where))}/s measured")


def _share(where: str, dtype: str, flops: float) -> str:
    peak = device.peak_flops(where, dtype) if where == "cuda" else None
    return f", {flops / peak.flops:.0%} of the {peak.source}" if peak else ""


def _machine() -> Iterator[Finding]:
    total, free = device.memory()
    enough = free > 2e9
    yield Finding(
        "memory", enough, f"{size(free)} free of {size(total)}", "" if enough else "2 GB are needed"
    )
    disk = shutil.disk_usage(Path.cwd())
    room = disk.free > 1e9
    yield Finding(
        "disk",
        room,
        f"{size(disk.free)} free here of {size(disk.total)}",
        "" if room else "make room",
    )


def _extras() -> Iterator[Finding]:
    for extra, (module, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        fix = "" if there else f"pip install 'espalier[{extra}]'"
        yield Finding(f"extra {extra}", there, purpose, fix)
