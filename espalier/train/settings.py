"""How a model is trained: nanoGPT's words and defaults."""

from typing import Literal

from pydantic import Field

from espalier.config import Config, default
from espalier.train.slots import LossConfig, OptimizerConfig, ScheduleConfig


class StopConfig(Config):
    """Ends a run before its horizon; whatever comes first. A last evaluation is made and saved."""

    seconds: float | None = Field(default=None, gt=0)
    """of training, counted over all sessions of the run"""
    tokens: int | None = Field(default=None, ge=1)
    """seen"""
    val_loss: float | None = None
    """reached or passed"""
    patience: int | None = Field(default=None, ge=1)
    """evaluations in a row without a lower validation loss"""


class SampleConfig(Config):
    """Text written while training."""

    interval: int | None = Field(default=None, ge=1)
    """steps between samples; none when left out"""
    prompts: tuple[str, ...] = ("\n",)
    max_new_tokens: int = Field(default=200, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    top_k: int | None = Field(default=200, ge=1)


class TrainConfig(Config):
    """The horizon, the step, and what happens between steps."""

    max_iters: int = Field(default=600000, ge=0)
    """updates"""
    target_tokens: int | None = Field(default=None, ge=1)
    """the horizon in tokens, rounded up to whole updates; takes the place of max_iters"""
    gradient_accumulation_steps: int = Field(default=40, ge=1)
    """micro-batches of data.batch_size windows in one update"""
    learning_rate: float = Field(default=6e-4, gt=0)
    min_lr: float = Field(default=6e-5, ge=0)
    warmup_iters: int = Field(default=2000, ge=0)
    lr_decay_iters: int | None = Field(default=None, ge=1)
    """the step at which the schedule ends; the horizon when left out"""
    weight_decay: float = Field(default=0.1, ge=0)
    grad_clip: float = Field(default=1.0, ge=0)
    """largest norm of all gradients together; 0: as they are"""
    optimizer: OptimizerConfig = default("adamw")
    schedule: ScheduleConfig = default("cosine")
    loss: LossConfig = default("cross_entropy")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool | Literal["auto", "require"] = "auto"
    """auto: on a GPU, and eagerly where that fails; true: anywhere; require: or not at all"""
    checkpoint_activations: bool | Literal["auto"] = "auto"
    """recompute each layer in the backward pass; auto: when memory would not do otherwise"""
    deterministic: bool = False
    """bit-identical on a GPU too, slower; a CPU always is, at one number of threads"""
    eval_interval: int = Field(default=2000, ge=1)
    save_interval: int = Field(default=2000, ge=1)
    log_interval: int = Field(default=10, ge=1)
    keep: int = Field(default=2, ge=1)
    """newest checkpoints kept, besides the best one"""
    always_save_checkpoint: bool = True
    """false: write a checkpoint only where the validation loss is the lowest so far"""
    eval_only: bool = False
    """evaluate once, train nothing"""
    init: str | None = None
    """start from the weights of this run (anything that opens as one) instead of random ones"""
    stop: StopConfig = StopConfig()
    sample: SampleConfig = SampleConfig()
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """mirrors of metrics.jsonl; W&B is offline unless WANDB_MODE says otherwise"""
