"""`espalier embeddings RUN`: a model's table of tokens: out, in from a file, or narrower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espalier import console
from espalier.errors import UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    from torch import Tensor

    from espalier.api import Loaded
    from espalier.nn.gpt import GPTConfig

ERROR = 0.5  # of squared distances: what the published bound is told for


def embeddings(
    run: str,
    /,
    *,
    save: Path | None = None,
    load: Path | None = None,
    width: int | None = None,
    method: Literal["gaussian", "sign", "sparse", "srht", "qr", "svd"] | None = None,
    seed: int | None = None,
    out: Path | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """Save a model's embedding table, put another in its place, or make it narrower.

    A changed model is a new run: evaluate it beside the old one, fine-tune from it.

    Example: espalier embeddings runs/a --save table.npy
    Example: espalier embeddings runs/a --load table.npy --out runs/b
    Example: espalier embeddings runs/a --width 64 --out runs/narrow

    Parameters
    ----------
    run
        A run, one of its checkpoints, nanoGPT's ckpt.pt, a Hugging Face directory or its id.
    save
        Write the table (vocabulary, columns) as .npy, in fp32.
    load
        A .npy of the table's shape, to take its place.
    width
        Put a factorised embedding in its place: a table E R^T of so many columns, and the map R.
    method
        R: a Johnson-Lindenstrauss projection, gaussian (when left out), sign, sparse, srht or qr;
        or svd, for the nearest product of this width.
    seed
        Of the projection; 0 when left out.
    out
        The run to make, with --load and --width.
    step
        The checkpoint; the newest when left out.
    """
    _check({"--save": save, "--load": load, "--width": width}, out)
    if width is None and (method, seed) != (None, None):
        raise UserError("--method and --seed are of --width")
    if method == "svd" and seed is not None:
        raise UserError("--method svd draws nothing: it takes no --seed")
    with uncollected():
        from espalier import api
        from espalier.pretrained import embeddings as tables
        from espalier.train import checkpoint

    loaded = api.load(run, step=step, device="cpu")
    config, held = loaded.config.model, checkpoint.tensors(loaded.model)
    about: dict[str, Any] = {"from": run}
    if save is not None:
        tables.save_table(held, save)
        return _told({**about, "table": list(held[tables.TABLE].shape), "file": str(save)})
    assert out is not None
    if load is not None:
        changed = tables.load_table(held, load)
        about["file"] = str(load)
    else:
        assert width is not None
        method = method or "gaussian"
        changed, config = tables.factorise(held, config, method, width, seed or 0)
        about |= {"method": method, "seed": seed or 0, **_change(held, changed)}
    place = _keep(loaded, changed, config, out, about)
    return _told({**about, "run": str(place), "table": list(changed[tables.TABLE].shape)})


def _check(asked: Mapping[str, object], out: Path | None) -> None:
    """UserError unless one thing is asked for, with a place to put it."""
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise UserError(f"say one of {', '.join(asked)}; got {' and '.join(given) or 'none'}")
    if given == ["--save"] and out is not None:
        raise UserError("--save makes no run: leave --out out")
    if given != ["--save"] and out is None:
        raise UserError(f"{given[0]} makes a new run: say where, --out runs/NAME")


def _change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters, and how far tokens moved from each other."""
    from espalier.pretrained import embeddings as tables

    ends = tables.distances(before[tables.TABLE], after[tables.TABLE])
    return {
        "parameters": [sum(t.numel() for t in one.values()) for one in (before, after)],
        "squared_distances": dict(zip(("least", "mean", "most"), ends, strict=True)),
        "enough": tables.dimension(len(before[tables.TABLE]), ERROR),
    }


def _keep(
    loaded: Loaded,
    weights: Mapping[str, Tensor],
    config: GPTConfig,
    out: Path,
    about: Mapping[str, Any],
) -> Path:
    """An ordinary run with one checkpoint and its parent noted."""
    from espalier.config import encode, refine
    from espalier.pretrained import fill
    from espalier.provenance import environment
    from espalier.run import Run
    from espalier.train import checkpoint

    newest = None if loaded.run is None else loaded.run.latest()
    parent = about if newest is None else {**about, "checkpoint": newest.name}
    plan = refine(loaded.config, {"model": encode(config)})
    model, spelling = fill(config, weights), loaded.tokenizer.spec()
    run = Run.create(out, encode(plan), environment(parent=dict(parent)))
    with run.lock():
        run.speak(spelling, loaded.folder)
        run.commit(0, checkpoint.writer(model), {})
    return run.path


def _told(found: dict[str, Any]) -> dict[str, Any]:
    rows, columns = found["table"]
    console.out(f"table: {rows:,} tokens, {columns:,} columns")
    if "parameters" in found:
        before, after = found["parameters"]
        console.out(f"parameters: {before:,} before, {after:,} after")
        ends = " to ".join(f"{found['squared_distances'][key]:.2f}" for key in ("least", "most"))
        console.out(
            f"squared distances between tokens: {ends} times what they were, "
            f"{found['squared_distances']['mean']:.2f} on average"
        )
        if found["method"] != "svd":
            console.out(
                f"{found['enough']:,} columns are enough for {1 - ERROR} to {1 + ERROR} times, "
                "by Johnson and Lindenstrauss; fewer may be"
            )
    if "run" in found:
        console.out(f"run: {found['run']}")
        console.out(f"what it costs: espalier evaluate {found['from']} {found['run']}")
    else:
        console.out(f"wrote {found['file']}")
    return found
