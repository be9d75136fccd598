"""`slantwise compare`: two or more models and a corpus in; who is better, by how much and where, out.

The first model is the baseline; every other one is compared with it, on exactly the same examples. The output folder:

    compare.json    every figure; the keys are those of `comparison_figures`
    compare.html    the same for a reader: one file that needs nothing else
    flips.parquet   every decision that one model got right and the other wrong (see `FLIPS`); flips.csv is the same
    config.yaml     the resolved configuration
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra.core.config_store import ConfigStore

from data import schemas
from data.corpus import Corpus, load_corpus
from evaluation.compare_page import comparison_table, render, verdict
from evaluation.contest import CompareConfig, Contest, prepare, read_entries, read_source
from evaluation.judge import headline_metrics
from evaluation.metrics import select
from evaluation.paired import (
    Comparison,
    Contestant,
    Difference,
    Slice,
    compare,
    excludes_zero,
    flips,
    mcnemar,
    slices,
)
from evaluation.plots import shorten
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError

FORMAT = 1
EXCERPT = 400
FLIPS = pa.schema(
    {
        "model": pa.string(),  # the challenger
        "change": pa.string(),  # fixed: the baseline was wrong and this model is right; broken: the other way round
        "id": pa.string(),
        "target": pa.string(),
        "source": pa.string(),
        "label": pa.string(),  # multilabel: the label that was decided on
        "gold": pa.list_(pa.string()),
        "baseline": pa.list_(pa.string()),  # what it answered; of several runs what most of them did
        "challenger": pa.list_(pa.string()),
        "gained": pa.float64(),  # the change of the probability of the truth; null where a model has none
        "text": pa.string(),  # how it begins, on one line
    }
)


def main() -> None:
    if any(argument.startswith("scores=") for argument in sys.argv[1:]):
        from evaluation import drift

        drift.main()
        return
    # Hydra would take `split=test` and `task=topic` for choices from the groups of `slantwise train`
    sys.argv = [re.sub(r"^(split|task)=", r"judged_\1=", with_names(argument)) for argument in sys.argv]
    schemas.register()
    ConfigStore.instance().store(name="compare_schema", node=CompareConfig)
    run("compare", _job)


def with_names(argument: str) -> str:
    """`models=[base=runs/a,new=[runs/b,runs/c]]` in Hydra's grammar: `models=[{base: runs/a},{new: [runs/b,runs/c]}]`.

    Any other argument is returned as it is.
    """
    if not argument.startswith("models="):
        return argument
    return re.sub(r"(?<=[\[,])\s*([\w.+-]+)=(\[[^\[\]]*\]|\"[^\"]*\"|'[^']*'|[^,\[\]]+)", r"{\1: \2}", argument)


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    chosen = to_object(config, CompareConfig)
    output = Path(chosen.output)
    if output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new folder")
    progress = Progress()
    entries = read_entries(chosen.models)
    with progress.step("read the models"):
        sources = {entry.name: [read_source(path, chosen) for path in entry.paths] for entry in entries}
    with progress.step("read the corpus"):
        corpus = load_corpus(chosen.corpus, chosen.evaluation.slices)
    progress.say(f"  {corpus.counts()}")
    with progress.step("predict") as notes:
        contest = prepare(sources, corpus, chosen)
        notes.append(f"{len(contest.contestants[0].examples):,} examples of split {contest.split}")
    official = corpus.metrics.get(contest.task.name, [])
    metrics = list(
        dict.fromkeys([*([chosen.metric] if chosen.metric else []), *headline_metrics(contest.task, official)])
    )
    select(contest.task, metrics)
    with progress.step("compare"):
        figures, changed = comparison_figures(contest, corpus, metrics, chosen)
    write_comparison(figures, changed, OmegaConf.to_yaml(config, resolve=True), output)
    for warning in figures["warnings"]:
        progress.warn(warning)
    progress.console.print(comparison_table(figures))
    for sentence in figures["verdict"]:
        progress.say(f"• {sentence}")
    progress.say(f"page: {output / 'compare.html'}\nfigures: {output / 'compare.json'}\nflips: {output / 'flips.csv'}")


# --- Figures ----------------------------------------------------------------------------------------------------------


def comparison_figures(
    contest: Contest, corpus: Corpus, metrics: Sequence[str], chosen: CompareConfig
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything that the page says, as JSON-ready values, and all flips (the rows of FLIPS, and `row`).

    format       1; grows when a key changes its meaning
    corpus, sha256, split, task (name, kind, labels, has_target), warnings
    examples, groups   their numbers; `unit`: what the groups are, articles or groups
    baseline     the name of the first model
    metric       what the verdict goes by: the first of `metrics`
    verdict      one sentence for each other model
    settings     resamples, permutations, seed
    models       [{name, origins, runs, has_probabilities, estimates: metric -> {value, low, high, reason}}]; with
                 several runs the value is the mean over them, and the interval holds their variance
    comparisons  [{model, differences, mcnemar, slices}], one for each model but the baseline:
        differences  metric -> {value, low, high, reason, p, p_holm, test, needed, detectable, shown}, this model minus
                     the baseline; see `evaluation.paired.Difference`
        mcnemar      {unit, both_right, broken, fixed, both_wrong}; see `evaluation.paired.McNemar`
        slices       [{kind, value, metric, n, estimate, fixed, broken, excludes_zero}], biggest differences
                     first; `excludes_zero`: the interval does; see `evaluation.paired.Slice`
    """
    sure, contestants = chosen.evaluation, contest.contestants
    baseline, examples = contestants[0], contestants[0].examples
    result = compare(contestants, metrics, sure.resamples, chosen.permutations, sure.seed, sure.interval)
    changed = [
        {"model": each.name, "gained": gained, **flip, "text": shorten(examples.texts[flip["row"]], EXCERPT)}
        for each in contestants[1:]
        for flip, gained in _with_gains(baseline, each)
    ]
    unit = "label decisions" if contest.task.kind == "multilabel" else "examples"
    figures: dict[str, Any] = {
        "format": FORMAT,
        "corpus": corpus.name,
        "sha256": corpus.fingerprint,
        "split": contest.split,
        "task": contest.task.to_dict(),
        "warnings": contest.warnings,
        "examples": len(examples),
        "groups": len(set(examples.groups)),
        "unit": "articles" if set(examples.groups) == set(examples.ids) else "groups",
        "baseline": baseline.name,
        "metric": metrics[0],
        "settings": {"resamples": sure.resamples, "permutations": chosen.permutations, "seed": sure.seed},
        "models": [_model_figures(each, result) for each in contestants],
        "comparisons": [
            {
                "model": each.name,
                "differences": {name: _difference_figures(d) for name, d in result.differences[each.name].items()},
                "mcnemar": {"unit": unit, **asdict(mcnemar(baseline, each))},
                "slices": [_slice_figures(s) for s in slices(baseline, each, sure.resamples, sure.seed)],
            }
            for each in contestants[1:]
        ],
    }
    return figures | {"verdict": [verdict(figures, each) for each in figures["comparisons"]]}, changed


def _model_figures(contestant: Contestant, result: Comparison) -> dict[str, Any]:
    return {
        "name": contestant.name,
        "origins": list(contestant.origins),
        "runs": len(contestant.runs),
        "has_probabilities": contestant.has_probabilities,
        "estimates": {name: asdict(each) for name, each in result.estimates[contestant.name].items()},
    }


def _difference_figures(difference: Difference) -> dict[str, Any]:
    keys = ("p", "p_holm", "test", "needed", "detectable", "shown")
    return {**asdict(difference.estimate), **{key: getattr(difference, key) for key in keys}}


def _slice_figures(each: Slice) -> dict[str, Any]:
    return {**asdict(each), "excludes_zero": excludes_zero(each.estimate)}


def _with_gains(baseline: Contestant, challenger: Contestant) -> Iterator[tuple[dict[str, Any], float | None]]:
    """The flips, those with the largest change of the truth's probability first, with that change."""
    found = flips(baseline, challenger)
    if not (baseline.has_probabilities and challenger.has_probabilities):
        return ((flip, None) for flip in found)
    old, new = (np.mean([run.probabilities for run in each.runs], axis=0) for each in (baseline, challenger))
    examples, labels = baseline.examples, baseline.examples.task.labels

    def gain(flip: Mapping[str, Any]) -> float:
        row = flip["row"]
        column = labels.index(flip["label"] or flip["gold"][0])
        change = float(new[row, column] - old[row, column])
        return change if flip["label"] is None or examples.gold[row, column] else -change

    pairs = [(flip, gain(flip)) for flip in found]
    return iter(sorted(pairs, key=lambda pair: -abs(pair[1])))


# --- Files ------------------------------------------------------------------------------------------------------------


def write_comparison(
    figures: Mapping[str, Any], changed: Sequence[Mapping[str, Any]], configuration: str, output: Path
) -> Path:
    """Write all files into the new folder; the page's path."""
    output.mkdir(parents=True)
    text = json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False)
    (output / "compare.json").write_text(text + "\n", encoding="utf-8")
    (output / "config.yaml").write_text(configuration, encoding="utf-8")
    rows = [{name: flip[name] for name in FLIPS.names} for flip in changed]
    pq.write_table(pa.Table.from_pylist(rows, schema=FLIPS), output / "flips.parquet", compression="zstd")
    with (output / "flips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FLIPS.names)
        writer.writeheader()
        writer.writerows(
            {name: "|".join(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows
        )
    page = output / "compare.html"
    page.write_text(render(figures, changed, configuration), encoding="utf-8")
    return page


if __name__ == "__main__":
    main()
