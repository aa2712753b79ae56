"""BioGPT's biogpt_*.pt: weights, AdamW's moments and the iteration.

The file's config holds what its model was called with; layout and feedback pairs, where it leaves
them open, follow from the published rule. The trace's and the one-pass feedback's parameters, which
no pass reads, come along as they are.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.cortex import layout
from espalier.nn.gpt import GPTConfig, sketch
from espalier.nn.slots import unused
from espalier.pretrained.foreign import Foreign, Moments
from espalier.pretrained.table import Row, Turn, both, to_ours

KEYS = {"model_state_dict", "config"}
SIZES = ("vocab_size", "d_model", "n_layers", "max_seq_len", "n_passes")
ONE_TAP = Turn(lambda t: t.squeeze(-1), lambda t: t.unsqueeze(-1))  # a convolution of width 1
MICRO = 4  # windows of a published micro-batch


def holds(found: Any) -> bool:
    """Whether a loaded file is laid out as BioGPT's."""
    return isinstance(found, Mapping) and set(found) >= KEYS


def interpret(found: Mapping[str, Any], file: Path) -> Foreign:
    """Raises UserError for what is missing, left over, or does not fit."""
    theirs = {
        name.removeprefix("_orig_mod."): tensor
        for name, tensor in found["model_state_dict"].items()
    }
    args = _checked(found["config"], file)
    config, pairs = _config(args), _pairs(args)
    rows = table(config, pairs)
    weights = to_ours(theirs, rows, config, str(file))
    moments = _moments(found.get("optimizer_state_dict"), theirs, (config, rows), file)
    step = moments.step if moments else int(found.get("step", 0))
    loss = found.get("val_loss")
    return Foreign(
        kind="biogpt",
        path=file,
        config=config,
        weights=weights,
        step=step,
        moments=moments,
        settings=_batch(found.get("tokens_processed"), step, config.block_size),
        val_loss=loss if isinstance(loss, float) and math.isfinite(loss) else None,
    )


def table(config: GPTConfig, pairs: list[tuple[int, int]]) -> list[Row]:
    """Which of their tensors is which of ours, for a model of this configuration."""
    rows = [
        Row("trunk.embed.weight", "token_emb.weight"),
        Row("trunk.position.weight", "pos_emb.weight"),
        *both("trunk.norm", "ln_f"),
        Row("head.weight", "lm_head.weight"),
        Row("trunk.stack.mix", "pass_weights"),
    ]
    for number, (source, target) in enumerate(pairs):
        ours, link = f"trunk.stack.links.{number}", f"feedback_connections.fb_{source}_to_{target}"
        rows.append(Row(f"{ours}.project.weight", f"{link}.proj.weight"))
        rows += [*both(f"{ours}.gate", f"{link}.gate.0"), *both(f"{ours}.norm", f"{link}.ln")]
    for layer, branches in enumerate(_layout(config)):
        ours, column = f"trunk.stack.blocks.{layer}", f"layers.{layer}"
        rows += both(f"{ours}.norm", f"{column}.ln")
        rows.append(Row(f"{ours}.competition", f"{column}.neuron_weights"))
        for i, count in enumerate(branches):
            out = Row(f"{ours}.neurons.{i}.soma.out.weight", f"{column}.neuron_projs.{i}.weight")
            rows += [*_neuron(f"{ours}.neurons.{i}", f"{column}.neurons.{i}", count), out]
    return rows


def _neuron(ours: str, theirs: str, branches: int) -> list[Row]:
    by_branch = Turn(lambda t: t.flatten(), lambda t: t.view(1, branches, 1, -1))
    return [
        Row(f"{ours}.qkv.weight", f"{theirs}.qkv.weight"),
        Row(f"{ours}.trace.decay", f"{theirs}.nmda_decay", by_branch),
        *both(f"{ours}.conv", f"{theirs}.temporal_conv"),
        *both(f"{ours}.up", f"{theirs}.ff_up", ONE_TAP),
        *both(f"{ours}.down", f"{theirs}.ff_down", ONE_TAP),
        *both(f"{ours}.norm", f"{theirs}.branch_norm"),
        Row(f"{ours}.soma.mix.weight", f"{theirs}.soma_proj.weight"),
        *both(f"{ours}.soma.norm", f"{theirs}.ln_soma"),
        *both(f"{ours}.soma.up", f"{theirs}.soma_ffn.0"),
        *both(f"{ours}.soma.down", f"{theirs}.soma_ffn.3"),
    ]


def _checked(args: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(args, Mapping):
        raise UserError(f"{file}: config is not a dictionary")
    missing = [name for name in SIZES if not isinstance(args.get(name), int)]
    if missing:
        raise UserError(f"{file}: config lacks {', '.join(missing)}")
    if args["n_passes"] > 2:
        raise UserError(
            f"{file}: n_passes={args['n_passes']}, of which the original runs two and drops the "
            "weights of the others; only files of one and two passes are read"
        )
    return args


def _pairs(args: Mapping[str, Any]) -> list[tuple[int, int]]:
    given = args.get("feedback_pairs")
    chosen = layout.links(args["n_layers"]) if given is None else given
    return [(int(source), int(target)) for source, target in chosen]


def _config(args: Mapping[str, Any]) -> GPTConfig:
    d, depth = args["d_model"], args["n_layers"]
    tree: dict[str, Any] = {
        "n_layer": depth,
        "n_embd": d,
        "n_head": math.gcd(d, 12),  # of no consequence: heads are branches
        "block_size": args["max_seq_len"],
        "vocab_size": args["vocab_size"],
        "dropout": float(args.get("dropout", 0.0)),
        "init": {"matrices": "xavier_stacked"},
        "block": {
            "name": "cortical",
            "compat": "published",
            "expansion": float(args.get("soma_ffn_expansion", 3.0)),
        },
        "stack": {
            "name": "feedback",
            "compat": "published",
            "inject": "embedding",
            "passes": args["n_passes"],
        },
        "head": "untied",
    }
    if args.get("cortical_layout") is not None:
        tree["layers"] = [{"block": {"neurons": list(row)}} for row in args["cortical_layout"]]
    if args.get("feedback_pairs") is not None:
        tree["stack"]["links"] = [list(pair) for pair in args["feedback_pairs"]]
    return decode(GPTConfig, tree, "model")


def _layout(config: GPTConfig) -> list[tuple[int, ...]]:
    """Branches of each neuron of each layer."""
    if config.layers is None:
        every = range(config.n_layer)
        return [layout.branches(i, config.n_layer, config.n_embd) for i in every]
    return [
        tuple(neuron["branches"] if isinstance(neuron, Mapping) else neuron for neuron in neurons)
        for neurons in (layer.block["neurons"] for layer in config.layers)
    ]


def _moments(
    optimizer: Any, theirs: Mapping[str, Tensor], shape: tuple[GPTConfig, list[Row]], file: Path
) -> Moments | None:
    """AdamW's state: one group, numbered as the parameters stand; what no pass reads has none."""
    if not isinstance(optimizer, Mapping) or not optimizer.get("state"):
        return None
    state, order = optimizer["state"], list(theirs)
    config, rows = shape
    idle = set(unused(sketch(config)))
    wanted = [i for i, name in enumerate(order) if not _idle(name, rows, idle)]
    if sorted(state) != wanted:
        raise UserError(
            f"{file}: the optimizer knows {len(state)} tensors, the model trains {len(wanted)}"
        )
    for number in wanted:
        if state[number]["exp_avg"].shape != theirs[order[number]].shape:
            raise UserError(f"{file}: the optimizer's tensor {number} does not fit {order[number]}")

    def named(what: str) -> dict[str, Tensor]:
        held = {
            name: state[i][what] if i in state else torch.zeros_like(tensor)
            for i, (name, tensor) in enumerate(theirs.items())
        }
        found = to_ours(held, rows, config, f"{file} (optimizer)")
        return {name: tensor for name, tensor in found.items() if name not in idle}

    step = int(max(float(entry["step"]) for entry in state.values()))
    return Moments(step, named("exp_avg"), named("exp_avg_sq"))


def _idle(theirs: str, rows: list[Row], idle: set[str]) -> bool:
    return any(row.theirs == theirs and row.ours in idle for row in rows)


def _batch(tokens: Any, step: int, window: int) -> dict[str, int]:
    """The batch that so many tokens in so many updates come from, in nanoGPT's words."""
    if not isinstance(tokens, int) or not step or tokens % (step * window * MICRO):
        return {}
    micro = tokens // (step * window * MICRO)
    return {"batch_size": MICRO, "gradient_accumulation_steps": micro} if micro else {}
