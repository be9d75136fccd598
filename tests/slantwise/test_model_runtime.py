"""The light runtime: an exported model scores where nothing is installed but what its requirements.txt names.

A finder refuses every other import in a process of its own, which sees the exported model's copy of this package alone.
`python -m benchmarks.light_runtime` does the same with new virtual environments.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slantwise.model import Model, load
from tests.golden.remake_models import HERE
from training.pyfunc_model import CODE, save_model

GOLDEN = HERE / "model-1"
LINEAR = {"numpy", "scipy", "pyarrow"}
ONNX = LINEAR | {"tokenizers", "safetensors", "onnxruntime"}
INSTALLED_WITH = {"flatbuffers", "google", "packaging", "huggingface_hub"}  # by pip, since onnxruntime and others ask

SCORE = """
import json, sys, time

class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

allowed = {"slantwise", *json.loads(sys.argv[1])}
sys.meta_path.insert(0, Only())
sys.path.insert(0, sys.argv[2])
began, cpu = time.perf_counter(), time.process_time()
from slantwise.model import load
model = load(sys.argv[3])
seconds = min(time.perf_counter() - began, time.process_time() - cpu)
loaded = sorted({name.partition(".")[0] for name in sys.modules})
from slantwise.inputs import InputOptions, parse
from slantwise.scores import score_batch, score_rows
rows = [json.loads(line) for line in open(sys.argv[4], encoding="utf-8")]
requests = [parse(row, number, InputOptions()) for number, row in enumerate(rows, start=1)]
assert score_batch(model, requests).num_rows == len(rows)
import slantwise
print(json.dumps({"rows": score_rows(model, requests), "loaded": loaded, "seconds": seconds,
                  "code": slantwise.__file__}))
"""


def score(code: Path, model: Path, allowed: set[str], articles: Path = GOLDEN / "articles.jsonl") -> dict[str, Any]:
    """The scores of the articles, the modules after loading, and the seconds of import and load together."""
    command = [sys.executable, "-I", "-c", SCORE, json.dumps(sorted(allowed)), str(code), str(model), str(articles)]
    done = subprocess.run(command, cwd=model, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden linear model as `slantwise export` writes it."""
    output = tmp_path_factory.mktemp("exported") / "model"
    save_model(GOLDEN / "linear", output)
    return output


def names(path: Path) -> set[str]:
    return {line.partition("==")[0] for line in path.read_text().splitlines()}


def test_a_linear_model_scores_with_numpy_scipy_and_pyarrow_alone(exported: Path) -> None:
    found = score(exported / "code", exported, LINEAR)
    assert Path(found["code"]).is_relative_to(exported)
    assert [row["id"] for row in found["rows"]] == [f"g{number:02}" for number in range(1, 21)]
    assert names(exported / "artifacts" / "model" / "requirements.txt") == LINEAR


def test_loading_a_linear_model_imports_little(exported: Path) -> None:
    loaded = set(score(exported / "code", exported, LINEAR)["loaded"])
    heavy = {"mlflow", "hydra", "omegaconf", "datasets", "transformers", "torch", "pandas", "rich", "sklearn"}
    assert not loaded & (heavy | {"tokenizers", "onnxruntime", "pyarrow", "data", "training", "evaluation"})


def test_an_onnx_model_adds_onnxruntime_and_the_tokenizer(tmp_path: Path) -> None:
    shutil.copytree(CODE, tmp_path / "slantwise", ignore=shutil.ignore_patterns("__pycache__"))
    found = score(tmp_path, GOLDEN / "onnx", ONNX | INSTALLED_WITH)
    assert not {"torch", "transformers", "pandas"} & set(found["loaded"])
    assert found["rows"][0]["stance"]
    assert names(GOLDEN / "onnx" / "requirements.txt") == ONNX


def test_the_finder_refuses_what_is_not_allowed(exported: Path) -> None:
    with pytest.raises(AssertionError, match="No module named 'scipy"):
        score(exported / "code", exported, LINEAR - {"scipy"})


def test_import_and_load_of_a_linear_model_take_less_than_a_second(tmp_path: Path) -> None:
    """With a vocabulary of the size that a corpus of thousands of articles gives; the least of five, since other
    processes take their share of the machine."""
    model = grown(tmp_path / "model")
    assert min(score(CODE.parent, model, LINEAR, empty(tmp_path))["seconds"] for _ in range(5)) < 1


def empty(folder: Path) -> Path:
    path = folder / "articles.jsonl"
    path.write_text('{"id": "a", "text": "Goal"}\n')
    return path


def grown(directory: Path) -> Path:
    """A model of topic and framing with 100,000 features a head, most of them never seen."""
    heads = dict(load(GOLDEN / "linear").heads)
    del heads["stance"]
    for head in heads.values():
        classifier: Any = head.classifier
        words = classifier.space.blocks["word"]
        more = [f"unseen{number}" for number in range(100_000 - len(words.terms))]
        words.restore([*words.terms, *more], np.concatenate([words.idf, np.ones(len(more), np.float32)]))
        old = classifier.head.coefficients
        wider = np.vstack([old, np.zeros((len(more), old.shape[1]), np.float32)])
        classifier.head = replace(classifier.head, coefficients=wider)
    Model(heads).save(directory)
    return directory
