"""The configuration of a training run, checked as a whole before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from data import schemas
from data.config import CleaningConfig, CorpusConfig, SplitConfig, TaskConfig
from evaluation.judge import EvaluationConfig
from slantwise.errors import ConfigurationError
from slantwise.task import TASK_NAMES
from training.decisions import DecisionConfig
from training.encoder_config import EncoderConfig, TransformerConfig
from training.linear import LinearConfig


@dataclass
class TrackingConfig:
    """The MLflow store or server that runs are told to."""

    enabled: bool = True
    uri: str = "sqlite:///mlruns/mlflow.db"
    artifacts: str | None = "mlruns/artifacts"  # where a new experiment of a database store keeps its files
    experiment: str = "slantwise"
    timeout: float = 10.0  # seconds that a server may take to answer; training never waits for it

    def __post_init__(self) -> None:
        if not self.timeout >= 1:
            raise ConfigurationError(f"tracking.timeout={self.timeout}; expected 1 second or more")


@dataclass
class TrainConfig:
    """`slantwise train`."""

    task: TaskConfig = MISSING
    corpus: CorpusConfig = MISSING
    cleaning: CleaningConfig = MISSING
    split: SplitConfig = MISSING
    classifier: Any = MISSING  # the dataclass of the chosen classifier
    decision: DecisionConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = MISSING
    name: str = MISSING  # the run's name in MLflow
    run_dir: str = MISSING  # a new folder that will hold everything about the run
    shortcuts: bool = True  # probe how far source, target, furniture or length alone tell the label
    shuffle_train_labels: bool = False  # a test of the whole chain: with it, test scores must fall to chance
    tasks: list[str] = field(default_factory=list)  # several tasks that share one fit; `task=[topic,framing]`

    def __post_init__(self) -> None:
        target = str(getattr(self.classifier, "_target_", ""))
        if not target.startswith("training.") or target.count(".") != 2:
            raise ConfigurationError(f"classifier._target_={target}; expected training.<module>.<function>")
        if unknown := [name for name in self.tasks if name not in TASK_NAMES]:
            raise ConfigurationError(f"task={unknown}; expected some of {', '.join(TASK_NAMES)}")
        if len(self.tasks) > 1 and self.backend == "transformer" and self.decision.cross_fit:
            raise ConfigurationError(
                f"decision.cross_fit={self.decision.cross_fit}: its fits would learn each task alone, and the decision "
                "would be that of another classifier; expected 0 with several tasks in one encoder"
            )
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigurationError(f"task={self.tasks}: a task is named twice")

    @property
    def task_names(self) -> list[str]:
        return self.tasks or [self.task.name]

    @property
    def backend(self) -> str:
        """The classifier's kind, as in classifier=<backend>."""
        return str(self.classifier._target_).split(".")[1]


def register() -> None:
    """Make the schemas known to Hydra."""
    schemas.register()
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(group="task", name="task_schema", node=TaskConfig)
    store.store(group="classifier", name="linear_schema", node=LinearConfig)
    store.store(group="classifier", name="transformer_schema", node=TransformerConfig)
    store.store(group="classifier", name="encoder_schema", node=EncoderConfig)
    store.store(group="decision", name="decision_schema", node=DecisionConfig)
    store.store(group="tracking", name="tracking_schema", node=TrackingConfig)
