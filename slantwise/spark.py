"""Spark: the scores of a table of articles, one row for each of its rows, by the code of the local engine.

    from slantwise.spark import score_table
    scores = score_table(spark.read.parquet("s3a://news/2024/"), "models/news")   # a DataFrame, lazy
    scores.write.parquet("s3a://scores/2024/")

`slantwise score engine=spark` does the same from files to files. The driver ships the model and this package to the
executors; their Python needs what the model's requirements.txt names, and nothing of MLflow.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from slantwise.errors import ConfigurationError, ScoringError
from slantwise.inputs import UNREADABLE_ROW, InputOptions, Rejection, Request, parse
from slantwise.model import MANIFEST, Model, find_directory, load
from slantwise.rows import MAX_ROW, json_row
from slantwise.scores import answerable, score_batch, scores_schema
from slantwise.workers import request_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from slantwise.scoring import ScoreConfig

CHUNK = 512  # articles scored at once, however large Spark's batches are
NUMBER = "_slantwise_number"
LINE = "_slantwise_line"
JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.bz2", ".ndjson.bz2")
ELSE = "for others use slantwise.spark.score_table on a table of your own"


@dataclass
class SparkSettings:
    """The `spark` keys of `slantwise score engine=spark`; see configs/score.yaml."""

    master: str | None = "local[*]"  # null: what spark-submit or spark-defaults.conf say
    partitions: int | None = None  # null: as Spark splits the input
    conf: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.partitions is not None and self.partitions < 1:
            raise ConfigurationError(f"spark.partitions={self.partitions}; expected 1 or more, or null")


def score_table(
    frame: DataFrame, model: str | Path, options: InputOptions | None = None, row: str | None = None,
    device: str = "auto",
) -> DataFrame:  # fmt: skip
    """The scores of each row of `frame`, in its partitions and their order; columns as in slantwise.scores.

    `model` is a directory that the driver can read. `row` names a column with the numbers of the rows (from 1): rows
    without an id are called by them, as the local engine does it, and they are kept as the column `row`, by which to
    sort. Without it such rows are called by Spark's own numbers, unique in the table.

    Raises ScoringError where the frame has no text column, ModelError where the model cannot be loaded.
    """
    from pyspark.sql import functions as F

    options = options or InputOptions()
    directory = find_directory(Path(model))
    tasks = load(directory, "cpu").tasks  # on the driver: a damaged model is told before the job starts
    columns = _needed(frame.columns, options)
    number = F.col(_quoted(row)) if row else F.monotonically_increasing_id() + 1
    selected = frame.select(*(F.col(_quoted(name)) for name in columns), number.alias(NUMBER))
    job = _Job(_ship(frame.sparkSession, directory), options, row is not None, device)
    schema = _spark_type(pa.struct(job.fields(scores_schema(tasks))))

    def scores(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return job.scores(batches)

    return selected.mapInArrow(scores, schema)


def read_files(spark: SparkSession, path: str, format: str = "auto") -> DataFrame:
    """The rows of .parquet or .jsonl files: of a file, a folder or a glob, wherever Spark can read.

    JSONL comes as lines, which are read where they are scored: a broken one is a rejected row, as with the local
    engine. Raises ScoringError for other formats.
    """
    from pyspark.errors import AnalysisException

    kind = _kind(path) if format == "auto" else format
    if kind not in ("parquet", "jsonl"):
        raise ScoringError(f"format={kind}: engine=spark reads parquet and jsonl; {ELSE}")
    try:
        if kind == "parquet":
            return spark.read.parquet(path)
        # (?U): blank as Python has it, so that the same lines are rows
        return spark.read.text(path, lineSep="\n").toDF(LINE).where(rf"{LINE} rlike '(?U)\\S'")
    except AnalysisException as error:
        raise ScoringError(f"input={path} cannot be read by Spark: {str(error).splitlines()[0]}") from error


def score_files(
    model: Path, path: str, output: str, options: InputOptions, settings: SparkSettings, format: str = "auto",
    device: str = "auto",
) -> dict[str | None, int]:  # fmt: skip
    """Score the files `path` into the new folder `output` of Parquet files; gives the number of rows by error code.

    Raises ConfigurationError where pyspark is not installed, ScoringError where input or output cannot be used.
    """
    spark = start(settings)
    from pyspark.errors import AnalysisException

    frame = read_files(spark, path, format)
    if settings.partitions:
        frame = frame.repartition(settings.partitions)
    scores = score_table(frame, model, options, device=device)
    try:
        scores.write.option("compression", "zstd").parquet(output)
    except AnalysisException as error:
        raise ScoringError(f"output={output}: {str(error).splitlines()[0]}") from error
    counts = spark.read.parquet(output).groupBy("error").count().collect()
    return {found["error"]: found["count"] for found in counts}


def run(config: ScoreConfig) -> None:
    """`slantwise score engine=spark`. Raises ConfigurationError for keys that Spark has no use for."""
    from slantwise.locate import locate_model

    if config.output.endswith((".jsonl", ".csv", ".parquet")) or config.output_format != "parquet":
        raise ConfigurationError(f"output={config.output}: engine=spark writes a folder of Parquet files")
    for key in ("workers", "part_rows"):
        if getattr(config, key) is not None:
            raise ConfigurationError(f"{key}={getattr(config, key)}: a key of engine=local; see spark.partitions")
    counts = score_files(
        locate_model(config.model), config.input, config.output, config.input_options, config.spark,
        str(config.format), config.device,
    )  # fmt: skip
    total, rejected = sum(counts.values()), {code: n for code, n in counts.items() if code is not None}
    print(f"{config.output}: {total:,} rows, {sum(rejected.values()):,} of them rejected")
    if rejected:
        print("  " + ", ".join(f"{code} {n:,}" for code, n in sorted(rejected.items())))


def start(settings: SparkSettings) -> SparkSession:
    """The session that runs already, or a new one; on this machine its ports are open to this machine alone."""
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "engine=spark needs pyspark, which is not installed: pip install 'slantwise[spark]', or -e '.[spark]' here"
        ) from error
    builder = SparkSession.builder.appName("slantwise score")
    if settings.master and settings.master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false")
    if settings.master:
        builder = builder.master(settings.master)
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


# --- On the executors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What the executors are told: the name of the shipped model and how rows are read."""

    model: str
    options: InputOptions
    numbered: bool  # the numbers are the caller's, and go into the output
    device: str

    def fields(self, schema: pa.Schema) -> list[pa.Field]:
        return [*schema, *([pa.field("row", pa.int64())] if self.numbered else [])]

    def scores(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import SparkFiles

        model = _loaded(SparkFiles.get(self.model), self.device)
        for batch in batches:
            for start in range(0, batch.num_rows, CHUNK):
                yield self._score(model, batch.slice(start, CHUNK))

    def _score(self, model: Model, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = batch.column(NUMBER)
        requests = [answerable(model, request) for request in self._requests(batch, numbers.to_pylist())]
        scored = score_batch(model, requests)
        if not self.numbered:
            return scored
        return scored.append_column(pa.field("row", pa.int64()), numbers.cast(pa.int64()))

    def _requests(self, batch: pa.RecordBatch, numbers: Sequence[int]) -> list[Request | Rejection]:
        if LINE in batch.schema.names:
            # as bytes: what is not valid UTF-8 is the row's fault, not the job's
            lines = batch.column(LINE).cast(pa.binary()).to_pylist()
            return [self._of_line(line, n) for line, n in zip(lines, numbers, strict=True)]
        return [parse(values, n, self.options) for values, n in zip(batch.to_pylist(), numbers, strict=True)]

    def _of_line(self, line: bytes, number: int) -> Request | Rejection:
        if len(line) > MAX_ROW:
            return Rejection(None, UNREADABLE_ROW, None, None, f"a line of more than {MAX_ROW >> 20} MiB")
        return request_of(json_row("", number, line.removeprefix(BOM_UTF8)), number, self.options)


@lru_cache(maxsize=2)
def _loaded(directory: str, device: str) -> Model:
    """A Python worker serves many tasks; it loads the model once."""
    return load(directory, device)


# --- On the driver ----------------------------------------------------------------------------------------------------

_shipped: dict[tuple[str, str], TemporaryDirectory[str]] = {}  # (application, archive): removed when the driver ends


def _ship(spark: SparkSession, directory: Path) -> str:
    """Every executor gets the model, unpacked, and this package; gives the model's name among Spark's files."""
    context = spark.sparkContext
    digest = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()[:16]
    model, code = f"slantwise-model-{digest}.zip", "slantwise-code.zip"
    for name, source, inside in ((model, directory, Path()), (code, Path(__file__).parent, Path("slantwise"))):
        if (context.applicationId, name) in _shipped:
            continue
        folder = TemporaryDirectory(prefix="slantwise-")
        _zip(source, Path(folder.name) / name, inside)
        (context.addArchive if name == model else context.addPyFile)(str(Path(folder.name) / name))
        _shipped[context.applicationId, name] = folder
    return model


def _zip(source: Path, archive: Path, inside: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, inside / path.relative_to(source))


def _needed(present: Sequence[str], options: InputOptions) -> list[str]:
    """The columns that rows are read from. Raises ScoringError where there is no text."""
    if LINE in present:
        return [LINE]
    c = options.columns
    asked = [name for name in (c.id, c.text, c.title, c.source, c.targets) if name]
    # a folder of texts names its rows by path; a canonical article row names its targets with its labels
    found = {name if name in present else name.split(".")[0] for name in [*asked, "path", "stances"]}
    text = c.text if c.text in present else c.text.split(".")[0]
    if text not in present:
        names = ", ".join(map(repr, present)) or "none"
        raise ScoringError(f"the table has no column {c.text!r}; it has {names}; name it with columns.text=…")
    return [name for name in present if name in found]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _kind(path: str) -> str:
    name = path.rstrip("/*").lower()
    if name.endswith(JSONL):
        return "jsonl"
    if name.endswith(".parquet") or "." not in name.rpartition("/")[2]:
        return "parquet"
    raise ScoringError(f"input={path}: engine=spark reads .parquet, {', '.join(JSONL)} and folders of Parquet; {ELSE}")


def _spark_type(kind: pa.DataType) -> Any:
    """Spark's type for one of the scores."""
    from pyspark.sql import types as T

    if pa.types.is_struct(kind):
        return T.StructType([T.StructField(part.name, _spark_type(part.type)) for part in kind])
    if pa.types.is_list(kind):
        return T.ArrayType(_spark_type(kind.value_type))
    simple: Mapping[Any, Any] = {pa.string(): T.StringType(), pa.float32(): T.FloatType(), pa.int64(): T.LongType()}
    return simple[kind]
