"""One experiment into one run: the only place that trains. A generator of events."""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from espalier import device as machine
from espalier import teaching
from espalier.config import decode, encode, refine
from espalier.data.corpus import Corpus
from espalier.data.reading import Reading
from espalier.durable import write_json
from espalier.errors import UserError
from espalier.evaluate.splits import Splits
from espalier.experiment import Experiment, weights_of
from espalier.nn.gpt import GPT, make
from espalier.provenance import environment
from espalier.run import Run
from espalier.train import checkpoint, events, hearing, lora, mirrors, setup, stages, tuning
from espalier.train.events import Event, Reason
from espalier.train.meter import Stopwatch, Utilisation
from espalier.train.progress import Progress
from espalier.train.resume import read_state, refuse_changes, surroundings
from espalier.train.saving import Saver
from espalier.train.steps import Batch, Update, updates


def fit(
    experiment: Experiment,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train `experiment` into the run directory `out`; the last event is Finished.

    A new run needs a free place. With `resume` the run goes on from its newest sound checkpoint, as
    if it had never stopped: bit for bit on the same machine, with the same threads and torch. When
    `interrupted()` turns true the run is saved and finishes early. Raises UserError, MachineError.
    """
    reading = Reading(experiment.data, experiment.seed, experiment.model.block_size)
    fitted = _fitted(experiment, reading.first)
    training = _Training(fitted, reading, setup.check_device(device))
    training.interrupted = interrupted
    if experiment.train.init is not None and not resume:
        training.init_from(experiment.train.init)  # what is refused here leaves no run behind
    tree = encode(training.experiment)
    place = environment(data=reading.digest, **training.place())
    run = Run.open(out) if resume else Run.create(out, tree, place)
    with run.lock():
        yield from training.start(run, resume)
        try:
            reason = yield from training.go()
        finally:
            complaints = mirrors.close(training.mirrors)
        yield from (events.Noted(training.progress.step, text) for text in complaints)
        yield training.finish(reason)


def _fitted(experiment: Experiment, corpus: Corpus) -> Experiment:
    """With the corpus' vocabulary where the model leaves it open, and a mixture's first corpus."""
    size = experiment.model.vocab_size
    if experiment.data.corpus is None:
        experiment = refine(experiment, {"data": {"corpus": experiment.data.mixture[0].corpus}})
    if size is None:
        return refine(experiment, {"model": {"vocab_size": corpus.vocab_size}})
    if size < corpus.vocab_size:
        raise UserError(
            f"model.vocab_size={size} is smaller than the vocabulary of {corpus.path} "
            f"({corpus.vocab_size}); leave it out to take the corpus' own"
        )
    return experiment


class _Interrupted(Exception):  # noqa: N818
    """Somebody wants the run to end now."""


class _Training:
    """What lives as long as one call of `fit`."""

    run: Run
    saver: Saver

    def __init__(self, experiment: Experiment, reading: Reading, device: str):
        self.experiment, self.reading, self.device = experiment, reading, device
        self.config = experiment.train
        self.block_size = experiment.model.block_size
        micro = experiment.data.batch_size
        self.rows = micro * self.config.gradient_accumulation_steps
        stages.check(self.config, self.block_size)
        self.horizon = setup.horizon(self.config, self.rows * self.block_size)
        self.history: list[tuple[int, float]] = []
        self.rate = setup.rate(self.config, self.horizon, self.history)
        reading.plan(lambda steps: micro * stages.micro_batches(self.config, steps))
        self.model: GPT = make(experiment.model, experiment.seed, device)
        tuning.prepare(self.model, self.config, experiment.seed)
        self.model.train()
        teacher = teaching.teacher(self.config.loss, experiment.model, reading.first, device)
        self.stepper = setup.stepper(
            self.model, experiment.model, self.config, micro, device, teacher
        )
        self.stepper.objective.ends = reading.ends
        precision = self.stepper.precision
        self.splits = Splits(reading, self.block_size, experiment.evaluate, precision.autocast)
        self.utilisation = Utilisation(experiment.model, precision.short, device)
        self.watch, self.advised = Stopwatch(), ""
        self.progress = Progress()
        self.mirrors: list[mirrors.Mirror] = []
        self.interrupted: Callable[[], bool] = lambda: False

    def place(self) -> dict[str, Any]:
        """On what it runs, as environment.json tells it."""
        return {
            "threads": torch.get_num_threads(),
            "device": self.device,
            "device_name": machine.name(self.device),
            "precision": self.stepper.precision.short,
            "load": machine.load(),
        }

    # before the first update

    def init_from(self, source: str) -> None:
        """Another run's weights in place of fresh ones."""
        own = lora.adapters(self.model)
        mine = {n: t for n, t in checkpoint.tensors(self.model).items() if n not in own}
        theirs = tuning.widened(checkpoint.tensors(weights_of(source)), self.model)
        checkpoint.fill(mine, theirs, f"train.init={source}")

    def base(self, run: Run, resume: bool) -> dict[str, str]:
        """The weights beside the adapters, kept in the run and known by their hash."""
        if not lora.adapters(self.model):
            return {}
        if resume and (run.path / lora.BASE).is_file():
            return {"base": lora.load_base(self.model, run.path)}
        if resume and self.config.init is not None:
            self.init_from(self.config.init)
        return {"base": lora.save_base(self.model, run.path)}

    def start(self, run: Run, resume: bool) -> Iterator[Event]:
        """The weights that are there, or the newest checkpoint's; then the headline."""
        self.run = run
        fixed = {"data": self.reading.digest, "surroundings": surroundings(self.device)}
        fixed |= self.base(run, resume)
        self.saver = Saver(run, self.stepper, self.config.keep, fixed)
        spec, kept = self.reading.first.meta.get("tokenizer"), run.path / "tokenizer.json"
        if spec is not None and not kept.exists():
            write_json(kept, spec)
        if (chat := self.reading.first.meta.get("chat")) is not None:
            write_json(run.path / "chat.json", chat)
        torch.manual_seed(self.experiment.seed)
        if resume:
            yield from self._resume()
        self.mirrors = mirrors.start(self.config.track, run.path, run.config)
        yield self._headline()
        if not self.config.eval_only:
            ahead = (self.horizon - self.progress.step) * self.config.gradient_accumulation_steps
            shape = self.stepper.micro_rows, self.block_size
            text = setup.compile_step(self.stepper, self.config.compile, shape, ahead)
            self.stepper.objective.hearing.clear()
            yield from self._note(text)

    def _headline(self) -> events.Started:
        precision = self.stepper.precision
        return events.Started(
            run=self.run.path,
            step=self.progress.step,
            horizon=self.horizon,
            parameters=sum(p.numel() for p in self.model.parameters()),
            tokens_per_step=self.rows * self.block_size,
            train_tokens=self.reading.train_tokens,
            val_tokens=self.reading.val_tokens,
            device=self.device,
            threads=torch.get_num_threads(),
            precision=f"{precision.short} ({precision.reason})",
            exact=self.device == "cpu" or self.config.deterministic,
        )

    def _resume(self) -> Iterator[Event]:
        tree = encode(self.experiment)
        refuse_changes(encode(decode(Experiment, self.run.config)), tree)
        found = self.run.latest()
        for text in self.run.skipped:
            yield from self._note(f"skipped {text}")
        if found is None:
            self.run.rewind(-1)
            if self.config.init is not None and self.config.lora is None:
                self.init_from(self.config.init)
            yield from self._note("no checkpoint yet: starting from the beginning")
        else:
            yield from self._take(found)
            self.run.rewind(self.progress.step, evaluated=self.progress.settled)
        self.history += self.run.losses()
        session = environment(step=self.progress.step, **self.place())
        self.run.amend(tree, session)

    def _take(self, folder: Path) -> Iterator[Event]:
        state = read_state(folder)
        if state["data"] != self.reading.digest:
            raise UserError(
                f"{self.reading.first.path} is not the corpus that {self.run.path} was trained on "
                "(its SHA-256 differs); point data.corpus at that one"
            )
        if state.get("base") != self.saver.fixed.get("base"):
            raise UserError(f"{self.run.path / lora.BASE} is not what {folder} was trained on")
        checkpoint.load_model(self.model, folder)
        checkpoint.load_optimizer(self.stepper.optimizer, folder)
        self.stepper.scale.load(state["scale"])
        self.stepper.guard.skipped.fill_(state["skipped"])
        if self.stepper.noise is not None and "noise" in state:
            self.stepper.noise.load(state["noise"])
        checkpoint.restore(state["random"])
        self.progress = Progress.of(state)
        for key, now in surroundings(self.device).items():
            was = state["surroundings"].get(key)
            if now != was:
                yield from self._note(f"{key} is {now}, it was {was}: it goes on, not bit for bit")

    # updates, and what is due after each

    def go(self) -> Generator[Event, None, Reason]:
        """Train to the horizon or an earlier stop; why it ended."""
        began = time.perf_counter() - self.progress.seconds
        stream = updates(self.stepper, self._batches(), self.rate, self.progress.step)
        try:
            if self.progress.settled:
                reason = self._ended() or self.progress.satisfied(self.config.stop)
            else:
                reason = yield from self._settle()
            while reason is None:
                start = time.perf_counter()
                update = next(stream)
                self.progress.advance(update.tokens // self.block_size, update.tokens)
                yield from self._report(update, start, began)
                self._heed()
                reason = yield from self._settle()
        except _Interrupted:
            if self.progress.step and not self.config.eval_only:
                yield from self._save("interrupted")
            reason = "interrupted"
        return reason

    def _batches(self) -> Iterator[Batch]:
        now = self.progress
        stream = stages.batches(self.reading, self.config, now.step, now.sample)
        while True:
            start = time.perf_counter()
            made = next(stream)
            self.watch.wait(time.perf_counter() - start)
            yield made

    def _heed(self, done: int = 0) -> None:
        if self.interrupted():
            raise _Interrupted

    def _ended(self) -> Reason | None:
        if self.config.eval_only:
            return "eval_only"
        return self.progress.spent(self.horizon, self.config.stop)

    def _report(self, update: Update, start: float, began: float) -> Iterator[Event]:
        """Time the update; every log_interval read it and tell."""
        now = self.progress
        due = now.step % self.config.log_interval == 0
        if due:  # reading waits for the device, so that its work is in the time
            loss, norm = update.loss.item(), update.grad_norm.item()
        elif self.device.startswith("cuda") and self._evaluation_due():
            torch.cuda.synchronize()
        end = time.perf_counter()
        now.seconds = end - began
        self.watch.add(end - start)
        if due:
            yield self._tell(update, loss, norm)
        self.stepper.objective.hearing.clear()
        if due or self.device == "cpu":
            self.stepper.guard.check(now.step)

    def _tell(self, update: Update, loss: float, norm: float) -> events.Stepped:
        mean, waited = self.watch.read()
        speed = update.tokens / mean
        heard = hearing.shares(self.stepper.objective.hearing.take())
        told: dict[str, Any] = {
            "loss": loss,
            "lr": update.learning_rate,
            "grad_norm": norm,
            "tokens": self.progress.tokens,
            "tokens_per_s": speed,
            "mfu": self.utilisation.at(speed, self.progress.seconds),
            "ms": 1000 * mean,
        }
        self._log("train", **told, wait_ms=1000 * waited, **heard, **self.stepper.noted())
        return events.Stepped(
            step=self.progress.step, seconds=self.progress.seconds, shares=heard, **told
        )

    def _evaluation_due(self) -> bool:
        step = self.progress.step
        if self._ended() is not None:
            return True
        return step % self.config.eval_interval == 0 and (
            step > 0 or self.experiment.evaluate.first
        )

    def _settle(self) -> Generator[Event, None, Reason | None]:
        """Evaluate, sample and save, each when due; why training ends here, or None."""
        now, config = self.progress, self.config
        reason, best = self._ended(), False
        if self._evaluation_due():
            self.stepper.guard.check(now.step)
            start = time.perf_counter()
            train, val = self.splits(self.model, self._heed)
            seconds = time.perf_counter() - start
            best = now.judge(train, val)
            self.history.append((now.step, val))
            apart = {"val_losses": dict(self.splits.apart)} if self.splits.apart else {}
            heard = self.splits.hearing.take()
            found = hearing.shares(heard)
            self._log(
                "eval",
                train_loss=train,
                val_loss=val,
                tokens=now.tokens,
                seconds=seconds,
                **apart,
                **found,
                **hearing.by_layer(heard),
            )
            yield events.Evaluated(now.step, train, val, now.tokens, best, found)
            yield from self._advise(hearing.advice(found))
            reason = reason or now.satisfied(config.stop)
        if config.sample.interval and (now.step % config.sample.interval == 0 or reason):
            yield from self._sample()
        now.settled = True
        if now.step and not config.eval_only:
            due = best or bool(reason) or now.step % config.save_interval == 0
            if best if not config.always_save_checkpoint else due:
                yield from self._save(reason)
        return reason

    def _sample(self) -> Iterator[Event]:
        from espalier.evaluate import samples

        wish, step = self.config.sample, self.progress.step
        tokenizer, seed = self.reading.first.tokenizer, self.experiment.seed
        texts = samples.write(self.model, tokenizer, self.block_size, wish, seed)
        self.run.sample(step, texts)
        for text in texts:
            self._log("sample", text=text)
            yield events.Sampled(step, text)

    def _save(self, reason: Reason | None) -> Iterator[Event]:
        found = self.saver.save(self.progress, last=reason is not None)
        if isinstance(found, Path):
            yield events.Saved(self.progress.step, found)
        else:
            yield from self._note(found)

    # words

    def finish(self, reason: Reason) -> events.Finished:
        """The last event; a run that came to its end leaves results/train.json."""
        now = self.progress
        summary = {
            "run": str(self.run.path),
            "reason": reason,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "skipped_updates": int(self.stepper.guard.skipped.item()),
            **{
                key: value for key, value in now.state().items() if key not in {"settled", "sample"}
            },
        }
        if reason not in {"interrupted", "eval_only"}:
            self.run.result("train", summary)
        return events.Finished(now.step, reason, summary)

    def _log(self, kind: str, **fields: Any) -> None:
        record = {"kind": kind, "step": self.progress.step, **fields, "time": time.time()}
        self.run.log(record)
        for mirror in self.mirrors:
            mirror.log(record)

    def _advise(self, text: str) -> Iterator[Event]:
        """Say it once, until something else is to be said; nothing of a model not yet trained."""
        if self.progress.step and text != self.advised:
            self.advised = text
            yield from self._note(text)

    def _note(self, text: str) -> Iterator[Event]:
        if text:
            yield events.Noted(self.progress.step, text)
