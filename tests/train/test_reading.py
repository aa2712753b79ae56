"""Runs that learn from images: what they keep, from what they start, and going on exactly."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from espalier import api, experiment, initial
from espalier.commands.prepare import Images, prepare
from espalier.config import decode, refine
from espalier.cost import count
from espalier.errors import ConfigError, UserError
from espalier.experiment import Experiment
from espalier.fit import fit
from espalier.nn.gpt import make, sketch
from espalier.nn.slots import roles
from espalier.run import MODEL, OPTIMIZER, Run
from espalier.train import ema, tuning
from espalier.train.events import Evaluated, Finished, Noted, Started
from espalier.train.meter import Utilisation
from espalier.train.parallel.ranks import Ranks
from espalier.train.settings import TrainConfig
from espalier.train.slots import Named

SMALL = (
    *("model.n_layer=1", "train.log_interval=1", "train.warmup_iters=1", "evaluate.first=false"),
    *("data.batch_size=4", "train.save_interval=3", "train.eval_interval=3"),
)
FREEZE = "train.freeze=[trunk.front.sam_model.*]"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reading") / "pages"
    settings = ("kinds=lines", "side=128", "lines=2", "questions=0")
    prepare("synthetic-ocr", *settings, images=Images(samples=8), out=place)
    return place


def plan(pages: Path, *overrides: str) -> Experiment:
    words = [f"data.corpus={pages}", *SMALL, "train.max_iters=6", *overrides]
    return experiment.load("deepseek-ocr-tiny", words)


def trained(pages: Path, out: Path, *overrides: str, resume: bool = False) -> list[object]:
    return list(fit(plan(pages, *overrides), out, resume=resume, device="cpu"))


@pytest.fixture(scope="module")
def first(pages: Path) -> Path:
    """A stage 1 of six updates."""
    trained(pages, pages.parent / "first")
    return pages.parent / "first"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step-00000006" / MODEL)


@pytest.mark.parametrize("more", [(), ("train.ema=0.9",), ("data.images.rows=packed",)])
def test_a_run_with_images_goes_on_bit_for_bit(
    pages: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    trained(pages, tmp_path / "whole", *more)
    stopped = iter(fit(plan(pages, *more), tmp_path / "half", device="cpu"))
    for event in stopped:
        if isinstance(event, Evaluated) and event.step == 3:
            break
    next(stopped)  # it is saved
    stopped.close()  # type: ignore[attr-defined]
    trained(pages, tmp_path / "half", *more, resume=True)
    for file in (MODEL, OPTIMIZER, *([ema.LIVE] if "train.ema=0.9" in more else [])):
        found = [
            tmp_path / one / "checkpoints" / "step-00000006" / file for one in ("whole", "half")
        ]
        assert found[0].read_bytes() == found[1].read_bytes(), file


def test_the_headline_tells_what_there_is_to_see(pages: Path, tmp_path: Path) -> None:
    events = trained(pages, tmp_path / "run", FREEZE, "train.max_iters=1")
    start = events[0]
    assert isinstance(start, Started)
    assert start.images.startswith("7 training, 1 validation samples; first batch: inputs [4, ")
    assert start.images.endswith("4 images (4 of 3 x 128 x 128)")
    assert start.trainable < start.parameters
    notes = [one.message for one in events if isinstance(one, Noted)]
    assert notes == [
        "read to the letter, freely: 0 of 7 of training, 0 of 1 of validation: not converged"
    ]
    assert json.loads((tmp_path / "run" / "results" / "exact.json").read_text())["train"] == [0, 7]


def test_stage_two_begins_with_the_encoder_of_stage_one(
    pages: Path, first: Path, tmp_path: Path
) -> None:
    trained(pages, tmp_path / "second", f"train.init_front={first}", FREEZE, "seed=7")
    before, after = weights(first), weights(tmp_path / "second")
    sam = [name for name in before if name.startswith("trunk.front.sam_model.")]
    assert sam
    for name in sam:
        assert torch.equal(before[name], after[name]), name
    moments = load_file(tmp_path / "second" / "checkpoints" / "step-00000006" / OPTIMIZER)
    assert not [name for name in moments if name.startswith("trunk.front.sam_model.")]
    assert "trunk.front.projector.layers.weight.exp_avg" in moments
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("what", ["run", "encoder", "checkpoint"])
def test_an_encoder_starts_from_whatever_holds_it(
    first: Path, pages: Path, what: str, tmp_path: Path
) -> None:
    source = {"run": first, "encoder": first / "encoder.safetensors", "checkpoint": first}[what]
    if what == "checkpoint":  # a run of before: no file of the encoder alone
        (first / "encoder.safetensors").rename(tmp_path / "kept")
    shape = api.load(first, device="cpu").config.model
    net = make(shape, 99)
    initial.fill(net, decode(TrainConfig, {"init_front": str(source)}))
    if what == "checkpoint":
        (tmp_path / "kept").rename(first / "encoder.safetensors")
    held = weights(first)
    mine = net.state_dict()
    assert all(torch.equal(held[n], t) for n, t in mine.items() if n.startswith("trunk.front."))
    assert not torch.equal(held["head.weight"], mine["head.weight"])


def test_a_text_model_starts_one_that_reads(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own front stays fresh."""
    shape = api.load(first, device="cpu").config.model
    reader, text = make(shape, 5), make(shape.model_copy(update={"front": None}), 6)
    fresh = {n: t.clone() for n, t in reader.state_dict().items() if n.startswith("trunk.front.")}
    monkeypatch.setattr(initial, "weights_of", lambda source: text)
    initial.fill_from(reader, "text")
    mine = reader.state_dict()
    assert all(torch.equal(mine[n], t) for n, t in {**fresh, **text.state_dict()}.items())


def test_an_encoder_of_another_size_is_refused(first: Path, pages: Path) -> None:
    shape = plan(pages, "model.front.clip.width=32", "model.vocab_size=300").model
    with pytest.raises(UserError, match="the configuration says"):
        initial.fill(make(shape, 1), decode(TrainConfig, {"init_front": str(first)}))


def test_a_model_without_a_front_takes_no_encoder(first: Path) -> None:
    shape = api.load(first, device="cpu").config.model.model_copy(update={"front": None})
    with pytest.raises(UserError, match="this model reads no images"):
        initial.fill(make(shape, 1), decode(TrainConfig, {"init_front": str(first)}))


def test_the_mean_of_weights_is_what_is_saved(pages: Path, tmp_path: Path) -> None:
    """After one update of two weights: d = min(0.9, 2 / 11), by hand."""
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    mean = ema.weights(net, 0.9)
    mean.add(0)  # of step 0 nothing is new: 1 stays
    net.weight.data.fill_(12.0)
    mean.add(1)
    with mean.shown():
        torch.testing.assert_close(net.weight.data, torch.tensor([[1 + 11 * (1 - 2 / 11)]]))
        mean.save(tmp_path)
    assert net.weight.item() == 12.0
    assert load_file(tmp_path / ema.LIVE)["weight"].item() == 12.0


def test_a_disk_that_refuses_what_stands_beside_the_mean_refuses_the_save(tmp_path: Path) -> None:
    mean = ema.weights(torch.nn.Linear(1, 1, bias=False), 0.9)
    with pytest.raises(OSError, match="No such file"):
        mean.save(tmp_path / "gone")


def test_what_stands_beside_the_mean_takes_room_too() -> None:
    net = torch.nn.Linear(3, 1, bias=False)
    assert (ema.weights(net, None).size, ema.weights(net, 0.9).size) == (0, 12)


class Two(Ranks):
    """The first of two, who hears nothing of the other."""

    count = 2


def test_flops_of_training_are_those_of_all_ranks(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four images the first rank reads two; the tokens told are here its own."""
    for module in ("fit", "train.stages"):
        monkeypatch.setattr(f"espalier.{module}.here", Two)
    trained(pages, tmp_path / "run", "train.max_iters=1")
    run = Run.open(tmp_path / "run")
    told = next(record for record in run.metrics() if record["kind"] == "train")
    meter = Utilisation(decode(Experiment, run.config).model, "fp32", "cpu")
    assert told["total_flops"] == pytest.approx(meter.work(told["tokens"], {128: 4}))


def test_rows_with_images_are_not_cut_and_no_run_is_begun(pages: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would cut images"):
        trained(pages, tmp_path / "run", "train.length_schedule=[{until: 3, block_size: 16}]")
    assert not (tmp_path / "run").exists()


def counted(recipe: str) -> Iterator[int]:
    """Parameters of the encoder and of the GPT, and those that the optimizer itself holds."""
    wish = experiment.load(recipe)
    net = sketch(wish.model)
    tuning.prepare(net, wish.train, 0)
    parts = count.parameters(net).by_part
    yield parts.pop("trunk.front")
    yield sum(parts.values())
    role = roles(net)
    named = [Named(name, p, role[name]) for name, p in net.named_parameters() if p.requires_grad]
    moments = wish.train.optimizer.build(named, 0.0).state()
    yield sum(t.numel() for name, t in moments.items() if name.endswith(".exp_avg"))


@pytest.mark.parametrize(
    ("recipe", "trainable"),
    [("deepseek-ocr-stage1", 961_760_768), ("deepseek-ocr-stage2", 866_191_616)],
)
def test_the_optimizer_holds_what_a_stage_trains(recipe: str, trainable: int) -> None:
    assert list(counted(recipe)) == [401_372_160, 560_990_720, trainable]


def test_freezing_what_is_not_there_is_an_error(pages: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no parameter"):
        trained(pages, tmp_path / "run", "train.freeze=[trunk.front.samm.*]")


def test_a_run_with_images_can_be_opened_and_asked(first: Path, pages: Path) -> None:
    loaded = api.load(first, device="cpu")
    file = next((pages / "images").rglob("*.png"))
    assert loaded.views(file).whole.shape == (3, 128, 128)
    assert Run.open(first).latest() is not None
    assert isinstance(loaded.chat.image_id, int)


def test_a_run_of_a_mixture_reads_a_file_as_its_corpus_of_images_was_prepared(
    first: Path, pages: Path
) -> None:
    loaded = api.load(first, device="cpu")
    mixture = {"corpus": None, "mixture": [{"corpus": str(pages)}], "images": {"mode": None}}
    loaded.config = refine(loaded.config, {"data": mixture})
    file = next((pages / "images").rglob("*.png"))
    assert loaded.views(file).whole.shape == (3, 128, 128)


def test_text_and_images_are_mixed_in_one_run(pages: Path, tmp_path: Path) -> None:
    """Rows of conversations and of pages, by weight; each corpus has a loss of its own."""
    talks = tmp_path / "talks.jsonl"
    said = [[("user", f"hi {i}"), ("assistant", f"ho {i}")] for i in range(60)]
    turns = [[{"role": role, "content": text} for role, text in one] for one in said]
    lines = [json.dumps({"messages": one}) for one in turns]
    talks.write_text("\n".join(lines))
    text = tmp_path / "talks"
    prepare(str(talks), chat="nanochat", tokenizer=str(pages), out=text)
    mixture = f"data.mixture=[{{corpus: {pages}}}, {{corpus: {text}}}]"
    events = trained(
        pages, tmp_path / "run", f"data.corpus={pages}", mixture, "model.block_size=64"
    )
    assert isinstance(events[-1], Finished)
    evaluated = [one for one in Run.open(tmp_path / "run").metrics() if one["kind"] == "eval"]
    assert set(evaluated[-1]["val_losses"]) == {"pages", "talks"}


def test_finished_tells_its_last_step(pages: Path, first: Path) -> None:
    events = trained(pages, first.parent / "short", "train.max_iters=1")
    assert isinstance(events[-1], Finished)
    assert events[-1].step == 1
