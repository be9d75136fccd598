"""Model: what is exported and scores articles: cleaning and one head (task, classifier, decision) a task.

A model is a directory:

    slantwise.json       format version, heads with their decisions and provenance, a sha256 of every other file
    cleaner-<hash>.json  the cleaning that a head was trained behind
    heads/<task>/        the classifier's files, safe formats only; reference.json, what its batches are compared with
    bodies/<number>/     an encoder and its tokenizer, once for all heads that share it
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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

import slantwise
from slantwise.article import Article, Example, cleaned_text
from slantwise.card import model_card
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError, ModelError
from slantwise.monitoring import Reference
from slantwise.task import Task
from slantwise.trust import check_files, sha256

if TYPE_CHECKING:
    from slantwise.body import Body

FORMAT = 1
MANIFEST, REFERENCE = "slantwise.json", "reference.json"
# The kinds of classifiers a model may hold; nothing else is ever imported for a model.
CLASSIFIERS = {
    "linear": ("slantwise.linear", "LinearClassifier"),
    "transformer": ("slantwise.transformer", "TransformerClassifier"),
}
REQUIREMENTS = ("numpy", "scipy", "pyarrow")
BODY_REQUIREMENTS = {
    "torch": ("tokenizers", "safetensors", "torch", "transformers"),
    "onnx": ("tokenizers", "safetensors", "onnxruntime"),
}


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
    reference: Reference | None = None  # for monitoring

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

    @property
    def body(self) -> Body | None:
        """The encoder that the head may share with others; a linear head has none."""
        return getattr(self.classifier, "body", None)


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
        examples = self.examples(articles, wanted)
        owners = [i for i, own in enumerate(wanted) for _ in own]
        probabilities = self.probabilities(examples)
        for name, head in self.heads.items():
            structs = _structs(head, probabilities[name])
            if head.task.has_target:
                for row in rows:
                    row[name] = []
                for i, example, struct in zip(owners, examples[name], structs, strict=True):
                    rows[i][name].append({"target": example.target, **struct})
            else:
                for row, struct in zip(rows, structs, strict=True):
                    row[name] = struct
        return rows

    def examples(
        self, articles: Sequence[Article], targets: Sequence[Sequence[str]]
    ) -> dict[str, list[Example]]:  # fmt: skip
        """For each task the examples of the articles, each text cleaned once for the tasks that share a cleaning.

        One for each article, in their order; of a task with targets one for each target of each article.
        """
        cleaned: list[tuple[Cleaner, list[str]]] = []
        found: dict[str, list[Example]] = {}
        for name, head in self.heads.items():
            texts = next((texts for cleaner, texts in cleaned if cleaner == head.cleaner), None)
            if texts is None:
                texts = [cleaned_text(article, head.cleaner) for article in articles]
                cleaned.append((head.cleaner, texts))
            if head.task.has_target:
                found[name] = [Example(t, target) for t, own in zip(texts, targets, strict=True) for target in own]
            else:
                found[name] = [Example(text) for text in texts]
        return found

    def probabilities(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, npt.NDArray[np.float32]]:
        """For each of the given tasks the probabilities of its examples, float32 (n, n_labels), not yet calibrated.

        Tasks that share a body share its pass: an example that several of them ask for is encoded once.
        """
        found: dict[str, npt.NDArray[np.float32]] = {}
        for body, names in self._by_body(list(examples)):
            asked = list(dict.fromkeys(example for name in names for example in examples[name]))
            if body is None or not asked:
                found |= {name: self.heads[name].classifier.predict_proba(examples[name]) for name in names}
                continue
            place = {example: i for i, example in enumerate(asked)}
            vectors = body.represent(asked)
            for name in names:
                classifier: Any = self.heads[name].classifier
                found[name] = classifier.from_representation(vectors[[place[e] for e in examples[name]]])
        return found

    def _by_body(self, names: Sequence[str]) -> list[tuple[Body | None, list[str]]]:
        """The tasks that see the same examples through the same body; tasks without one are together."""
        groups: dict[tuple[int, bool], tuple[Body | None, list[str]]] = {}
        for name in names:
            head = self.heads[name]
            groups.setdefault((id(head.body), head.task.has_target), (head.body, []))[1].append(name)
        return list(groups.values())

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
        bodies: dict[int, tuple[str, Body]] = {}
        for name, head in self.heads.items():
            if head.body is not None and id(head.body) not in bodies:
                bodies[id(head.body)] = f"bodies/{len(bodies) + 1}", head.body
            cleaner = f"cleaner-{_cleaner_key(head.cleaner)}.json"
            _write_json(draft / cleaner, head.cleaner.to_dict())
            (draft / "heads" / name).mkdir(parents=True)
            head.classifier.save(draft / "heads" / name)
            if head.reference is not None:
                head.reference.save(draft / "heads" / name / REFERENCE)
            heads[name] = {
                "task": head.task.to_dict(),
                "classifier": head.kind,
                "body": None if head.body is None else bodies[id(head.body)][0],
                "cleaner": cleaner,
                "decision": head.decision.to_dict(),
                "provenance": dict(head.provenance),
            }
        for folder, body in bodies.values():
            body.save(draft / folder)
        (draft / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements(self)))
        (draft / "README.md").write_text(model_card(self), encoding="utf-8")
        for path in draft.rglob("*.safetensors"):
            path.chmod((draft / "README.md").stat().st_mode)  # the library makes them readable for their owner alone
        files = {
            path.relative_to(draft).as_posix(): sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()
        }
        _write_json(
            draft / MANIFEST,
            {"format": FORMAT, "slantwise": slantwise.__version__, "code_sha256": code_checksum(), "heads": heads,
             "files": files},
        )  # fmt: skip


def requirements(model: Model) -> list[str]:
    """Pinned requirements of scoring with the model, and nothing more."""
    runtimes = {head.body.runtime.kind for head in model.heads.values() if head.body is not None}
    names = dict.fromkeys([*REQUIREMENTS, *(name for kind in sorted(runtimes) for name in BODY_REQUIREMENTS[kind])])
    # a local build such as 2.13.0+cpu is in no registry
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


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


def load(path: str | Path, device: str = "auto") -> Model:
    """Load a model after checking every file against the manifest. Raises ModelError naming the file at fault.

    `device` is where encoders run: cpu, cuda, or auto, the GPU where there is one. Linear heads run on the CPU.
    """
    directory = find_directory(Path(path))
    manifest = _read_json(directory / MANIFEST)
    _check_release(directory / MANIFEST, manifest)
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise ModelError(f"{directory / MANIFEST}: damaged (it lists no files)")
    check_files(directory, MANIFEST, files)
    states = manifest["heads"] if isinstance(manifest.get("heads"), dict) else {}
    folders = dict.fromkeys(state.get("body") for state in states.values() if isinstance(state, dict))
    # outside of what is taken for damage: a missing library or GPU is none
    bodies = {folder: _load_body(directory, folder, files, device) for folder in folders if folder}
    try:
        heads = {name: _load_head(directory, name, state, files, bodies) for name, state in manifest["heads"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ConfigurationError) as error:
        raise ModelError(f"{directory / MANIFEST}: damaged ({type(error).__name__}: {error})") from error
    return Model(heads)


def _check_release(path: Path, manifest: Mapping[str, Any]) -> None:
    """Models of all formats up to this release's can be loaded; so far there is one."""
    found, wrote = manifest.get("format"), manifest.get("slantwise")
    if found == FORMAT:
        return
    newer = isinstance(found, int) and found > FORMAT
    mend = "update slantwise, or use the code that the exported model carries" if newer else "it is damaged"
    here = f"slantwise {slantwise.__version__} reads format {FORMAT}"
    raise ModelError(f"{path}: format {found!r} of slantwise {wrote!r}; {here}; {mend}")


def _load_body(directory: Path, folder: str, files: Mapping[str, str], device: str) -> Body:
    if f"{folder}/body.json" not in files:
        raise ModelError(f"{directory / MANIFEST}: body {folder!r} is not among its files")
    from slantwise.body import Body  # linear models do without its libraries

    return Body.load(directory / folder, device)


def _load_head(
    directory: Path, name: str, state: Mapping[str, Any], files: Mapping[str, str], bodies: Mapping[str, Body]
) -> Head:
    if state["classifier"] not in CLASSIFIERS:
        raise ModelError(f"{directory}: classifier {state['classifier']!r}; expected one of {', '.join(CLASSIFIERS)}")
    module, cls = CLASSIFIERS[state["classifier"]]
    task = Task.from_dict(state["task"])
    if task.name != name or state["cleaner"] not in files:
        raise ValueError(f"head {name!r} of task {task.name} with the cleaner {state['cleaner']!r}")
    folder = directory / "heads" / name
    loader = getattr(importlib.import_module(module), cls).load
    classifier = loader(folder, task, bodies[state["body"]]) if state.get("body") else loader(folder)
    cleaner = Cleaner.from_dict(_read_json(directory / state["cleaner"]))
    reference = Reference.load(folder / REFERENCE) if f"heads/{name}/{REFERENCE}" in files else None
    return Head(task, classifier, Decision.from_dict(state["decision"], task), cleaner, state["provenance"], reference)


def _structs(head: Head, probabilities: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """{label, confidence, probabilities}, or {labels, probabilities} for multilabel, for each row."""
    if not len(probabilities):
        return []
    calibrated = head.decision.calibrate(probabilities, head.task)
    decided = head.decision.decide(calibrated, head.task)
    labels = head.task.labels
    structs: list[dict[str, Any]] = []
    if head.task.kind == "multilabel":
        for p, d in zip(calibrated.tolist(), decided, strict=True):
            shown = dict(zip(labels, p, strict=True))
            structs.append({"labels": [labels[i] for i in np.flatnonzero(d)], "probabilities": shown})
        return structs
    # where costs are given, the label need not be the most probable one
    confidence = calibrated[np.arange(len(calibrated)), head.decision.best(calibrated)].tolist()
    for p, d, sure in zip(calibrated.tolist(), decided, confidence, strict=True):
        label = labels[d] if d >= 0 else None
        structs.append({"label": label, "confidence": sure, "probabilities": dict(zip(labels, p, strict=True))})
    return structs


def _cleaner_key(cleaner: Cleaner) -> str:
    return hashlib.sha256(json.dumps(cleaner.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
