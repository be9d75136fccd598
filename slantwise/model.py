"""Model: what is exported and scores articles: cleaning and one head (task, classifier, decision) a task.

A model is a directory:

    slantwise.json       format version, heads with their decisions and provenance, a sha256 of every other file
    cleaner-<hash>.json  the cleaning that a head was trained behind
    heads/<task>/        the classifier's files, safe formats only
    requirements.txt     what scoring needs, nothing more
    README.md            the model card
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import slantwise
from slantwise.article import Article, Example, classifier_text, read_article
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError, ModelError
from slantwise.task import Task

FORMAT = 1
MANIFEST = "slantwise.json"
# The kinds of classifiers a model may hold; nothing else is ever imported for a model.
CLASSIFIERS = {"linear": ("slantwise.linear", "LinearClassifier")}
REQUIREMENTS = ("numpy", "scipy", "scikit-learn", "pyarrow")


class Classifier(Protocol):
    """Examples in, probabilities out: float32 (n_examples, n_labels), rows in input order."""

    def predict_proba(self, examples: Sequence[Example]) -> npt.NDArray[np.float32]: ...

    def save(self, directory: Path) -> None: ...


@dataclass(frozen=True)
class Head:
    """One task of a model. `provenance` says what it was trained on: corpus, fingerprint, split, run, metrics."""

    task: Task
    classifier: Classifier
    decision: Decision
    cleaner: Cleaner
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The classifier's kind, a key of CLASSIFIERS."""
        cls = type(self.classifier)
        for kind, where in CLASSIFIERS.items():
            if where == (cls.__module__, cls.__name__):
                return kind
        raise ModelError(f"{cls.__module__}.{cls.__name__} cannot be saved; expected one of {', '.join(CLASSIFIERS)}")

    def predict(self, examples: Sequence[Example]) -> npt.NDArray[np.float32]:
        """Calibrated probabilities, float32 (n_examples, n_labels)."""
        return self.decision.calibrate(self.classifier.predict_proba(examples), self.task)


@dataclass(frozen=True)
class Model:
    heads: Mapping[str, Head]

    @property
    def tasks(self) -> list[Task]:
        return [head.task for head in self.heads.values()]

    def predict(
        self, articles: Sequence[Article], targets: Sequence[Sequence[str]] | None = None
    ) -> list[dict[str, Any]]:
        """One score row for each article: id and, for each task of the model, its struct.

        A stance row holds one entry for each of the article's targets, in their order; without targets it is empty.
        """
        wanted = targets if targets is not None else [()] * len(articles)
        rows: list[dict[str, Any]] = [{"id": article.id} for article in articles]
        texts: dict[str, list[str]] = {}
        for name, head in self.heads.items():
            key = _cleaner_key(head.cleaner)
            if key not in texts:
                texts[key] = [classifier_text(read_article(article, head.cleaner)[0]) for article in articles]
            if head.task.has_target:
                owners = [(i, target) for i, own in enumerate(wanted) for target in own]
                found = _structs(head, [Example(texts[key][i], target) for i, target in owners])
                for row in rows:
                    row[name] = []
                for (i, target), struct in zip(owners, found, strict=True):
                    rows[i][name].append({"target": target, **struct})
            else:
                for row, struct in zip(rows, _structs(head, [Example(text) for text in texts[key]]), strict=True):
                    row[name] = struct
        return rows

    def save(self, directory: Path) -> None:
        """Write the model into a new directory; all or nothing. Raises ModelError where it exists."""
        if directory.exists():
            raise ModelError(f"{directory} exists; expected a new directory for the model")
        draft = directory.with_name(directory.name + ".partial")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            self._write(draft)
            draft.rename(directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _write(self, draft: Path) -> None:
        heads = {}
        for name, head in self.heads.items():
            cleaner = f"cleaner-{_cleaner_key(head.cleaner)}.json"
            _write_json(draft / cleaner, head.cleaner.to_dict())
            (draft / "heads" / name).mkdir(parents=True)
            head.classifier.save(draft / "heads" / name)
            heads[name] = {
                "task": head.task.to_dict(),
                "classifier": head.kind,
                "cleaner": cleaner,
                "decision": head.decision.to_dict(),
                "provenance": dict(head.provenance),
            }
        (draft / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()))
        (draft / "README.md").write_text(model_card(self), encoding="utf-8")
        files = {
            path.relative_to(draft).as_posix(): _sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()
        }
        _write_json(
            draft / MANIFEST,
            {"format": FORMAT, "slantwise": slantwise.__version__, "code_sha256": code_checksum(), "heads": heads,
             "files": files},
        )  # fmt: skip


def requirements() -> list[str]:
    """Pinned requirements of a model with linear heads."""
    return [f"{name}=={version(name)}" for name in REQUIREMENTS]


def code_checksum() -> str:
    """sha256 over the modules of this package: two models that carry the same code say the same."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def find_directory(path: Path) -> Path:
    """The model directory that `path` means: itself, a run directory's model, or the one inside an MLflow model."""
    for candidate in (path, path / "model", path / "artifacts" / "model"):
        if (candidate / MANIFEST).is_file():
            return candidate
    if not path.exists():
        raise ModelError(f"{path} does not exist; expected a model directory")
    raise ModelError(f"{path} is not a model directory: it holds no {MANIFEST}")


def load(path: str | Path) -> Model:
    """Load a model after checking every file against the manifest. Raises ModelError naming the file at fault."""
    directory = find_directory(Path(path))
    manifest = _read_json(directory / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ModelError(
            f"{directory / MANIFEST}: format {manifest.get('format')!r} of slantwise {manifest.get('slantwise')!r}; "
            f"slantwise {slantwise.__version__} reads format {FORMAT}"
        )
    _verify(directory, manifest)
    try:
        heads = {name: _load_head(directory, name, state) for name, state in manifest["heads"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, ConfigurationError) as error:
        raise ModelError(f"{directory / MANIFEST}: damaged ({type(error).__name__}: {error})") from error
    return Model(heads)


def _load_head(directory: Path, name: str, state: Mapping[str, Any]) -> Head:
    if state["classifier"] not in CLASSIFIERS:
        raise ModelError(f"{directory}: classifier {state['classifier']!r}; expected one of {', '.join(CLASSIFIERS)}")
    module, cls = CLASSIFIERS[state["classifier"]]
    task = Task.from_dict(state["task"])
    classifier = getattr(importlib.import_module(module), cls).load(directory / "heads" / name)
    cleaner = Cleaner.from_dict(_read_json(directory / state["cleaner"]))
    return Head(task, classifier, Decision.from_dict(state["decision"], task), cleaner, state["provenance"])


def _verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise ModelError(f"{directory / MANIFEST}: damaged (it lists no files)")
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise ModelError(f"{path} is missing")
        if _sha256(path) != expected:
            raise ModelError(f"{path} was changed or truncated: its sha256 is not the one in {MANIFEST}")


def _structs(head: Head, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """{label, confidence, probabilities}, or {labels, probabilities} for multilabel."""
    if not examples:
        return []
    calibrated = head.predict(examples)
    decided = head.decision.decide(calibrated, head.task)
    labels = head.task.labels
    structs: list[dict[str, Any]] = []
    for p, d in zip(calibrated.tolist(), decided, strict=True):
        probabilities = dict(zip(labels, p, strict=True))
        if head.task.kind == "multilabel":
            structs.append({"labels": [labels[i] for i in np.flatnonzero(d)], "probabilities": probabilities})
        else:
            label = labels[d] if d >= 0 else None
            structs.append({"label": label, "confidence": max(p), "probabilities": probabilities})
    return structs


def model_card(model: Model) -> str:
    """Markdown for people: the tasks, their labels, what they were trained on and how well they did on test."""
    lines = [
        "# slantwise model",
        "",
        f"Made by slantwise {slantwise.__version__}. Load it with `slantwise.model.load(directory)`.",
    ]
    for name, head in model.heads.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{head.task.kind}, {len(head.task.labels)} labels: {', '.join(head.task.labels)}.",
        ]
        lines += [f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.provenance.items()]
    return "\n".join(lines) + "\n"


def _cleaner_key(cleaner: Cleaner) -> str:
    return hashlib.sha256(json.dumps(cleaner.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
