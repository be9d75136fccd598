"""Measure the intervals of `evaluation.intervals`: how often they hold the truth, and how long they take.

    OMP_NUM_THREADS=1 python -m benchmarks.intervals coverage [repeats]
    OMP_NUM_THREADS=1 python -m benchmarks.intervals speed [examples]

Coverage: samples of a made-up classifier's predictions, whose metrics are known from a very large sample. Examples are
single, or come in groups of about 10 that share how hard they are and which labels are frequent. The classifier is
overconfident, as neural networks are (Guo et al. 2017). With 1,000 repeats an interval that covers .95 is measured
with a standard error of .007.

Speed: all metrics of many predictions, with 1,000 resamples, groups of one example (the most there can be).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evaluation.intervals import INTERVALS, evaluate
from evaluation.metrics import available, compute
from evaluation.predictions import Predictions
from slantwise.task import Kind, Task

MULTICLASS = Task("topic", "multiclass", ("a", "b", "c", "d", "e"))
MULTILABEL = Task("framing", "multilabel", ("a", "b", "c", "d", "e", "f"))
SHARES = (0.32, 0.25, 0.19, 0.14, 0.1)  # how frequent labels are: of an example, or the chance that it has the label
PRESENT = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15)
METRICS: dict[Kind, tuple[str, ...]] = {
    "multiclass": ("accuracy", "macro_f1", "mcc", "log_loss", "ece"),
    "multilabel": ("micro_f1", "macro_f1", "example_f1", "log_loss", "ece"),
}
OVERCONFIDENCE = 1.5
GROUP_EFFECT = 0.6  # standard deviation, in units of the noise of an example
POPULATION = 1_000_000


def main() -> None:
    what, number = (*sys.argv[1:], *("", "")[len(sys.argv) - 1 :])[:2]
    if what == "coverage":
        print_coverage(int(number or 1000))
    elif what == "speed":
        print_speed(int(number or 100_000))
    else:
        sys.exit(__doc__)


# --- Coverage ---------------------------------------------------------------------------------------------------------


def simulate(task: Task, n: int, grouped: bool, rng: np.random.Generator) -> Predictions:
    """n predictions, in groups of one, or of 1 + Poisson(9) with an intra-group correlation of about .1 to .3."""
    sizes = 1 + rng.poisson(9, size=n // 5 + 10) if grouped else np.ones(n, dtype=np.int64)
    group = np.repeat(np.arange(len(sizes)), sizes)[:n]
    shared = GROUP_EFFECT if grouped else 0.0
    strength = 1.6 + shared * rng.normal(size=len(sizes))[group][:, None]
    leaning = shared * rng.normal(size=(len(sizes), len(task.labels)))[group]
    noise = rng.normal(size=(n, len(task.labels)))
    if task.kind == "multiclass":
        gold = (np.log(SHARES) + leaning + rng.gumbel(size=noise.shape)).argmax(axis=1)
        logits = OVERCONFIDENCE * 1.6 * (noise + strength * (gold[:, None] == np.arange(len(task.labels))))
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        predicted: npt.NDArray[np.int64] | npt.NDArray[np.bool_] = probabilities.argmax(axis=1)
    else:
        odds = np.log(PRESENT) - np.log1p(-np.array(PRESENT))
        gold = odds + leaning + rng.logistic(size=noise.shape) > 0
        logits = OVERCONFIDENCE * (odds + 1.6 * (noise + strength * (gold - 0.5)))
        probabilities = 1 / (1 + np.exp(-logits))
        predicted = probabilities > 0.5
    return made_up(task, gold, probabilities, predicted, [f"g{i}" for i in group])


def made_up(
    task: Task,
    gold: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.float64],
    predicted: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    groups: Sequence[str],
) -> Predictions:
    blank, nothing = [""] * len(gold), [None] * len(gold)
    return Predictions(
        task, "test", blank, blank, gold, probabilities.astype(np.float32), predicted, groups, nothing, nothing
    )


def coverage(
    task: Task,
    n: int,
    grouped: bool,
    repeats: int,
    interval: str,
    resamples: int = 1000,
    seed: int = 0,
    population: int = POPULATION,
) -> dict[str, tuple[float, float, float]]:
    """For each of METRICS the share of 95 % intervals that hold the truth, that lie above it, and their mean width."""
    names = METRICS[task.kind]
    truth = compute(simulate(task, population, grouped, np.random.default_rng([seed, 1])), names)
    rng = np.random.default_rng([seed, 2])
    bounds = np.empty((repeats, len(names), 2))
    for i in range(repeats):
        found = evaluate(simulate(task, n, grouped, rng), names, resamples, seed=i, interval=interval)
        bounds[i] = [(found[name].low, found[name].high) for name in names]
    low, high = bounds[..., 0], bounds[..., 1]
    true = np.array([truth[name] for name in names])
    held, above = ((low <= true) & (true <= high)).mean(axis=0), (low > true).mean(axis=0)
    return dict(zip(names, zip(held, above, (high - low).mean(axis=0), strict=True), strict=True))


def intra_group_correlation(task: Task) -> float:
    """Of whether an answer is right (multilabel: of the share of right decisions), by moments."""
    sample = simulate(task, 200_000, True, np.random.default_rng(0))
    right = (sample.gold == sample.predicted).reshape(len(sample), -1).mean(axis=1)
    groups = np.unique(sample.groups, return_inverse=True)[1]
    sizes, sums = np.bincount(groups), np.bincount(groups, right - right.mean())
    return float(((sums**2).sum() - len(right) * right.var()) / ((sizes * (sizes - 1)).sum() * right.var()))


def print_coverage(repeats: int) -> None:
    print(f"coverage of 95 % intervals over {repeats:,} repeats (share of intervals that lie above the truth)")
    for task in (MULTICLASS, MULTILABEL):
        print(f"intra-group correlation of right answers, {task.kind}: {intra_group_correlation(task):.2f}")
    print()
    print(f"| task | n | groups | metric | {' | '.join(INTERVALS)} |")
    print(f"| --- | ---: | --- | --- | {' | '.join('---:' for _ in INTERVALS)} |")
    for task in (MULTICLASS, MULTILABEL):
        for n in (200, 1000):
            for grouped in (False, True):
                found = [coverage(task, n, grouped, repeats, interval) for interval in INTERVALS]
                for name in METRICS[task.kind]:
                    cells = " | ".join(f"{each[name][0]:.3f} ({each[name][1]:.3f})" for each in found)
                    groups = f"{n // 10} of about 10" if grouped else "single"
                    print(f"| {task.kind} | {n:,} | {groups} | {name} | {cells} |", flush=True)


# --- Speed ------------------------------------------------------------------------------------------------------------


def many(kind: Kind, n: int, n_labels: int) -> Predictions:
    """Predictions in groups of one; multilabel: a fifth of the labels hold."""
    rng = np.random.default_rng(0)
    task = Task("topic", kind, tuple(f"label {i}" for i in range(n_labels)))
    groups = [str(i) for i in range(n)]
    if kind == "multiclass":
        gold = rng.integers(n_labels, size=n)
        logits = rng.normal(size=(n, n_labels)) + 1.5 * (gold[:, None] == np.arange(n_labels))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return made_up(task, gold, probabilities, probabilities.argmax(axis=1), groups)
    present = rng.random((n, n_labels)) < 0.2
    probabilities = 1 / (1 + np.exp(2 - 3 * present - rng.normal(size=present.shape)))
    return made_up(task, present, probabilities, probabilities > 0.5, groups)


def seconds(predictions: Predictions, resamples: int = 1000) -> tuple[float, float]:
    """Time that all metrics of the task take with their intervals: on the wall, and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    evaluate(predictions, available(predictions.task), resamples)
    return time.perf_counter() - wall, time.process_time() - processor


def print_speed(examples: int) -> None:
    print("| task | labels | examples | metrics | seconds | processor seconds | peak memory of the process so far |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    cases: tuple[tuple[Kind, int], ...] = (("multiclass", 10), ("multilabel", 15))
    for kind, n_labels in cases:
        predictions = many(kind, examples, n_labels)
        wall, processor = seconds(predictions)
        sizes = f"{n_labels} | {examples:,} | {len(available(predictions.task))}"
        print(f"| {kind} | {sizes} | {wall:.1f} | {processor:.1f} | {peak_mib():,.0f} MiB |", flush=True)


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
