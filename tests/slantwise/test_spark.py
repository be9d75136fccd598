"""Spark, for real on this machine: every row of a table is scored once, as the local code scores it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slantwise.command import CHECKOUT
from slantwise.errors import ConfigurationError, ModelError, ScoringError
from slantwise.inputs import Columns, InputOptions, parse
from slantwise.model import Model
from slantwise.scores import score_rows, scores_schema
from slantwise.scoring import ScoreConfig, score
from slantwise.spark import SparkSettings, read_files, score_files, score_table, start
from training.pyfunc_model import save_model

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# what pyspark 4.3 says of every pandas 3
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
LOCAL = SparkSettings("local[2]", conf={"spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "2"})
SCHEMA = "id string, text string, title string, source string, targets array<string>"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "The council praised the Harbour Plan. Talk was of nurse and “clinic”.", "title": "Nurses",
     "source": "north.example", "targets": ["Harbour Plan", "nurses"]},
    {"id": "b", "text": None, "title": "No text", "source": None, "targets": ["Tram Line"]},
    {"id": "c", "text": "The council condemned the Tram Line. Talk was of frost; the cost is high.", "title": None,
     "source": None, "targets": None},
    {"id": "d", "text": " \n", "title": None, "source": None, "targets": []},
    {"id": None, "text": "Goal, goal", "title": None, "source": "north.example", "targets": ["Tram Line", ""]},
    {"id": "f", "text": "Goal, goal", "title": "", "source": "north.example", "targets": ["Tram Line"]},
]  # fmt: skip
LINES = (
    rb"""{"id": "a", "text": "The council praised the Harbour Plan.", "targets": [{"target": "Harbour Plan"}]}
{"id": "broken", "text":

[1, 2]
{"id": 7, "text": "Frost \u2028 and gale", "stances": [{"target": "Tram Line", "stance": "favor"}]}
{"id": "bytes", "text": "Frost """
    + b"\xff"
    + rb""""}
{"id": "half", "text": "\ud800"}
{"text": 7}
{"text": "Goal"}"""
)


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
        patch.setenv("OMP_NUM_THREADS", "1")
        session = start(LOCAL)
    yield session
    session.stop()


def local(model: Model, rows: list[dict[str, Any]], options: InputOptions | None = None) -> list[dict[str, Any]]:
    """What the local code gives for the rows."""
    given = options or InputOptions()
    return score_rows(model, [parse(row, number, given) for number, row in enumerate(rows, start=1)])


def collected(frame: DataFrame) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in frame.collect()]


def one_partition(spark: SparkSession, rows: list[dict[str, Any]]) -> DataFrame:
    return spark.createDataFrame([tuple(row.values()) for row in rows], SCHEMA).coalesce(1)


def test_every_row_good_or_bad_has_the_scores_of_the_local_engine(
    spark: SparkSession, model: Model, model_directory: Path
) -> None:
    assert collected(score_table(one_partition(spark, ROWS), model_directory)) == local(model, ROWS)


def test_the_schema_is_that_of_the_scores(spark: SparkSession, model: Model, model_directory: Path) -> None:
    found = score_table(one_partition(spark, ROWS), model_directory).toArrow().schema
    assert found.names == scores_schema(model.tasks).names
    for name in found.names:
        assert str(found.field(name).type) == str(scores_schema(model.tasks).field(name).type).replace(
            "item", "element"
        )


def test_rows_keep_their_order_over_partitions_and_batches(
    spark: SparkSession, model: Model, model_directory: Path
) -> None:
    rows = [{**ROWS[n % len(ROWS)], "id": str(n)} for n in range(1300)]
    frame = spark.createDataFrame([tuple(row.values()) for row in rows], SCHEMA)
    assert frame.rdd.getNumPartitions() == 2
    once = local(model, ROWS)
    expected = [once[n % len(ROWS)] | {"id": str(n)} for n in range(1300)]
    for row, other in zip(collected(score_table(frame, model_directory)), expected, strict=True):
        assert (row["id"], row["error"]) == (other["id"], other["error"])
        assert rounded(row) == rounded(other)


def rounded(value: Any) -> Any:
    """In other company, the last digits of a sum can differ."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def test_no_rows_in_no_rows_out(spark: SparkSession, model_directory: Path) -> None:
    assert collected(score_table(one_partition(spark, ROWS).limit(0), model_directory)) == []


def test_the_numbers_of_rows_name_those_without_id_and_are_kept(
    spark: SparkSession, model: Model, model_directory: Path
) -> None:
    frame = spark.createDataFrame([(n, *row.values()) for n, row in enumerate(ROWS, start=1)], f"n int, {SCHEMA}")
    found = collected(score_table(frame.orderBy("n", ascending=False), model_directory, row="n").orderBy("row"))
    assert [row.pop("row") for row in found] == [1, 2, 3, 4, 5, 6]
    assert rounded(found) == rounded(local(model, ROWS))


def test_columns_and_targets_can_be_named(spark: SparkSession, model: Model, model_directory: Path) -> None:
    options = InputOptions(Columns(id="key", text="page.body", title=None, targets="about"), ("Tram Line",), ";")
    rows = [{"key": 1, "page": {"body": "Frost"}, "about": "Harbour Plan; nurses"}, {"key": 2, "page": None},
            {"key": 3, "page": {"body": "Goal"}}]  # fmt: skip
    frame = spark.createDataFrame(rows, "key int, page struct<body: string>, about string").coalesce(1)
    assert collected(score_table(frame, model_directory, options)) == local(model, rows, options)


def test_the_executors_have_their_own_copies_of_model_and_code(
    spark: SparkSession, model_directory: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(model_directory, tmp_path / "model"))
    scores = score_table(one_partition(spark, ROWS), again)
    shutil.rmtree(again)
    assert len(scores.collect()) == len(ROWS)
    (path,) = spark.sparkContext.parallelize([0], 1).map(lambda _: __import__("sys").path).collect()
    assert any(place.endswith("slantwise-code.zip") for place in path)


def test_a_table_without_text_is_refused_before_the_job(spark: SparkSession, model_directory: Path) -> None:
    frame = spark.createDataFrame([("a", "Frost")], "id string, body string")
    with pytest.raises(ScoringError, match=r"no column 'text'; it has 'id', 'body'; name it with columns\.text="):
        score_table(frame, model_directory)


def test_a_damaged_model_is_refused_before_the_job(spark: SparkSession, model_directory: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(model_directory, tmp_path / "model"))
    (again / "heads" / "topic" / "arrays.npz").write_bytes(b"")
    with pytest.raises(ModelError, match=r"arrays\.npz was changed"):
        score_table(one_partition(spark, ROWS), again)


# --- files ---


def test_files_of_lines_are_read_as_the_local_engine_reads_them(
    spark: SparkSession, model_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINES)
    score_files(model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), LOCAL)
    alone = ScoreConfig(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "local"))
    score(alone, lambda: model_directory)
    found, expected = (pq.read_table(tmp_path / name).to_pylist() for name in ("out", "local"))
    assert rounded(found) == rounded(expected)
    assert [row["id"] for row in found] == ["a", None, None, "7", None, None, "7", "8"]


def test_the_summary_is_that_of_the_local_engine(spark: SparkSession, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINES)
    score(ScoreConfig(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "local")), lambda: model_directory)
    settings = SparkSettings(LOCAL.master, 3, LOCAL.conf)  # several partitions, whose summaries are added up
    told = score_files(model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), settings)
    found, expected = (json.loads((tmp_path / name / "_summary.json").read_text()) for name in ("out", "local"))
    assert found == json.loads(json.dumps(told))
    assert found["rejected"] == {"invalid_text": 2, "unreadable_row": 2, "wrong_type": 1}
    assert rounded(found) == rounded(expected)


def test_rejected_rows_are_listed_with_their_reasons(
    spark: SparkSession, model_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINES)
    score(ScoreConfig(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "local")), lambda: model_directory)
    score_files(model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), LOCAL)
    found, expected = (listed(tmp_path / name) for name in ("out", "local"))
    assert {row.pop("file") for row in found} == {f"file:{tmp_path / 'in.jsonl'}"}
    for row in expected:
        row["file"] = None
    assert [{**row, "file": None, "line": None} for row in found] == [{**row, "line": None} for row in expected]


def listed(folder: Path) -> list[dict[str, Any]]:
    """The lines of the quarantine."""
    files = [path for path in sorted((folder / "_quarantine").iterdir()) if path.name.startswith("part-")]
    return [json.loads(line) for path in files for line in path.read_bytes().decode("utf-8").split("\n") if line]


def test_too_many_rejected_rows_leave_nothing_behind(
    spark: SparkSession, model_directory: Path, tmp_path: Path
) -> None:
    # the first thousand are good: what stops the job is the count of all
    lines = [json.dumps({"text": "Frost"})] * 1000 + [json.dumps({"text": None})] * 1000
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(ScoringError, match=r"1,000 of the 2,000 rows read were rejected \(missing_text 1,000\)"):
        score_files(
            model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), LOCAL, max_rejected=0.4
        )
    assert not (tmp_path / "out").exists()
    found = score_files(
        model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), LOCAL, max_rejected=0.5
    )
    assert (found["rows"], found["rejected"]) == (2000, {"missing_text": 1000})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("\n \n", "the input holds no rows"),
        ('{"id": "a", "body": "Frost"}', r"no column 'text'; it has 'id', 'body'; name it with columns\.text="),
        ('{"text": null}\n' * 1000 + '{"text": "Frost"}\n' * 9000, "1,000 of the 1,000 rows read were rejected"),
    ],
    ids=["empty", "no text column", "the first thousand rows"],
)
def test_an_input_that_cannot_be_scored_is_refused_before_the_job(
    spark: SparkSession, model_directory: Path, tmp_path: Path, lines: str, message: str
) -> None:
    (tmp_path / "in.jsonl").write_text(lines)
    with pytest.raises(ScoringError, match=message):
        score_files(model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), LOCAL)
    assert not (tmp_path / "out").exists()


def test_parquet_is_scored_into_parquet(
    spark: SparkSession, model: Model, model_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "in" / "part-0.parquet")
    score_files(model_directory, str(tmp_path / "in"), str(tmp_path / "out"), InputOptions(), LOCAL)
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert rounded(found) == rounded(local(model, ROWS))


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("in.csv", "auto", r"engine=spark reads \.parquet"),
        ("in.jsonl", "csv", "format=csv: engine=spark reads parquet and jsonl"),
        ("nowhere.jsonl", "auto", "nowhere.jsonl cannot be read by Spark"),
    ],
)
def test_what_cannot_be_read_is_told(spark: SparkSession, tmp_path: Path, name: str, format: str, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        read_files(spark, str(tmp_path / name), format)


def test_a_folder_of_lines_is_read_as_lines(spark: SparkSession, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "in" / name).write_text(json.dumps(ROWS[0]) + "\n")
    found = score_files(model_directory, str(tmp_path / "in"), str(tmp_path / "out"), InputOptions(), LOCAL)
    assert (found["rows"], found["rejected"]) == (2, {})


def test_a_folder_of_several_kinds_is_refused(spark: SparkSession, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / "in" / name).write_text("{}")
    with pytest.raises(ScoringError, match=r"the folder holds a\.jsonl and b\.csv; expected files of one kind"):
        score_files(model_directory, str(tmp_path / "in"), str(tmp_path / "out"), InputOptions(), LOCAL)


def test_a_column_that_is_missing_is_told_without_our_own(
    spark: SparkSession, model_directory: Path, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"id": ["a"], "body": ["Frost"]}), tmp_path / "in.parquet")
    with pytest.raises(ScoringError, match="no column 'text'; it has 'id', 'body'; name it"):
        score_files(model_directory, str(tmp_path / "in.parquet"), str(tmp_path / "out"), InputOptions(), LOCAL)


def test_what_fails_on_an_executor_is_told_in_a_line(
    spark: SparkSession, model_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ScoringError, match=r"the Spark job failed: .*in\.jsonl\.gz.*EOFException") as failed:
        score_files(model_directory, str(tmp_path / "in.jsonl.gz"), str(tmp_path / "out"), InputOptions(), LOCAL)
    assert "\n" not in str(failed.value)


def test_spark_that_does_not_start_is_told_with_what_it_needs(model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(ROWS[0]))
    arguments = [f"model={model_directory}", f"input={tmp_path}/in.jsonl", f"output={tmp_path}/out", "engine=spark"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "slantwise", "score", *arguments, "spark.master=nowhere"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Spark does not start: " in done.stderr
    assert "(now nowhere)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_that_exists_is_refused(spark: SparkSession, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "out").mkdir()
    with pytest.raises(ScoringError, match=r"output=.*out.*already exists"):
        score_files(model_directory, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), InputOptions(), LOCAL)


def test_a_number_of_partitions_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"spark\.partitions=0; expected 1 or more"):
        SparkSettings(partitions=0)


# --- a user's own job, through MLflow ---


def test_mlflows_udf_gives_the_same_scores(
    spark: SparkSession, model: Model, model_directory: Path, tmp_path: Path
) -> None:
    import mlflow.pyfunc
    from pyspark.sql import functions as F

    save_model(model_directory, tmp_path / "model")
    udf = mlflow.pyfunc.spark_udf(spark, str(tmp_path / "model"), env_manager="local")
    frame = one_partition(spark, ROWS)
    found = collected(frame.select(udf(F.struct(*frame.columns)).alias("scores")).select("scores.*"))
    expected = local(model, ROWS)
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        # MLflow 3.17 converts no null structs or lists of structs, and makes "nan" of a null among texts
        assert (row["id"], row["error"] or None) == (other["id"], other["error"])
        if other["error"]:
            assert (row["topic"]["label"], row["framing"]["labels"], row["stance"]) == (None, None, [])
            assert set(row["topic"]["probabilities"].values()) == {None}
        else:
            assert {name: row[name] for name in model.heads} == {name: other[name] for name in model.heads}
