"""The MLflow form of a model: used from elsewhere, by what MLflow offers, it gives the model's own rows."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import slantwise.model
from slantwise.errors import ScoringError
from slantwise.inputs import InputOptions, parse
from slantwise.model import MANIFEST, Model, code_checksum
from slantwise.pyfunc import ScoringModel
from slantwise.scores import score_rows
from training.pyfunc_model import INPUT_EXAMPLE, save_model

BIN = Path(sys.executable).parent
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "The council praised the Harbour Plan. Talk was of nurse and “clinic”.", "title": "Nurses",
     "source": "north.example", "targets": ["Harbour Plan", "nurses"]},
    {"id": "b", "text": "The council condemned the Tram Line. Talk was of frost; the cost is high.", "title": None,
     "source": None, "targets": None},
    {"id": "c", "text": "Goal, goal", "title": None, "source": "north.example", "targets": ["Tram Line"]},
]  # fmt: skip

# What happens in a process that knows nothing of this checkout: one JSON object, case -> rows or error.
CASES = """
import json, sys, warnings
import mlflow.pyfunc, numpy, pandas as pd

warnings.simplefilter("error", UserWarning)
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = json.loads(sys.argv[2])
import slantwise

def outcome(table):
    try:
        return model.predict(table)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

text = pd.DataFrame({"text": ["Goal", "Frost"]})
cases = {
    "code": slantwise.__file__,
    "rows": outcome(pd.DataFrame(rows)),
    "arrays": outcome(pd.DataFrame([{**r, "targets": r["targets"] and numpy.array(r["targets"])} for r in rows])),
    "text only": outcome(text),
    "other index": outcome(text.set_index(pd.Index([7, 7]))),
    "other columns": outcome(text.assign(likes=[1, 2])),
    "no rows": outcome(text[:0]),
    "no text column": outcome(pd.DataFrame({"body": ["Goal"]})),
    "numbers as text": outcome(pd.DataFrame({"text": [1, 2]})),
    "no titles": outcome(text.assign(id=[5, 6], title=[float("nan")] * 2, targets=[None, ["Tram Line"]])),
    "null text": outcome(pd.DataFrame({"text": ["Goal", None]})),
    "blank text": outcome(pd.DataFrame({"text": ["Goal", "  "]})),
    "targets as text": outcome(text.assign(targets="Tram Line")),
    "nameless target": outcome(text.assign(targets=[["Tram Line"], [" "]])),
}
try:
    mlflow.pyfunc.load_model(sys.argv[3])
    cases["other release"] = "loaded"
except Exception as error:
    cases["other release"] = type(error).__name__ + ": " + str(error)
print(json.dumps(cases))
"""


def environment() -> dict[str, str]:
    """The environment of a subprocess that finds the installed tools, but not this checkout by PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    return {**kept, **quiet, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}"}


def call(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as an MLflow model directory."""
    output = tmp_path_factory.mktemp("exported") / "mlflow"
    save_model(model_directory, output)
    return output


@pytest.fixture(scope="module")
def other_release(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, exported by a release whose code differs."""
    output = tmp_path_factory.mktemp("other") / "mlflow"
    shutil.copytree(exported, output)
    package = output / "code" / "slantwise"
    with (package / "mentions.py").open("a") as file:
        file.write("\n")
    manifest = output / "artifacts" / "model" / MANIFEST
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slantwise.model, "__file__", str(package / "model.py"))
        checksum = code_checksum()
    manifest.write_text(json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | {"code_sha256": checksum}))
    return output


@pytest.fixture(scope="module")
def cases(exported: Path, other_release: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the exported model does in a process of its own, in another folder, with another model loaded after it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    out = call(sys.executable, "-c", CASES, str(exported), json.dumps(ROWS), str(other_release), cwd=elsewhere)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def scored(model: Model, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What the local engine gives for the rows."""
    return score_rows(model, [parse(row, number, InputOptions()) for number, row in enumerate(rows, start=1)])


@pytest.fixture(scope="module")
def expected(model: Model) -> list[dict[str, Any]]:
    return scored(model, *ROWS)


def test_the_exported_model_runs_its_own_copy_of_the_code(cases: dict[str, Any], exported: Path) -> None:
    assert Path(cases["code"]) == exported / "code" / "slantwise" / "__init__.py"


@pytest.mark.parametrize("case", ["rows", "arrays"])
def test_it_gives_the_rows_of_the_model(cases: dict[str, Any], expected: list[dict[str, Any]], case: str) -> None:
    assert cases[case] == expected


@pytest.mark.parametrize("case", ["text only", "other index", "other columns"])
def test_only_text_is_needed(cases: dict[str, Any], model: Model, case: str) -> None:
    assert cases[case] == scored(model, {"text": "Goal"}, {"text": "Frost"})


def test_ids_that_are_numbers_and_columns_without_a_value_are_no_reason_to_refuse(
    cases: dict[str, Any], model: Model
) -> None:
    rows = {"id": "5", "text": "Goal"}, {"id": "6", "text": "Frost", "targets": ["Tram Line"]}
    assert cases["no titles"] == scored(model, *rows)


def test_no_rows_in_no_rows_out(cases: dict[str, Any]) -> None:
    assert cases["no rows"] == []


@pytest.mark.parametrize(
    ("case", "codes"),
    [
        ("null text", [None, "missing_text"]),
        ("blank text", [None, "empty_text"]),
        ("targets as text", [None, None]),
        ("nameless target", [None, "bad_targets"]),
    ],
)
def test_a_bad_row_has_a_code_and_nulls_and_its_neighbours_their_scores(
    cases: dict[str, Any], model: Model, case: str, codes: list[str | None]
) -> None:
    assert [row["error"] for row in cases[case]] == codes
    for row in cases[case]:
        assert [row[name] is None for name in model.heads] == [row["error"] is not None] * 3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no text column", "Model is missing inputs ['text']"),
        ("numbers as text", "Incompatible input types for column text"),
    ],
)
def test_a_table_that_is_none_of_articles_is_refused(cases: dict[str, Any], case: str, message: str) -> None:
    assert message in cases[case]


def test_a_model_of_another_release_is_refused_where_one_is_loaded(cases: dict[str, Any]) -> None:
    assert cases["other release"].startswith("ModelError: ")
    assert "another release of slantwise than the one already imported" in cases["other release"]


def test_a_model_of_another_release_loads_in_a_process_of_its_own(
    other_release: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = call(sys.executable, "-c", CASES, str(other_release), json.dumps(ROWS), str(other_release), cwd=tmp_path)
    found = json.loads(out.splitlines()[-1])
    assert (found["rows"], found["other release"]) == (expected, "loaded")


@pytest.mark.parametrize("none", [None, math.nan])
def test_a_null_or_nan_means_none(model: Model, none: float | None) -> None:
    scoring = ScoringModel()
    scoring.model = model
    table = pd.DataFrame({column: ["Goal" if column == "text" else none] for column in ROWS[0]}, dtype=object)
    assert scoring.predict(None, table) == scored(model, {"text": "Goal"})


def test_ids_that_are_numbers_come_out_as_text(model: Model) -> None:
    scoring = ScoringModel()
    scoring.model = model
    rows = scoring.predict(None, pd.DataFrame({"id": [5, 6], "text": ["Goal", "Frost"]}))
    assert [row["id"] for row in rows] == ["5", "6"]


def test_without_mlflow_s_checks_a_missing_column_is_named_too(model: Model) -> None:
    scoring = ScoringModel()
    scoring.model = model
    with pytest.raises(ScoringError, match="column 'text' is missing; the input has 'body', 'head'"):
        scoring.predict(None, pd.DataFrame({"body": ["Goal"], "head": ["Sport"]}))


BAD: list[dict[str, Any]] = [
    {"id": "d", "text": None, "title": None, "source": None, "targets": None},
    {"id": "e", "text": "Goal", "title": None, "source": None, "targets": [""]},
]


def predict(exported: Path, folder: Path, name: str, kind: str) -> list[dict[str, Any]]:
    """What `mlflow models predict` makes of the file."""
    call(
        str(BIN / "mlflow"), "models", "predict", "-m", str(exported), "--env-manager", "local",
        "-i", name, "-t", kind, "-o", "out.json", cwd=folder,
    )  # fmt: skip
    predictions: list[dict[str, Any]] = json.loads((folder / "out.json").read_text())["predictions"]
    return predictions


def test_mlflow_models_predict_gives_what_slantwise_score_gives(exported: Path, tmp_path: Path) -> None:
    table = {"columns": list(ROWS[0]), "data": [list(row.values()) for row in [*ROWS, *BAD]]}
    (tmp_path / "in.json").write_text(json.dumps({"dataframe_split": table}))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *BAD]))
    predicted = predict(exported, tmp_path, "in.json", "json")
    call(
        str(BIN / "slantwise"), "score", f"model={exported}", "input=in.jsonl", "output=out.jsonl",
        cwd=tmp_path,
    )  # fmt: skip
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["error"] for row in scored] == [None, None, None, "missing_text", "bad_targets"]
    assert flat(predicted) == pytest.approx(flat(scored), abs=1e-6)
    assert labels(predicted) == labels(scored)


def test_mlflow_models_predict_reads_csv_with_empty_cells(exported: Path, model: Model, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,text,title,targets\n1,Goal,,Tram Line|Harbour Plan\n2,"",,\n3,NA,,\n')
    found = predict(exported, tmp_path, "in.csv", "csv")
    rows = {"id": "1", "text": "Goal", "targets": ["Tram Line", "Harbour Plan"]}, {"id": "2"}, {"id": "3"}
    assert found == scored(model, *rows)


def flat(value: Any) -> list[float]:
    """All numbers of nested rows, in order."""
    if isinstance(value, float):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [number for item in inner for number in flat(item)]


def labels(value: Any) -> Any:
    """The rows without their numbers."""
    if isinstance(value, dict):
        return {key: labels(item) for key, item in value.items() if not isinstance(item, float)}
    return [labels(item) for item in value] if isinstance(value, list) else value


def test_the_signature_asks_for_text_and_says_what_comes_out(exported: Path, model: Model) -> None:
    import mlflow

    signature = mlflow.models.get_model_info(str(exported)).signature
    assert {column.name: column.required for column in signature.inputs} == {
        "id": False, "text": True, "title": False, "source": False, "targets": False,
    }  # fmt: skip
    assert [column.name for column in signature.outputs] == ["id", "error", *model.heads]


def test_the_input_example_can_be_scored(model: Model) -> None:
    scoring = ScoringModel()
    scoring.model = model
    row = scoring.predict(None, pd.DataFrame(INPUT_EXAMPLE))[0]
    assert (row["error"], [entry["target"] for entry in row["stance"]]) == (None, INPUT_EXAMPLE["targets"][0])


def test_requirements_are_those_of_the_model_and_mlflow(exported: Path, model_directory: Path) -> None:
    lines = (exported / "requirements.txt").read_text().split()
    own = (model_directory / "requirements.txt").read_text().split()
    assert set(own) < set(lines)
    assert {line.split("==")[0] for line in set(lines) - set(own)} == {"mlflow"}
