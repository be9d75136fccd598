"""Fitting the transformer classifier: one encoder, and a head for each task, through the transformers Trainer.

Batches hold examples of nearly equal length under a budget of tokens; every example counts alike in the loss, however
many share its batch. After each epoch validation is scored; the best epoch is kept. A fit that was interrupted goes on
from its last checkpoint, on a CPU to the same weights.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from evaluation.report import LOWER_IS_BETTER
from slantwise.article import Example
from slantwise.batching import RankBatches, TrainingBatches, padding_share
from slantwise.body import Body
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.network import WEIGHTS, TorchRuntime, WindowEncoder, choose_device, has_bfloat16, quiet
from slantwise.task import Kind, Task
from slantwise.transformer import TransformerClassifier
from slantwise.windows import LEAST_ARTICLE, Encoded, cut_facts
from training import processes
from training.cache import StepCache
from training.encoder_config import TransformerConfig
from training.encoding import encode
from training.fitting import Fitted, Floats, Part, Workspace, primary_score
from training.network import Network, check_layers, freeze, label_weights, losses, parameter_groups
from training.pretrained import load_encoder, takes_segments

COMPLETE = "complete"  # a file of a checkpoint that was written to its end
FINAL = "final.json"  # the trainer's state after a fit that has ended
CURVE = {
    "loss": "train_loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}
FOCAL_GAMMA = 2.0  # Lin et al. 2017
NOTABLE_CUT = 0.2  # of all tokens; from there on the user is warned
NAMED = 5  # of the mistakes of a kind, so many by name


def fit_all(parts: Sequence[Part], config: TransformerConfig, workspace: Workspace) -> dict[str, Fitted]:
    """Fine-tune one encoder for all parts on their train splits; validation chooses the epoch.

    Deterministic in `config.seed` on a CPU. Raises ConfigurationError where the encoder cannot be had.
    """
    for part in parts:
        if not len(part.train) or not len(part.validation):
            raise CorpusError(
                f"the transformer needs both: {len(part.train)} train and {len(part.validation)} validation examples "
                f"of task {part.task.name}"
            )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    quiet()
    set_seed(config.seed)  # before the heads are drawn: the Trainer's seed comes too late for them
    encoder, tokenizer, pad, provenance = load_encoder(config)
    module = WindowEncoder(encoder, config.token_pooling, takes_segments(encoder))
    network = Network(module, config.pooling, [part.task for part in parts], config.dropout)
    check_layers(network, config.freeze_layers, config.layer_decay)
    freeze(network, config.freeze_layers)
    runtime = TorchRuntime(module, _device(config), full=config.precision == "float32")
    body = Body(tokenizer, runtime, config.windowing, pad, config.pooling, provenance=provenance)
    _check_targets(parts, body)
    examples = _Joined.of([(part.task, part.train) for part in parts], body, workspace.cache)
    judged = _Joined.of([(part.task, part.validation) for part in parts], body, workspace.cache)
    trainer = _train(network, body, examples, judged, parts, config, workspace)
    final = trainer.body()
    vectors = final.vectors_of(judged.encoded)
    facts = _facts(trainer, examples, judged, provenance)
    note = f"epoch {facts['epoch']} of {config.epochs}"
    if facts["cut_tokens"]:
        note += f", {facts['cut_tokens']:.1%} of the tokens cut, in {facts['cut_articles']:.1%} of the examples"
    if facts["cut_tokens"] > NOTABLE_CUT:
        workspace.progress.warn(
            f"{facts['cut_tokens']:.0%} of the training articles' tokens are not read: see classifier.long"
            f"={config.long}, max_tokens={config.max_tokens}, max_windows={config.max_windows}"
        )
    fitted = {}
    for part in parts:
        head: Any = network.heads[part.task.name]
        classifier = TransformerClassifier(part.task, final, _numpy(head.weight).T.copy(), _numpy(head.bias))
        probabilities = classifier.from_representation(vectors[judged.rows[part.task.name]])
        fitted[part.task.name] = Fitted(classifier, probabilities, note, facts, _curve(trainer))
    return fitted


def _device(config: TransformerConfig) -> torch.device:
    """Of this process; the Trainer gives each the GPU that it is to have."""
    device = choose_device(config.device)
    if device.index is not None:
        raise ConfigurationError(
            f"classifier.device={config.device}: training takes the first GPU that it sees; expected "
            f"classifier.device=cuda, and CUDA_VISIBLE_DEVICES={device.index} in the environment"
        )
    return device


def _check_targets(parts: Sequence[Part], body: Body) -> None:
    """Before hours of work: a target of the test split, too, must leave room for its article."""
    for part in parts:
        long = {target: id_ for target, id_ in part.targets.items() if not body.takes_target(target)}
        if long:
            first = list(long.items())[:NAMED]
            named = "; ".join(f"{id_}: {shorten(target, 60, placeholder=' …')!r}" for target, id_ in first)
            raise CorpusError(
                f"task {part.task.name}: no room beside {len(long)} target{'s' * (len(long) > 1)} for {LEAST_ARTICLE} "
                f"tokens of their article in windows of classifier.max_tokens={body.windowing.max_tokens} ({named}"
                f"{'; …' if len(long) > NAMED else ''}); expected shorter targets or longer windows"
            )


def _numpy(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().float().cpu().numpy()
    return found


@dataclass(frozen=True)
class _Joined:
    """The distinct examples of all tasks, encoded, and for each task which of them it labels.

    rows    by task: int64 (n_task,), the place of each of the task's examples among the distinct ones
    wanted  by task: float32 (n_task, n_labels), the share of each label
    """

    encoded: Encoded
    rows: Mapping[str, npt.NDArray[np.int64]]
    wanted: Mapping[str, Floats]
    kinds: Mapping[str, Kind]

    @classmethod
    def of(cls, labelled: Sequence[tuple[Task, Any]], body: Body, cache: StepCache | None = None) -> _Joined:
        place: dict[Example, int] = {}
        rows = {}
        for task, part in labelled:
            found = [place.setdefault(example, len(place)) for example in part.examples]
            rows[task.name] = np.array(found, np.int64)
        wanted = {task.name: _wanted(task, part) for task, part in labelled}
        return cls(encode(body, list(place), cache), rows, wanted, {task.name: task.kind for task, _ in labelled})

    def by_example(self) -> list[dict[str, list[int]]]:
        """For each distinct example, by task, the rows of `wanted` that are about it."""
        found: list[dict[str, list[int]]] = [{} for _ in range(self.encoded.n)]
        for name, rows in self.rows.items():
            for row, example in enumerate(rows.tolist()):
                found[example].setdefault(name, []).append(row)
        return found

    @property
    def labelled(self) -> int:
        return sum(map(len, self.rows.values()))


def _wanted(task: Task, part: Any) -> Floats:
    shares = getattr(part, "shares", None)
    if shares is not None:
        return np.asarray(shares, np.float32)
    if task.kind == "multilabel":
        return np.asarray(part.gold, np.float32)
    return np.eye(len(task.labels), dtype=np.float32)[part.gold]


class _Indices(Dataset[int]):
    """The examples by their numbers; the collator makes a batch of them."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


class _Collator:
    def __init__(self, examples: _Joined, pad: int) -> None:
        self.examples, self.pad = examples, pad
        self.starts = examples.encoded.starts
        self.about = examples.by_example()
        self.wanted = {name: torch.from_numpy(wanted) for name, wanted in examples.wanted.items()}

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        labelled = batch
        batch = batch or [0]  # an empty batch is an example whose labels do not count
        windows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in batch])
        owners = np.repeat(np.arange(len(batch)), [self.starts[i + 1] - self.starts[i] for i in batch])
        ids, mask, segments = map(torch.from_numpy, self.examples.encoded.padded(windows, self.pad))
        inputs: dict[str, Any] = {"ids": ids, "mask": mask, "segments": segments, "owners": torch.from_numpy(owners)}
        for name, wanted in self.wanted.items():
            pairs = [(place, row) for place, i in enumerate(labelled) for row in self.about[i].get(name, ())]
            inputs[f"rows_{name}"] = torch.tensor([place for place, _ in pairs], dtype=torch.int64)
            inputs[f"wanted_{name}"] = wanted[[row for _, row in pairs]]
        return inputs | {"n": len(batch)}


class _Loader(DataLoader[int]):
    """Tells its batches which epoch it is, as the Trainer asks of a loader."""

    def set_epoch(self, number: int) -> None:
        sampler: Any = self.batch_sampler
        sampler.set_epoch(number)


class _Trainer(Trainer):  # type: ignore[misc]
    """The library's Trainer with our batches, loss, optimiser groups and validation."""

    optimizer: torch.optim.Optimizer | None
    control: Any

    def __init__(
        self, network: Network, body: Body, examples: _Joined, judged: _Joined, parts: Sequence[Part],
        config: TransformerConfig, workspace: Workspace, arguments: TrainingArguments,
    ) -> None:  # fmt: skip
        self.examples, self.judged, self.parts = examples, judged, parts
        self.settings, self.workspace, self.template = config, workspace, body
        self.seconds = 0.0
        # the scores that the Trainer sees are better the higher: those of errors have a minus
        errors = all(workspace.metrics[part.task.name] in LOWER_IS_BETTER for part in parts)
        self.sign = -1.0 if errors else 1.0
        encoded = examples.encoded
        windows = np.diff(encoded.starts)
        lengths = np.maximum.reduceat(encoded.lengths, encoded.starts[:-1])
        together = arguments.world_size * config.accumulate
        if encoded.n < together:
            raise ConfigurationError(
                f"classifier.accumulate={config.accumulate}: {encoded.n} training examples cannot fill the {together} "
                f"batches of a step; expected {max(encoded.n // arguments.world_size, 1)} at most"
            )
        self.together = together
        self.plan = TrainingBatches(
            lengths, windows, config.batch_tokens, config.batch_size, config.epochs, config.seed, together
        )
        tokens = np.add.reduceat(encoded.lengths, encoded.starts[:-1])
        self.padding = padding_share(self.plan.epoch(0), lengths, windows, tokens)
        self.weights: dict[str, Tensor | None] = dict.fromkeys(examples.rows)
        if config.class_weight == "balanced":
            self.weights = {
                name: label_weights(torch.from_numpy(wanted), examples.kinds[name]).to(arguments.device)
                for name, wanted in examples.wanted.items()
            }
        super().__init__(
            model=network, args=arguments, train_dataset=_Indices(encoded.n), eval_dataset=_Indices(judged.encoded.n)
        )
        self.loss_is_scaled_for_ga = False

    def get_train_dataloader(self) -> DataLoader[int]:
        sampler = RankBatches(self.plan, self.args.process_index, self.args.world_size)
        collate = _Collator(self.examples, self.template.pad)
        return _Loader(_Indices(self.examples.encoded.n), batch_sampler=sampler, collate_fn=collate)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            c = self.settings
            head_rate = c.head_learning_rate or c.learning_rate
            groups = parameter_groups(self.model, c.learning_rate, head_rate, c.layer_decay, c.weight_decay)
            self.optimizer = torch.optim.AdamW(list(groups), lr=c.learning_rate, fused=True)
        return self.optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **more: Any) -> Tensor:
        """The sum over the batch's labelled examples by the mean number of them in a batch: in every epoch each
        example then counts the same."""
        wanted = {name: (inputs.pop(f"rows_{name}"), inputs.pop(f"wanted_{name}")) for name in self.examples.rows}
        logits = model(**inputs)
        c = self.settings
        focal = FOCAL_GAMMA if c.loss == "focal" else 0.0
        total = sum(found.sum() for found in logits.values()) * 0.0  # a head without examples has gradients, too
        if self.args.world_size > 1:  # and Longformer's global attention, which nothing uses: processes wait for each
            total = total + 0.0 * sum(p.sum() for p in model.parameters() if p.requires_grad)
        for name, (rows, labels) in wanted.items():
            kind = self.examples.kinds[name]
            found = losses(logits[name][rows].float(), labels, kind, self.weights[name], focal, c.label_smoothing)
            total = total + found.sum()
        scaled: Tensor = total * len(self.plan) / self.examples.labelled
        return scaled

    def evaluate(self, *arguments: Any, **more: Any) -> dict[str, float]:
        """The primary metric on validation, the mean over the tasks; all processes share the work."""
        vectors = self._shared_vectors(self.body())
        scores = {}
        for part in self.parts:
            head = self.model.heads[part.task.name]
            classifier = TransformerClassifier(part.task, self.template, _numpy(head.weight).T, _numpy(head.bias))
            probabilities = classifier.from_representation(vectors[self.judged.rows[part.task.name]])
            scores[part.task.name] = primary_score(part, probabilities, self.workspace.metrics[part.task.name])
        metrics = {"eval_score": float(np.mean(list(scores.values())))}
        if len(scores) > 1:
            metrics |= {f"eval_score_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _shared_vectors(self, body: Body) -> Floats:
        encoded = self.judged.encoded
        if self.args.world_size == 1:
            return body.vectors_of(encoded)
        mine = body.window_vectors(encoded, self.args.process_index, self.args.world_size)
        gathered = torch.from_numpy(mine).to(self.args.device)
        torch.distributed.all_reduce(gathered)  # each window is 0 in all processes but one
        return body.pool(_numpy(gathered), encoded.starts)

    def body(self) -> Body:
        """The body with the weights as they are now."""
        self.model.eval()
        attention = None if self.model.attention is None else _numpy(self.model.attention.weight)[0]
        return replace(self.template, attention=attention)


class _Watcher(TrainerCallback):  # type: ignore[misc]
    """Tells a person how far it is, stops early, and marks checkpoints that are whole."""

    def __init__(self, trainer: _Trainer) -> None:
        self.trainer, self.config, self.progress = trainer, trainer.settings, trainer.workspace.progress
        self.started, self.done = time.perf_counter(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.started, self.done = time.perf_counter(), state.global_step
        if state.global_step:
            self.progress.say(f"  going on from step {state.global_step:,} of {state.max_steps:,}")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        steps, every = state.global_step, self.config.checkpoint_steps
        # after the last step of an epoch the checkpoint waits for the validation score
        if every and steps % every == 0 and steps * self.trainer.together % len(self.trainer.plan):
            control.should_save = True
        rate = (time.perf_counter() - self.started) / max(steps - self.done, 1)
        left = rate * (state.max_steps - steps)
        self.progress.update(
            f"epoch {state.epoch:.2f}/{args.num_train_epochs:g}, step {steps:,}/{state.max_steps:,}, "
            f"{_duration(left)} left at most"
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **more: Any) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise ConfigurationError(
                f"the loss of epoch {state.epoch:.0f} is {logs['loss']}: training has diverged; expected a lower "
                f"classifier.learning_rate than {self.config.learning_rate:g}"
                + (", or classifier.precision=float32" if args.bf16 else "")
            )
        if _is_told(logs):
            told = _told({"epoch": state.epoch, **logs}, self.trainer.sign)
            self.trainer.workspace.record(told, state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **more: Any) -> None:
        score = metrics["eval_score"]
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), float("nan"))
        self.progress.say(f"  epoch {state.epoch:.0f}: loss {loss:.3f}, validation {self.trainer.sign * score:.3f}")
        scores = [entry["eval_score"] for entry in state.log_history if "eval_score" in entry]
        if _stalled(scores, self.config.patience):
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if args.should_save:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _train(
    network: Network, body: Body, examples: _Joined, judged: _Joined, parts: Sequence[Part],
    config: TransformerConfig, workspace: Workspace,
) -> _Trainer:  # fmt: skip
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    device = _device(config)
    half = config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(device))
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if half else "no"  # `accelerate launch` may have set another
    with workspace.files() as own:
        folder = processes.from_first(own)
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=config.epochs,
            gradient_accumulation_steps=config.accumulate,
            warmup_steps=config.warmup,
            lr_scheduler_type="linear",
            bf16=half,
            ddp_find_unused_parameters=False,  # every head has gradients in every batch, see compute_loss
            use_cpu=device.type == "cpu",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
            logging_strategy="epoch",
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=config.seed,
        )
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # else the Trainer divides a batch among all GPUs, and windows from their articles
        trainer = _Trainer(network, body, examples, judged, parts, config, workspace, arguments)
        trainer.add_callback(_Watcher(trainer))
        trainer.remove_callback(PrinterCallback)
        if not _restore_final(trainer, folder):
            start = time.perf_counter()
            last = processes.from_first(_last_checkpoint(folder) if processes.is_first() else None)
            if last is not None and _is_exhausted(last, config.patience):
                trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
                trainer._load_best_model()
            else:
                trainer.train(resume_from_checkpoint=None if last is None else str(last))
            trainer.seconds = time.perf_counter() - start
            trainer.accelerator.wait_for_everyone()  # all have loaded the best weights
            if arguments.should_save and workspace.folder is not None:
                _keep_final(trainer, folder)
    return trainer


def _last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; broken ones are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_exhausted(checkpoint: Path, patience: int) -> bool:
    """Whether the run was interrupted after early stopping had ended its training."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return _stalled([entry["eval_score"] for entry in state.log_history if "eval_score" in entry], patience)


def _stalled(scores: Sequence[float], patience: int) -> bool:
    return bool(patience and scores and len(scores) - 1 - int(np.argmax(scores)) >= patience)


def _keep_final(trainer: _Trainer, folder: Path) -> None:
    """The trained weights in place of the checkpoints, for a run of several fits that is interrupted later."""
    save_file({name: t.detach().cpu().contiguous() for name, t in trainer.model.state_dict().items()}, folder / WEIGHTS)
    trainer.state.save_to_json(str(folder / "partial.json"))
    (folder / "partial.json").rename(folder / FINAL)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def _restore_final(trainer: _Trainer, folder: Path) -> bool:
    if not (folder / FINAL).exists():
        return False
    trainer.state = TrainerState.load_from_json(str(folder / FINAL))
    trainer.model.load_state_dict(load_file(folder / WEIGHTS))
    return True


def _facts(trainer: _Trainer, examples: _Joined, judged: _Joined, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What the run's record says of the fit."""
    history = trainer.state.log_history
    scores = [entry["eval_score"] for entry in history if "eval_score" in entry]
    best = int(np.argmax(scores))
    return {
        **provenance,
        "device": trainer.args.device.type,
        "precision": "bfloat16" if trainer.args.bf16 else "float32",
        "epoch": best + 1,
        "validation_scores": {str(i): trainer.sign * score for i, score in enumerate(scores, start=1)},
        "padding_share": round(trainer.padding, 4),
        "validation_padding_share": round(trainer.template.padding(judged.encoded), 4),
        "batches_per_epoch": len(trainer.plan),
        **cut_facts(examples.encoded),
        **{f"validation_{name}": value for name, value in cut_facts(judged.encoded).items()},
        "fit_seconds": round(trainer.seconds, 1),
    }


def _curve(trainer: _Trainer) -> list[dict[str, float]]:
    """Loss, learning rate and validation score of the steps after which they were taken."""
    entries = trainer.state.log_history
    return [{"step": entry["step"], **_told(entry, trainer.sign)} for entry in entries if _is_told(entry)]


def _is_told(entry: Mapping[str, float]) -> bool:
    return "eval_score" in entry or not CURVE.keys().isdisjoint(entry)


def _told(entry: Mapping[str, float], sign: float) -> dict[str, float]:
    """What of a log entry is told, under our names."""
    told = {CURVE[key]: value for key, value in entry.items() if key in CURVE}
    scores = {key.removeprefix("eval_"): sign * value for key, value in entry.items() if key.startswith("eval_")}
    return {"epoch": entry["epoch"], **told, **{f"validation_{name}": value for name, value in scores.items()}}
