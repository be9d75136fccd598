"""Measure intervals and the paired test, how often they are right and how long they take, into intervals.md.

    OMP_NUM_THREADS=1 python -m benchmarks.intervals coverage [repeats]
    OMP_NUM_THREADS=1 python -m benchmarks.intervals paired [repeats]
    OMP_NUM_THREADS=1 python -m benchmarks.intervals speed [examples]

Each writes its section of the page. 1,000 repeats take about half an hour for coverage and for paired.

Coverage: samples of a made-up classifier's predictions, whose metrics are known from a very large sample. Examples are
single, or come in groups of about 10 that share how hard they are and which labels are frequent. The classifier is
overconfident, as neural networks are (Guo et al. 2017). With 1,000 repeats an interval that covers .95 is measured
with a standard error of .007.

Paired: two such classifiers that are equally good, each with noise of its own. The share of tests that call them
different at the 5 % level is measured with a standard error of .007 as well.

Speed: all metrics of many predictions, with 1,000 resamples, groups of one example (the most there can be).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from evaluation.intervals import INTERVALS, evaluate
from evaluation.metrics import available, compute
from evaluation.paired import permutation_test
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
ON_THE_PAGE = ("classwise_ece",)  # besides these
PAGE = Path(__file__).with_suffix(".md")
OVERCONFIDENCE = 1.5
GROUP_EFFECT = 0.6  # standard deviation, in units of the noise of an example
POPULATION = 1_000_000


def main() -> None:
    what, number = (*sys.argv[1:], *("", "")[len(sys.argv) - 1 :])[:2]
    if what == "coverage":
        write_section("Coverage", coverage_lines(int(number or 1000)))
    elif what == "paired":
        write_section("Paired test", paired_lines(int(number or 1000)))
    elif what == "speed":
        write_section("Speed", speed_lines(int(number or 100_000)))
    else:
        sys.exit(__doc__)


def write_section(title: str, lines: Iterator[str]) -> None:
    """Print the lines as they come, and put them under their title into the page in place of what stood there."""
    found = []
    for line in lines:
        print(line, flush=True)
        found.append(line)
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Intervals and the paired test, measured\n"
    head, *sections = text.split("\n## ")
    kept = {section.split("\n", 1)[0]: section.rstrip("\n") for section in sections}
    kept[title] = "\n".join([title, "", *found])
    PAGE.write_text("\n\n## ".join([head.rstrip("\n"), *kept.values()]) + "\n", encoding="utf-8")


# --- Coverage ---------------------------------------------------------------------------------------------------------


def simulate(task: Task, n: int, grouped: bool, rng: np.random.Generator) -> Predictions:
    """n predictions, in groups of one, or of 1 + Poisson(9) with an intra-group correlation of about .1 to .3."""
    return simulate_models(task, n, grouped, rng, 1)[0]


def simulate_models(task: Task, n: int, grouped: bool, rng: np.random.Generator, models: int) -> list[Predictions]:
    """Of several equally good classifiers, on the same examples."""
    sizes = 1 + rng.poisson(9, size=n // 5 + 10) if grouped else np.ones(n, dtype=np.int64)
    group = np.repeat(np.arange(len(sizes)), sizes)[:n]
    shared = GROUP_EFFECT if grouped else 0.0
    strength = 1.6 + shared * rng.normal(size=len(sizes))[group][:, None]
    leaning = shared * rng.normal(size=(len(sizes), len(task.labels)))[group]
    groups, noises = [f"g{i}" for i in group], [rng.normal(size=(n, len(task.labels))) for _ in range(models)]
    if task.kind == "multiclass":
        gold = (np.log(SHARES) + leaning + rng.gumbel(size=leaning.shape)).argmax(axis=1)
        signal = strength * (gold[:, None] == np.arange(len(task.labels)))
        given = [softmax(OVERCONFIDENCE * 1.6 * (noise + signal), axis=1) for noise in noises]
        return [made_up(task, gold, p, p.argmax(axis=1), groups) for p in given]
    odds = np.log(PRESENT) - np.log1p(-np.array(PRESENT))
    present = odds + leaning + rng.logistic(size=leaning.shape) > 0
    given = [expit(OVERCONFIDENCE * (odds + 1.6 * (noise + strength * (present - 0.5)))) for noise in noises]
    return [made_up(task, present, p, p > 0.5, groups) for p in given]


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
    further: Sequence[str] = (),
) -> dict[str, tuple[float, float, float]]:
    """For each of METRICS, and of `further` ones, the share of 95 % intervals that hold the truth, that lie above it,
    and their mean width."""
    names = [*METRICS[task.kind], *further]
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


def coverage_lines(repeats: int) -> Iterator[str]:
    yield f"Share of {repeats:,} 95 % intervals that hold the truth (in brackets: that lie above it). The intra-group"
    correlations = (f"{intra_group_correlation(task):.2f} ({task.kind})" for task in (MULTICLASS, MULTILABEL))
    yield f"correlation of right answers is {' and '.join(correlations)}. Calibration errors have an interval of their"
    yield "own, whichever is asked for. That of `classwise_ece` is cautious where there are few examples for its many"
    yield "bins: of 200 multilabel examples each of 90 bins holds 13."
    yield ""
    yield f"| task | n | groups | metric | {' | '.join(INTERVALS)} |"
    yield f"| --- | ---: | --- | --- | {' | '.join('---:' for _ in INTERVALS)} |"
    for task, n, grouped in settings():
        found = [coverage(task, n, grouped, repeats, interval, further=ON_THE_PAGE) for interval in INTERVALS]
        for name in found[0]:
            cells = " | ".join(f"{each[name][0]:.3f} ({each[name][1]:.3f})" for each in found)
            yield f"| {task.kind} | {n:,} | {_groups(n, grouped)} | {name} | {cells} |"


def settings() -> Iterator[tuple[Task, int, bool]]:
    for task in (MULTICLASS, MULTILABEL):
        for n in (200, 1000):
            for grouped in (False, True):
                yield task, n, grouped


def _groups(n: int, grouped: bool) -> str:
    return f"{n // 10} of about 10" if grouped else "single"


# --- Paired test ------------------------------------------------------------------------------------------------------


def false_positives(task: Task, n: int, grouped: bool, repeats: int, permutations: int = 999) -> dict[str, float]:
    """For each of METRICS the share of permutation tests at the 5 % level that tell two equally good models apart."""
    names, rng = METRICS[task.kind], np.random.default_rng(3)
    told = dict.fromkeys(names, 0)
    for seed in range(repeats):
        first, second = simulate_models(task, n, grouped, rng, 2)
        p_values, _ = permutation_test(first, second, names, permutations, seed)
        for name, p in p_values.items():
            told[name] += p is not None and p <= 0.05
    return {name: count / repeats for name, count in told.items()}


def paired_lines(repeats: int) -> Iterator[str]:
    yield f"Share of {repeats:,} permutation tests (999 swaps of groups) at the 5 % level that call two equally good"
    yield "models different. The test is exact: but for the chance of so many repeats (standard error .007) it is 5 %,"
    yield "and less where few differences are possible, as for the accuracy of 200 examples."
    yield ""
    yield "| task | n | groups | metric | called different |"
    yield "| --- | ---: | --- | --- | ---: |"
    for task, n, grouped in settings():
        for name, share in false_positives(task, n, grouped, repeats).items():
            yield f"| {task.kind} | {n:,} | {_groups(n, grouped)} | {name} | {share:.3f} |"


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


def speed_lines(examples: int) -> Iterator[str]:
    yield "All metrics with 1,000 resamples, one thread."
    yield ""
    yield "| task | labels | examples | metrics | seconds | processor seconds | peak memory of the process so far |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    cases: tuple[tuple[Kind, int], ...] = (("multiclass", 10), ("multilabel", 15))
    for kind, n_labels in cases:
        predictions = many(kind, examples, n_labels)
        wall, processor = seconds(predictions)
        sizes = f"{n_labels} | {examples:,} | {len(available(predictions.task))}"
        yield f"| {kind} | {sizes} | {wall:.1f} | {processor:.1f} | {peak_mib():,.0f} MiB |"


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
