"""How large everything is: on a GPU, and for a dry run on a CPU that takes the same ways."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A recipe, the validation loss it has to reach, and what is set otherwise."""

    recipe: str
    loss: float
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    device: str
    compile: str
    """train.compile while speed is measured"""
    backend: str
    """of torch.compile in the section `compile`"""
    recipes: int | None
    """how many are made small and looked at; all when None"""
    shrink: tuple[str, ...]
    """overrides of every model whose speed is measured"""
    sweep: Mapping[str, tuple[int, ...]]
    """rows of a micro-batch, by recipe"""
    steps: int
    prompts: tuple[int, ...]
    """rows of a generation"""
    new_tokens: int
    targets: tuple[Target, ...]


FULL = Scale(
    device="cuda",
    compile="require",
    backend="inductor",
    recipes=None,
    shrink=("model.dropout=0",),
    sweep={
        "gpt2": (16, 32, 64),
        "gpt2-medium": (8, 16, 32),
        "wigglegpt": (16, 32),
        "biogpt": (8, 16),
        "biogpt-reference": (8, 16),
    },
    steps=15,
    prompts=(1, 8, 64),
    new_tokens=256,
    targets=(Target("shakespeare-fast", 1.88), Target("shakespeare-gpu", 1.47)),
)
_TINY = ("model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.block_size=16")
DRY = Scale(
    device="cpu",
    compile="false",
    backend="eager",
    recipes=3,
    shrink=("model.dropout=0", *_TINY, "model.vocab_size=512"),
    sweep=dict.fromkeys(FULL.sweep, (1, 2)),
    steps=3,
    prompts=(1, 2),
    new_tokens=4,
    targets=tuple(
        Target(
            target.recipe,
            10.0,
            (
                *_TINY,
                "train.max_iters=2",
                "train.eval_interval=2",
                "evaluate.first=false",
                "data.batch_size=2",
            ),
        )
        for target in FULL.targets
    ),
)
SCALES = {"full": FULL, "dry": DRY}


@dataclass(frozen=True)
class Place:
    """Where a section finds and leaves things."""

    out: Path
    text: Path | None

    @property
    def work(self) -> Path:
        """For corpora and runs."""
        return self.out / "work"
