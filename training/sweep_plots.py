"""The pictures of a sweep: how it went, which options mattered, and where their good values lie."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from evaluation.plots import ACCENT, INK, LINE, MUTED, SETTINGS, WARM
from training.study import complete

FEW = 4  # complete trials under which importances are guesses


def draw(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """history.png, slices.png and, of enough trials, importance.png; gives their paths."""
    trials = study.get_trials(deepcopy=False)
    done, best = complete(trials), study.best_trial
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for trial in done for name in trial.params))
    rising = study.direction == StudyDirection.MAXIMIZE
    wide = 2.6 * max(len(names), 2)
    paths = [
        _save(folder / "history.png", (6.4, 3.2), lambda page: _history(page.add_subplot(), trials, metric, rising)),
        _save(folder / "slices.png", (wide, 2.8), lambda page: _slices(page, done, best, names, metric)),
    ]
    importance = importances(study)
    if importance:
        size = (6.4, 0.8 + 0.32 * len(importance))
        paths.append(_save(folder / "importance.png", size, lambda page: _importance(page.add_subplot(), importance)))
    return paths


def importances(study: optuna.Study) -> dict[str, float]:
    """How much of the objective's variance each option decides, in all 1 (functional ANOVA; Hutter, Hoos and
    Leyton-Brown 2014); empty where too few trials tell."""
    done = complete(study.get_trials(deepcopy=False))
    if len(done) < FEW or len({trial.value for trial in done}) < 2 or len(done[0].params) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def _save(path: Path, size: tuple[float, float], paint: Callable[[Figure], None]) -> Path:
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=size, dpi=150)
        FigureCanvasAgg(figure)
        paint(figure)
        figure.savefig(path)
    return path


def _history(axes: Axes, trials: Sequence[FrozenTrial], metric: str, rising: bool) -> None:
    done = complete(trials)
    values = [trial.value or 0.0 for trial in done]
    axes.scatter([trial.number for trial in done], values, s=16, color=ACCENT, label="trial")
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED and trial.value is not None]
    if pruned:
        axes.scatter([t.number for t in pruned], [t.value or 0.0 for t in pruned], s=16, color=MUTED, marker="x",
                     label="ended early")  # fmt: skip
    best: list[float] = []
    for value in values:
        best.append(value if not best else (max if rising else min)(best[-1], value))
    axes.step([trial.number for trial in done], best, where="post", color=WARM, linewidth=1.2, label="best so far")
    for failed in (trial for trial in trials if trial.state == optuna.trial.TrialState.FAIL):
        axes.axvline(failed.number, color=LINE, linewidth=1)
    axes.set(title=f"validation {metric} of the trials", xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right" if rising else "upper right")


def _importance(axes: Axes, importance: Mapping[str, float]) -> None:
    names = list(importance)[::-1]
    bars = axes.barh(names, [importance[name] for name in names], color=ACCENT, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, color=INK, fontsize=8)
    axes.set(title="share of the differences between trials that an option decides", xlim=(0, 1))
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])


def _slices(
    figure: Figure, trials: Sequence[FrozenTrial], best: FrozenTrial, names: Sequence[str], metric: str
) -> None:
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        distribution = best.distributions[name]
        values: list[Any] = [trial.params[name] for trial in trials]
        if isinstance(distribution, CategoricalDistribution):
            places = {choice: i for i, choice in enumerate(distribution.choices)}
            values, chosen = [places[value] for value in values], places[best.params[name]]
            labels = [str(json.loads(str(choice))) for choice in distribution.choices]
            axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        else:
            chosen = best.params[name]
            if getattr(distribution, "log", False):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
        axes.scatter(values, [trial.value or 0.0 for trial in trials], s=14, color=ACCENT, alpha=0.7)
        axes.scatter([chosen], [best.value or 0.0], s=34, color=WARM, zorder=3)
        axes.set_xlabel(name)
    panels[0].set_ylabel(metric)
    panels[0].set_title("each option against the score; the best trial in orange")
