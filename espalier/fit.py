"""One experiment into one run: the only place that trains. A generator of events."""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from espalier import device as machine
from espalier import initial, teaching
from espalier.config import decode, encode
from espalier.data.reading import Reading
from espalier.errors import UserError
from espalier.evaluate import exact
from espalier.evaluate.splits import Splits
from espalier.experiment import Experiment, fitted_to
from espalier.nn.gpt import GPT, make
from espalier.provenance import environment
from espalier.run import Run
from espalier.train import ema, events, hearing, mirrors, saving, setup, showing, stages, tuning
from espalier.train import resume as former
from espalier.train.events import Event, Reason
from espalier.train.meter import Stopwatch, Utilisation
from espalier.train.parallel.onlooker import Onlooker
from espalier.train.parallel.ranks import here
from espalier.train.parallel.spread import home
from espalier.train.progress import Progress
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
    Ranks (train.parallel.ranks) all call it alike; the first of them writes the run.
    """
    reading = Reading(experiment.data, experiment.seed, experiment.model.block_size)
    fitted = fitted_to(experiment, reading.first)
    begun = resume and bool(Run.open(out).steps())
    training = _Training(fitted, reading, setup.check_device(device), fresh=not begun)
    training.interrupted = interrupted
    tree = encode(training.experiment)
    place = environment(data=reading.digest, **training.place())
    if training.ranks.leads:
        run = Run.open(out) if resume else Run.create(out, tree, place)
    training.ranks.tell("")  # the others wait until it is there
    if not training.ranks.leads:
        run = Onlooker.open(out)
    with run.lock():
        yield from training.start(run, resume)
        try:
            reason = yield from training.go()
        finally:
            complaints = mirrors.close(training.mirrors)
        yield from (events.Noted(training.progress.step, text) for text in complaints)
        yield from training.read(reason)
        yield training.finish(reason)


class _Interrupted(Exception):  # noqa: N818
    """Somebody wants the run to end now."""


class _Training:
    """What lives as long as one call of `fit`."""

    run: Run
    saver: saving.Saver

    def __init__(self, experiment: Experiment, reading: Reading, device: str, *, fresh: bool):
        self.experiment, self.reading, self.device = experiment, reading, device
        self.ranks = here()
        self.config = experiment.train
        self.block_size = experiment.model.block_size
        micro = experiment.data.batch_size
        self.rows = micro * self.config.gradient_accumulation_steps
        stages.check(self.config, self.block_size, images=reading.images)
        stages.check_shares(self.config, micro, self.ranks.count)
        self.horizon = setup.horizon(self.config, self.rows * self.block_size)
        self.history: list[tuple[int, float]] = []
        self.rate = setup.rate(self.config, self.horizon, self.history)
        reading.plan(lambda steps: micro * stages.micro_batches(self.config, steps))
        place = home(device, self.config.parallel)
        self.model: GPT = make(experiment.model, experiment.seed, place)
        tuning.prepare(self.model, self.config, experiment.seed)
        if fresh:
            initial.fill(self.model, self.config)  # what is refused here leaves no run
        self.model.train()
        teacher = teaching.teacher(self.config.loss, experiment.model, reading.first, device)
        self.stepper = setup.stepper(
            self.model, experiment.model, self.config, micro, device, teacher
        )
        self.stepper.objective.ends = reading.ends
        precision = self.stepper.precision
        self.splits = Splits(reading, self.block_size, experiment.evaluate, precision.autocast)
        self.splits.among = self.stepper.spread
        freeze = self.config.freeze
        self.utilisation = Utilisation(experiment.model, precision.short, device, freeze)
        self.weights = ema.weights(self.model, self.config.ema)
        self.watch, self.advised, self.complaint = Stopwatch(), "", ""
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
            **({} if self.ranks.count == 1 else {"ranks": self.ranks.count}),
        }

    # before the first update

    def start(self, run: Run, resume: bool) -> Iterator[Event]:
        """The weights that are there, or the newest checkpoint's; then the headline."""
        self.run = run
        fixed = {"data": self.reading.digest, "surroundings": former.surroundings(self.device)}
        fixed |= initial.base(self.model, self.config, run, resume=resume)
        self.saver = saving.Saver(run, self.stepper, self.config.keep, fixed, self.weights)
        if self.ranks.leads:
            saving.words(run, self.reading.first.meta)
        former.begin(self.ranks, self.experiment.seed)
        if resume:
            yield from self._resume()
        track = self.config.track if self.ranks.leads else ()
        self.mirrors = mirrors.start(track, run.path, run.config)
        yield self._headline()
        notes = [] if resume else initial.notes(self.config, self.reading.first)
        for text in (*self.reading.notes, *notes):
            yield from self._note(text)
        if not self.config.eval_only:
            ahead = (self.horizon - self.progress.step) * self.config.gradient_accumulation_steps
            shape = min(self.stepper.micro_rows, self.rows // self.ranks.count), self.block_size
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
            trainable=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            tokens_per_step=self.rows * self.block_size,
            train_tokens=self.reading.train_tokens,
            val_tokens=self.reading.val_tokens,
            images=showing.told(self.reading, self.config, self.progress),
            device=self.device,
            threads=torch.get_num_threads(),
            precision=f"{precision.short} ({precision.reason})",
            exact=self.device == "cpu" or self.config.deterministic,
            ranks=self.ranks.count,
        )

    def _resume(self) -> Iterator[Event]:
        tree = encode(self.experiment)
        former.refuse_changes(encode(decode(Experiment, self.run.config)), tree)
        place = self.ranks.tell(str(self.run.latest() or "") if self.ranks.leads else "")
        found = Path(place) if place else None
        for text in self.run.skipped:
            yield from self._note(f"skipped {text}")
        if found is None:
            self.run.rewind(-1)
            if self.stepper.spread.in_pieces and self.run.steps():
                raise UserError(f"{self.run.path} has no sound checkpoint left: begin another run")
            if self.config.lora is None and self.run.steps():
                initial.fill(self.model, self.config)
            yield from self._note("no checkpoint yet: starting from the beginning")
        else:
            yield from self._take(found)
            evaluated = self.progress.settled and not self.config.eval_only
            self.run.rewind(self.progress.step, evaluated=evaluated)
        self.ranks.tell("")  # the others wait until that is done
        self.history += self.run.losses()
        if self.config.eval_only:
            return  # once, and the run stays what it is
        if self._ended() is None:
            self.run.unfinished()
        session = environment(step=self.progress.step, **self.place())
        self.run.amend(tree, session)

    def _take(self, folder: Path) -> Iterator[Event]:
        state = former.read_state(folder)
        former.refuse_others(state, self.saver.fixed, self.reading.first.path, self.run.path)
        self.stepper.spread.load(folder, self.stepper.optimizer)
        self.weights.load(folder)
        self.stepper.load(state)
        former.restore(state, self.ranks, self.experiment.seed)
        self.progress = Progress.of(state)
        for text in former.changed(state["surroundings"], former.surroundings(self.device)):
            yield from self._note(text)

    # updates, and what is due after each

    def go(self) -> Generator[Event, None, Reason]:
        """Train to the horizon or an earlier stop; why it ended."""
        began = time.perf_counter() - self.progress.seconds
        stream = updates(self.stepper, self._batches(), self.rate, self.progress.step)
        try:
            if self.progress.settled and not self.config.eval_only:
                reason = self._ended() or self.progress.satisfied(self.config.stop)
            else:
                reason = yield from self._settle()
            while reason is None:
                start = time.perf_counter()
                update = next(stream)
                parts = stages.accumulation(self.config, self.progress.step)
                rows = self.experiment.data.batch_size * parts
                self.progress.advance(rows, update.tokens)
                self.weights.add(self.progress.step)
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
            self.squares = showing.squares(made)
            self.watch.wait(time.perf_counter() - start)
            yield made

    def _heed(self, done: int = 0) -> None:
        asked, self.progress.seconds = self.ranks.most(self.interrupted(), self.progress.seconds)
        if asked:
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
            yield from self._note(self.complaint)
        self.stepper.objective.hearing.clear()
        if due or self.device == "cpu":
            self.stepper.guard.check(now.step)

    def _tell(self, update: Update, loss: float, norm: float) -> events.Stepped:
        mean, waited = self.watch.read()
        speed = update.tokens / mean
        self.stepper.objective.hearing.meet(self.ranks)
        squares = {side: n / mean for side, n in self.squares.items()}  # this rank's own
        heard = hearing.shares(self.stepper.objective.hearing.take())
        told: dict[str, Any] = {
            "loss": loss,
            "lr": update.learning_rate,
            "grad_norm": norm,
            "tokens": self.progress.tokens,
            "tokens_per_s": speed,
            "mfu": self.utilisation.at(speed / self.ranks.count, self.progress.seconds, squares),
            "ms": 1000 * mean,
        }
        spent = mean * self.progress.step * self.ranks.count  # seconds of all devices
        more = self.stepper.noted() | self.utilisation.noted(spent)
        self._log("train", **told, wait_ms=1000 * waited, **heard, **more)
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
            with self.weights.shown():
                train, val = self.splits(self.model, self._heed)
            seconds = time.perf_counter() - start
            best = now.judge(train, val)
            self.history.append((now.step, val))
            apart = {"val_losses": dict(self.splits.apart)} if self.splits.apart else {}
            heard = self.splits.hearing.take()
            found = hearing.shares(heard)
            told = {"train_loss": train, "val_loss": val, "tokens": now.tokens, "seconds": seconds}
            self._log("eval", **told, **apart, **found, **hearing.by_layer(heard))
            yield events.Evaluated(now.step, train, val, now.tokens, best, found)
            yield from self._note(self.complaint)
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
        with self.weights.shown():
            model = self.stepper.spread.whole(self.experiment.model)
            if model is None:
                return
            texts = samples.write(model, tokenizer, self.block_size, wish, seed)
        self.run.sample(step, texts)
        for text in texts:
            self._log("sample", text=text)
            yield events.Sampled(step, text)

    def _save(self, reason: Reason | None) -> Iterator[Event]:
        found = self.saver.save(self.progress, last=reason is not None)
        if reason is not None:
            self.saver.encoder()
        if isinstance(found, Path):
            yield events.Saved(self.progress.step, found)
        else:
            yield from self._note(found)

    def read(self, reason: Reason) -> Iterator[Event]:
        """Of a model that has learnt from images: how many it reads to the letter."""
        alone = self.ranks.leads and not self.stepper.spread.in_pieces
        if alone and self.reading.images and reason not in {"interrupted", "eval_only"}:
            with self.weights.shown():
                found = exact.both(self.model, self.reading, self.block_size)
            self.run.result("exact", found)
            yield from self._note(exact.told(found))

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
        self.complaint = self.saver.log(record)
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
