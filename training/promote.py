"""`slantwise promote`: a gate before a model becomes the champion of its task, and the way back.

The champion is the version of a registered MLflow model that carries the alias `champion`; batch jobs that score with
`model=models:/<name>@champion` follow it. A challenger is judged beside the champion on the same examples; the alias
moves, as the last step of all, only when every rule of the gate holds. What was decided, and on which evidence, is kept
with the challenger's run and version.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from rich.table import Table

from data.config import CorpusConfig
from data.corpus import load_corpus
from evaluation.contest import CompareConfig, ModelSource, prepare
from evaluation.intervals import Estimate
from evaluation.judge import EvaluationConfig, headline_metrics
from evaluation.paired import Contestant, Slice, compare, slices
from evaluation.report import LOWER_IS_BETTER
from evaluation.tables import format_estimate
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, ModelError, TrackingError
from slantwise.locate import MLFLOW_SCHEMES, locate_model
from slantwise.model import load
from slantwise.task import TASK_NAMES
from training import config as schemas
from training.config import TrackingConfig
from training.journal import Told
from training.redact import redact
from training.store import first_line

CHAMPION = "champion"
REFUSED = 1  # exit status
CALIBRATION = "ece_debiased"  # the measured error of a small test set is above 0 for perfect probabilities, too


@dataclass
class GateConfig:
    """What a challenger must show; see configs/promote.yaml."""

    metric: str | None = None
    minimum: float | None = None
    margin: float = 0.0
    least_gain: float = 0.0
    largest_slice_drop: float = 0.1
    largest_ece: float = 0.1
    beat_shortcuts: bool = True

    def __post_init__(self) -> None:
        for name in ("margin", "least_gain", "largest_slice_drop", "largest_ece"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"gate.{name}={getattr(self, name)}; expected 0 or more")


@dataclass
class PromoteConfig:
    """`slantwise promote`."""

    model: str | None = None  # the challenger: a published run directory, or runs:/<id>/model
    task_name: str = MISSING  # `task=…` on the command line
    name: str = MISSING  # of the registered model
    corpus: CorpusConfig = MISSING
    gate: GateConfig = field(default_factory=GateConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    permutations: int = 999
    tracking: TrackingConfig = MISSING
    force: bool = False  # promote although a rule does not hold; it is recorded, with the reason
    reason: str | None = None
    rollback: bool = False  # make the champion before this one the champion again
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.task_name not in TASK_NAMES:
            raise ConfigurationError(f"task={self.task_name}; expected one of {', '.join(TASK_NAMES)}")
        if self.rollback == (self.model is not None):
            raise ConfigurationError("expected model=<run directory or runs:/…>, or rollback=true, and not both")
        if self.force and not self.reason:
            raise ConfigurationError("force=true needs a reason, as in reason='the old model names dead outlets'")


@dataclass(frozen=True)
class Rule:
    """One rule of the gate: what was asked, what was found, and whether it holds."""

    name: str
    asked: str
    found: str
    holds: bool


def main() -> None:
    from hydra.core.config_store import ConfigStore

    sys.argv = [f"task_name={a[5:]}" if a.startswith("task=") else a for a in sys.argv]
    schemas.register()
    ConfigStore.instance().store(name="promote_schema", node=PromoteConfig)
    run("promote", _job)


def _job(config: Any) -> None:
    if OmegaConf.is_missing(config, "task_name"):  # it is `task` on the command line, and part of `name`
        raise ConfigurationError("task must be given, as in task=topic")
    chosen = to_object(config, PromoteConfig)
    progress = Progress()
    registry = Registry(chosen)
    if chosen.rollback:
        before, now = registry.roll_back()
        progress.say(f"{chosen.name}: version {now} is the champion again (version {before} was)")
        return
    run_id = registry.run_of(chosen.model or "")
    evidence = judge_challenger(chosen, run_id, registry, progress)
    progress.console.print(_table(evidence))
    accepted = evidence["decision"] != "refused"
    version = registry.record(run_id, evidence)
    if not accepted:
        progress.say(f"refused: version {version} of {chosen.name} is not the champion")
        raise SystemExit(REFUSED)
    registry.promote(version)
    how = " by force, against the gate" if evidence["decision"] == "forced" else ""
    progress.say(f"version {version} of {chosen.name} is the champion{how}")


# --- Evidence ---------------------------------------------------------------------------------------------------------


def judge_challenger(
    chosen: PromoteConfig, run_id: str, registry: Registry, progress: Progress
) -> dict[str, Any]:  # fmt: skip
    """The rules with what was found, and the decision: accepted, refused or forced."""
    with progress.step("read the models"):
        champion = registry.champion()
        sources = {"challenger": [_source(f"runs:/{run_id}/model", chosen)]}
        if champion is not None:
            sources = {"champion": [_source(f"models:/{chosen.name}/{champion}", chosen)], **sources}
    with progress.step("read the corpus"):
        corpus = load_corpus(chosen.corpus, chosen.evaluation.slices)
    with progress.step("judge on test"):
        settings = CompareConfig(
            models=list(sources), corpus=chosen.corpus, judged_task=chosen.task_name, evaluation=chosen.evaluation,
            permutations=chosen.permutations, device=chosen.device, output="",
        )  # fmt: skip
        contest = prepare(sources, corpus, settings)
        metric = chosen.gate.metric or headline_metrics(contest.task, corpus.metrics.get(contest.task.name, []))[0]
        sure = chosen.evaluation
        judged = [metric, CALIBRATION]
        result = compare(contest.contestants, judged, sure.resamples, chosen.permutations, sure.seed, sure.interval)
    score, ece = (result.estimates["challenger"][name] for name in (metric, CALIBRATION))
    rules = [*_own_rules(chosen.gate, metric, score, ece), _shortcut_rule(chosen, registry.shortcuts(run_id))]
    if champion is not None:
        difference = result.differences["challenger"][metric].estimate
        rules += _champion_rules(chosen.gate, metric, difference, contest.contestants, sure)
    holds = all(rule.holds for rule in rules)
    return {
        "decision": "accepted" if holds else "forced" if chosen.force else "refused",
        "reason": chosen.reason,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": chosen.task_name,
        "challenger": {"run": run_id, metric: asdict(score), CALIBRATION: asdict(ece)},
        "champion": champion,
        "corpus": {"name": corpus.name, "sha256": corpus.fingerprint, "examples": len(contest.contestants[0].examples)},
        "gate": asdict(chosen.gate),
        "rules": [asdict(rule) for rule in rules],
        "warnings": contest.warnings,
    }


def _source(uri: str, chosen: PromoteConfig) -> ModelSource:
    heads = load(locate_model(uri), chosen.device).heads
    if chosen.task_name not in heads:
        raise ModelError(f"{uri} has no head for task {chosen.task_name}; it holds {', '.join(heads)}")
    return ModelSource(uri, heads)


def _own_rules(gate: GateConfig, metric: str, score: Estimate, ece: Estimate) -> list[Rule]:
    rules = []
    if gate.minimum is not None:
        sign = -1 if metric in LOWER_IS_BETTER else 1
        holds = score.value is not None and sign * score.value >= sign * gate.minimum
        bound = "at most" if sign < 0 else "at least"
        rules.append(Rule(f"{metric}", f"{bound} {gate.minimum:g}", _shown(score), holds))
    calibrated = ece.value is not None and ece.value <= gate.largest_ece
    return [
        *rules,
        Rule(f"calibration error ({CALIBRATION})", f"at most {gate.largest_ece:g}", _shown(ece), calibrated),
    ]


def _shortcut_rule(chosen: PromoteConfig, warning: str | None) -> Rule:
    if not chosen.gate.beat_shortcuts:
        return Rule("shortcuts", "not asked for", "", True)
    return Rule("shortcuts", "clearly better than the best shortcut probe", warning or "it is", warning is None)


def _champion_rules(
    gate: GateConfig, metric: str, difference: Estimate, contestants: Sequence[Contestant], sure: EvaluationConfig
) -> list[Rule]:
    """Against the champion: it gains, it is not worse beyond the margin with 95 % confidence, and no slice drops."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    gain = None if difference.value is None else sign * difference.value
    worst = difference.low if sign > 0 else None if difference.high is None else -difference.high
    found = f"{_shown(difference)} against the champion"
    old, new = contestants
    dropped = [each for each in slices(old, new, sure.resamples, sure.seed) if _drops(each, gate)]
    names = "; ".join(f"{each.kind} {each.value}: {_shown(each.estimate)}, n = {each.n}" for each in dropped)
    return [
        Rule(f"gain in {metric}", f"more than {gate.least_gain:g}", found, gain is not None and gain > gate.least_gain),
        Rule("not worse, 95 % confidence", f"lower bound at least {-gate.margin:g}", found,
             worst is not None and worst >= -gate.margin),
        Rule("slices", f"none drops by more than {gate.largest_slice_drop:g} with an interval below 0",
             names or "none does", not dropped),
    ]  # fmt: skip


def _drops(each: Slice, gate: GateConfig) -> bool:
    found = each.estimate
    return found.value is not None and found.value < -gate.largest_slice_drop and (found.high or 0) < 0


def _shown(estimate: Estimate) -> str:
    return " ".join(format_estimate(estimate)) if estimate.value is not None else f"undefined: {estimate.reason}"


def _table(evidence: Mapping[str, Any]) -> Table:
    table = Table(title=f"{evidence['task']}: {evidence['decision']}", title_justify="left")
    for column in ("rule", "asked", "found", "holds"):
        table.add_column(column, overflow="fold")
    for rule in evidence["rules"]:
        table.add_row(rule["name"], rule["asked"], rule["found"], "yes" if rule["holds"] else "[bold red]no[/]")
    return table


# --- The registry -----------------------------------------------------------------------------------------------------


class Registry:
    """The registered model of one task. Raises TrackingError where the store cannot be used."""

    def __init__(self, chosen: PromoteConfig) -> None:
        import mlflow

        mlflow.set_tracking_uri(chosen.tracking.uri)
        os.environ["MLFLOW_TRACKING_URI"] = chosen.tracking.uri  # where models are located by their URIs, too
        self.name, self.uri = chosen.name, chosen.tracking.uri
        self.client = mlflow.MlflowClient()

    def run_of(self, model: str) -> str:
        """The id of the run that holds the challenger."""
        if model.startswith("runs:/"):
            return model.removeprefix("runs:/").split("/")[0]
        if model.startswith(MLFLOW_SCHEMES):
            raise ConfigurationError(f"model={model}; expected a run directory or runs:/<id>/model")
        told = Told.read(Path(model))
        if told is None or not told.complete:
            raise ConfigurationError(f"model={model} {_not_published(Path(model))}")
        return str(told.run_id)

    def champion(self) -> str | None:
        """The champion's version; None where there is none yet."""
        found = self._ask(lambda: self.client.search_registered_models(f"name='{self.name}'"))
        return None if not found else _text(found[0].aliases.get(CHAMPION))

    def shortcuts(self, run_id: str) -> str | None:
        """What the run's probes say against it; None where it clearly beats the best of them."""
        path = self._ask(lambda: self.client.download_artifacts(run_id, "run.json"))
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [task for task in record["tasks"].values() if task["task"]["name"] == self.name.rpartition("-")[2]]
        tasks = found or list(record["tasks"].values())
        if not all(task["shortcuts"] for task in tasks):
            return "the run was made without probes (shortcuts=false)"
        warnings = [task["unbeaten_shortcut"] for task in tasks if task["unbeaten_shortcut"]]
        return " ".join(warnings) or None

    def record(self, run_id: str, evidence: Mapping[str, Any]) -> str:
        """Keep the evidence with the run, and with its version of the registered model, which is made where it is
        not there; gives the version."""
        stamp = evidence["time"].replace(":", "")
        self._ask(lambda: self.client.log_dict(run_id, dict(evidence), f"promotions/{stamp}.json"))
        if not self._ask(lambda: self.client.search_registered_models(f"name='{self.name}'")):
            self._ask(lambda: self.client.create_registered_model(self.name))
        known = self._ask(lambda: self.client.search_model_versions(f"name='{self.name}'"))
        mine = [each for each in known if each.run_id == run_id]
        version = mine[0] if mine else self._ask(self._new_version(run_id))
        tags = {"decision": evidence["decision"], "decided": evidence["time"], "reason": evidence["reason"]}
        if evidence["champion"] is not None and str(version.version) != evidence["champion"]:
            tags["champion_before"] = evidence["champion"]
        for key, value in tags.items():
            if value is not None:
                self._ask(self._tag(str(version.version), key, str(value)))
        return str(version.version)

    def promote(self, version: str) -> None:
        """The one step that moves the alias."""
        self._ask(lambda: self.client.set_registered_model_alias(self.name, CHAMPION, version))

    def roll_back(self) -> tuple[str, str]:
        """The champion before the champion is champion again; gives both versions."""
        now = self.champion()
        if now is None:
            raise ConfigurationError(f"{self.name} has no champion at {redact(self.uri)}; nothing to roll back")
        before = self._ask(lambda: self.client.get_model_version(self.name, now)).tags.get("champion_before")
        if before is None:
            raise ConfigurationError(f"version {now} of {self.name} is the first champion; there is none before it")
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        self._ask(self._tag(now, "rolled_back", stamp))
        self.promote(str(before))
        return now, str(before)

    def _new_version(self, run_id: str) -> Any:
        import mlflow

        def register() -> Any:
            with redirect_stderr(io.StringIO()):  # MLflow tells of it there; the command tells of it itself
                return mlflow.register_model(f"runs:/{run_id}/model", self.name)

        return register

    def _tag(self, version: str, key: str, value: str) -> Any:
        return lambda: self.client.set_model_version_tag(self.name, version, key, value)

    def _ask(self, call: Any) -> Any:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            return call()
        except (MlflowException, RequestException, OSError) as error:
            raise TrackingError(redact(f"MLflow at {self.uri}: {first_line(error)}")) from error


def _not_published(path: Path) -> str:
    """Why the path is no published run, and what to do about it."""
    expected = "expected a run directory, or runs:/<id>/model"
    if not path.exists():
        return f"does not exist; {expected}"
    if (path / "run.json").is_file():
        return f"is a run that is not published; publish it with: slantwise publish run_dir={path}"
    try:
        heads = load(path, "cpu").heads
    except ModelError:
        return f"is not the directory of a run: it holds no run.json; {expected}"
    runs = sorted({str(head.provenance["run"]) for head in heads.values() if "run" in head.provenance}) or ["<run>"]
    named = " or ".join(f"model=runs/{run}" for run in runs)
    return f"is an exported model; promote the run that it was made of, as in {named}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


if __name__ == "__main__":
    main()
