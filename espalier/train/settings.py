"""How a model is trained: nanoGPT's words and defaults."""

from typing import Annotated, Literal

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


class BatchStage(Config):
    """Another size of batch from some update on."""

    start: int = Field(ge=1)
    """updates made by then"""
    gradient_accumulation_steps: int = Field(ge=1)


class LengthStage(Config):
    """Windows cut into shorter ones, until some update."""

    until: int = Field(ge=1)
    """updates made by then"""
    block_size: int = Field(ge=1)
    """a divisor of the model's"""


class LoraConfig(Config):
    """Adapters of low rank in place of the weights (arXiv:2106.09685)."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    """the adapter counts alpha / rank times"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """of the adapter's input"""
    targets: tuple[str, ...] = Field(default=("*.attention.*",), min_length=1)
    """dense layers that get one, by path: *.attention.qkv, trunk.stack.blocks.0.*"""
    also: tuple[str, ...] = ()
    """parameters trained whole beside them, by path: trunk.embed.* where there are new tokens"""


class TrainConfig(Config):
    """The horizon, the step, and what happens between steps."""

    max_iters: int = Field(default=600000, ge=0)
    """updates"""
    target_tokens: int | None = Field(default=None, ge=1)
    """the horizon in tokens, rounded up to whole updates; takes the place of max_iters"""
    gradient_accumulation_steps: int = Field(default=40, ge=1)
    """micro-batches of data.batch_size windows in one update"""
    batch_schedule: tuple[BatchStage, ...] = ()
    """later sizes of the batch, in the order of their starts"""
    length_schedule: tuple[LengthStage, ...] = ()
    """earlier lengths of a window, in order; an update has the same tokens, in more rows"""
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
    noise_scale: bool | Annotated[int, Field(ge=1)] = False
    """log the gradient noise scale (arXiv:1812.06162): of every update, or of every N-th"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool | Literal["auto", "require"] = "auto"
    """auto: on a GPU, and eagerly where that fails; true: anywhere; require: or not at all"""
    checkpoint_activations: bool | Literal["auto"] = "auto"
    """recompute each layer in the backward pass; auto: when memory would not do otherwise"""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """on torchrun's ranks: ddp, each holds the whole model (auto); fsdp, each holds a part"""
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
    init_front: str | None = None
    """the part that reads images starts from this run, encoder file or official checkpoint"""
    freeze: tuple[str, ...] = ()
    """parameters that stay as they are, by path: trunk.embed.*, trunk.stack.blocks.0.*"""
    lora: LoraConfig | None = None
    """train adapters alone, beside the weights of train.init; opening the run merges them"""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """evaluate, sample and save the mean of all weights so far, the last counting 1 - ema"""
    stop: StopConfig = StopConfig()
    sample: SampleConfig = SampleConfig()
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """mirrors of metrics.jsonl; W&B is offline unless WANDB_MODE says otherwise"""
