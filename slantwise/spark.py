"""Spark: the scores of a table of articles, one row for each of its rows, by the code of the local engine.

    from slantwise.spark import score_table
    scores = score_table(spark.read.parquet("s3a://news/2024/"), "models/news")   # a DataFrame, lazy
    scores.write.parquet("s3a://scores/2024/")

`slantwise score engine=spark` does the same from files to files. The driver ships the model and this package to the
executors; their Python needs what the model's requirements.txt names, and nothing of MLflow.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import warnings
import zipfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from slantwise.errors import ConfigurationError, ScoringError
from slantwise.inputs import InputOptions, Rejection, Request
from slantwise.model import MANIFEST, Model, find_directory, load
from slantwise.monitoring import drift_of
from slantwise.parts import QUARANTINE
from slantwise.rows import MAX_ROW, BadRow, Row, json_row
from slantwise.scores import answerable, score_batch, scores_schema
from slantwise.segments import check_text
from slantwise.summary import JUDGED_AFTER, add, in_lines, judge, to_json
from slantwise.summary import NAME as SUMMARY
from slantwise.task import Task
from slantwise.workers import quarantine_entry, request_of, summary_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from slantwise.scoring import ScoreConfig

CHUNK = 512  # articles scored at once, however large Spark's batches are
NUMBER = "_slantwise_number"
LINE = "_slantwise_line"
FILE = "_slantwise_file"
LISTED = "_slantwise_listed"  # of a rejected row, its line of the quarantine
SUMMED = "_slantwise_summed"  # of the first row of a chunk, the chunk's summary
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
    directory = find_directory(Path(model))
    tasks = load(directory, "cpu").tasks  # on the driver: a damaged model is told before the job starts
    return _scored(frame, directory, tasks, options or InputOptions(), row, device)


def _scored(
    frame: DataFrame, directory: Path, tasks: Sequence[Task], options: InputOptions, row: str | None, device: str,
    reported: bool = False,
) -> DataFrame:  # fmt: skip
    """The scores; where they are `reported`, with the columns LISTED and SUMMED."""
    from pyspark.sql import functions as F

    columns = _needed(frame.columns, options)
    number = F.col(_quoted(row)) if row else F.monotonically_increasing_id() + 1
    selected = frame.select(*(F.col(_quoted(name)) for name in columns), number.alias(NUMBER))
    job = _Job(_ship(frame.sparkSession, directory), options, row is not None, device, reported)
    schema = _spark_type(pa.struct(job.fields(scores_schema(tasks))))

    def scores(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return job.scores(batches)

    return selected.mapInArrow(scores, schema)


def read_files(spark: SparkSession, path: str, format: str = "auto") -> DataFrame:
    """The rows of .parquet or .jsonl files, each with the name of its file: a file, a folder or a glob, wherever Spark
    can read.

    JSONL comes as lines, which are read where they are scored: a broken one is a rejected row, as with the local
    engine. Raises ScoringError for other formats.
    """
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    kind = _kind(path, format) or _kind_of_folder(_Place(spark, path))
    try:
        if kind == "parquet":
            return spark.read.parquet(path).select("*", F.col("_metadata.file_path").alias(FILE))
        # (?U): blank as Python has it, so that the same lines are rows
        lines = spark.read.text(path, lineSep="\n")
        named = lines.select(F.col("value").alias(LINE), F.col("_metadata.file_path").alias(FILE))
        return named.where(rf"{LINE} rlike '(?U)\\S'")
    except AnalysisException as error:
        raise ScoringError(f"input={path} cannot be read by Spark: {str(error).splitlines()[0]}") from error


def score_files(
    model: Path, path: str, output: str, options: InputOptions, settings: SparkSettings, format: str = "auto",
    device: str = "auto", max_rejected: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    """Score the files `path` into the new folder `output` of Parquet files, with its quarantine and summary; gives the
    summary.

    The scores wait on the disks of the executors until it is known that no larger share than `max_rejected` of the rows
    was rejected. The summary is written last: a folder without one is not whole.

    Raises ConfigurationError where Spark cannot be started, ScoringError where input or output cannot be used, the job
    fails or too many rows were rejected.
    """
    _kind(path, format)
    _check_new(output, Path(output).exists())
    directory = find_directory(model)
    loaded = load(directory, "cpu")
    spark = start(settings)
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    place = _Place(spark, output)
    _check_new(output, place.exists())
    try:
        return _score_files(spark, loaded, directory, path, place, options, settings, format, device, max_rejected)
    except (PySparkException, Py4JJavaError) as error:
        raise ScoringError(f"the Spark job failed: {_reason(error)}") from error


def _check_new(output: str, exists: bool) -> None:
    if exists:
        raise ScoringError(f"output={output} already exists; remove it or choose another name")


def _reason(error: Exception) -> str:
    """What Spark said in a line: the exceptions that its message names, of Java and Python, two and the innermost."""
    lines = [line.strip().removeprefix("Caused by:").strip(": ") for line in str(error).splitlines()]
    named = [line[:500] for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception): ", line)]
    found = named or [line for line in lines if line] or [type(error).__name__]
    return "; ".join(dict.fromkeys([*found[:2], *named[-1:]]))


def _score_files(
    spark: SparkSession, loaded: Model, directory: Path, path: str, place: _Place, options: InputOptions,
    settings: SparkSettings, format: str, device: str, max_rejected: float,
) -> dict[str, Any]:  # fmt: skip
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    frame = read_files(spark, path, format)
    _check_first(frame, options, max_rejected)
    if settings.partitions:
        frame = frame.repartition(settings.partitions)
    scores = _scored(frame, directory, loaded.tasks, options, None, device, reported=True)
    scores.persist(StorageLevel.DISK_ONLY)
    try:
        total = _total(scores)
        judge(total, max_rejected)
        if total["rejected"]:
            listed = scores.select(LISTED).where(F.col(LISTED).isNotNull())
            listed.write.option("compression", "none").text(f"{place.name}/{QUARANTINE}")
        rows = scores.drop(LISTED, SUMMED)
        rows.write.mode("append").option("compression", "zstd").parquet(place.name)  # the quarantine may be there
    finally:
        scores.unpersist()
    references = {name: head.reference for name, head in loaded.heads.items()}
    summary = {**total, "drift": drift_of(references, total)}
    place.write(SUMMARY, to_json(summary))
    return summary


def _check_first(frame: DataFrame, options: InputOptions, max_rejected: float) -> None:
    """What the first rows tell at once: that there are none, that none has a text, that too many cannot be read."""
    _needed(frame.columns, options)
    table = frame.limit(JUDGED_AFTER).toArrow()
    if not len(table):
        raise ScoringError("the input holds no rows")
    reader = _Reader(options)
    rows = [row for batch in table.to_batches() for row in reader.rows(batch, range(1, batch.num_rows + 1))]
    check_text(rows, options.columns.text)
    codes = Counter(r.code for r in (request_of(row, 1, options) for row in rows) if isinstance(r, Rejection))
    judge({"rows": len(rows), "rejected": codes}, max_rejected)


def _total(scores: DataFrame) -> dict[str, Any]:
    """The sum of all summaries: in each partition, then of the partitions."""
    from pyspark.sql import functions as F

    def summed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = (json.loads(text) for batch in batches for text in batch.column(0).to_pylist())
        yield pa.record_batch([pa.array([json.dumps(_sum(parts))])], [SUMMED])

    parts = scores.select(SUMMED).where(F.col(SUMMED).isNotNull()).mapInArrow(summed, f"{SUMMED} string").collect()
    return _sum(json.loads(row[0]) for row in parts)


def _sum(summaries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for summary in summaries:
        total = add(total, summary)
    return total


class _Place:
    """A folder wherever this Spark can write."""

    def __init__(self, spark: SparkSession, folder: str) -> None:
        context: Any = spark.sparkContext
        self.name = folder
        self._path = context._jvm.org.apache.hadoop.fs.Path
        self.folder = self._path(folder)
        self._files = self.folder.getFileSystem(context._jsc.hadoopConfiguration())

    def exists(self) -> bool:
        return bool(self._files.exists(self.folder))

    def names(self) -> list[str]:
        """Those of the files in it, and in the folders that it, as a glob, stands for."""
        folders = [found.getPath() for found in self._files.globStatus(self.folder) or () if found.isDirectory()]
        return [str(each.getPath().getName()) for folder in folders for each in self._files.listStatus(folder)]

    def write(self, name: str, content: bytes) -> None:
        stream = self._files.create(self._path(self.folder, name), False)
        stream.write(bytearray(content))
        stream.close()


def run(config: ScoreConfig) -> None:
    """`slantwise score engine=spark`. Raises ConfigurationError for keys that Spark has no use for."""
    from slantwise.locate import locate_model

    if config.output.endswith((".jsonl", ".csv", ".parquet")) or config.output_format != "parquet":
        raise ConfigurationError(f"output={config.output}: engine=spark writes a folder of Parquet files")
    for key in ("workers", "part_rows"):
        if getattr(config, key) is not None:
            raise ConfigurationError(f"{key}={getattr(config, key)}: a key of engine=local; see spark.partitions")
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")  # pyspark 4.3 of any pandas 3
    summary = score_files(
        locate_model(config.model), config.input, config.output, config.input_options, config.spark,
        str(config.format), config.device, config.max_rejected,
    )  # fmt: skip
    print(f"{config.output}: " + "\n  ".join(in_lines(summary)))


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
    logging.getLogger("py4j").setLevel(logging.WARNING)  # it tells of each connection that it closes
    builder = builder.config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower())
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise ConfigurationError(
            f"Spark does not start: {_reason(error)}; engine=spark needs Java 17 or newer (java -version), a "
            f"spark.master that is there (now {settings.master}) and settings in spark.conf that Spark knows"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    return session


# --- On the executors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """The rows of Spark's batches."""

    options: InputOptions

    def rows(self, batch: pa.RecordBatch, numbers: Sequence[int]) -> list[Row | BadRow]:
        """numbers: those of the rows, which are also what is called their lines"""
        files = batch.column(FILE).to_pylist() if FILE in batch.schema.names else [""] * batch.num_rows
        if LINE in batch.schema.names:
            # as bytes: what is not valid UTF-8 is the row's fault, not the job's
            lines = batch.column(LINE).cast(pa.binary()).to_pylist()
            return [self._of_line(*found) for found in zip(files, numbers, lines, strict=True)]
        columns = [name for name in batch.schema.names if name not in (FILE, NUMBER)]
        values = batch.select(columns).to_pylist()
        return [Row(*found) for found in zip(files, numbers, values, strict=True)]

    def _of_line(self, file: str, number: int, line: bytes) -> Row | BadRow:
        if len(line) > MAX_ROW:
            return BadRow(file, number, None, None, f"a line of more than {MAX_ROW >> 20} MiB")
        return json_row(file, number, line.removeprefix(BOM_UTF8))


@dataclass(frozen=True)
class _Job:
    """What the executors are told: the name of the shipped model and how rows are read."""

    model: str
    options: InputOptions
    numbered: bool  # the numbers are the caller's, and go into the output
    device: str
    reported: bool

    def fields(self, schema: pa.Schema) -> list[pa.Field]:
        more = [pa.field("row", pa.int64())] if self.numbered else []
        return [*schema, *more, *(pa.field(name, pa.string()) for name in (LISTED, SUMMED) if self.reported)]

    def scores(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import SparkFiles

        model = _loaded(SparkFiles.get(self.model), self.device)
        for batch in batches:
            for start in range(0, batch.num_rows, CHUNK):
                yield self._score(model, batch.slice(start, CHUNK))

    def _score(self, model: Model, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = batch.column(NUMBER).to_pylist()
        rows = _Reader(self.options).rows(batch, numbers)
        found = zip(rows, numbers, strict=True)
        requests = [answerable(model, request_of(row, number, self.options)) for row, number in found]
        scored = score_batch(model, requests)
        more: list[pa.Array] = [batch.column(NUMBER).cast(pa.int64())] if self.numbered else []
        if self.reported:
            summary = json.dumps(summary_of(model, requests, numbers, scored))
            more += [_listed(rows, numbers, requests), pa.array([summary, *[None] * (len(rows) - 1)], pa.string())]
        return pa.RecordBatch.from_arrays([*scored.columns, *more], schema=pa.schema(self.fields(scored.schema)))


def _listed(
    rows: Sequence[Row | BadRow], numbers: Sequence[int], requests: Sequence[Request | Rejection]
) -> pa.Array:  # fmt: skip
    lines = [
        quarantine_entry(row.file, None, number, request).encode("utf-8", "backslashreplace").decode("utf-8")
        if isinstance(request, Rejection)
        else None
        for row, number, request in zip(rows, numbers, requests, strict=True)
    ]
    return pa.array(lines, pa.string())


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
        return [LINE, FILE]
    c = options.columns
    asked = [name for name in (c.id, c.text, c.title, c.source, c.targets) if name]
    # a folder of texts names its rows by path; a canonical article row names its targets with its labels
    found = {name if name in present else name.split(".")[0] for name in [*asked, "path", "stances", FILE]}
    text = c.text if c.text in present else c.text.split(".")[0]
    if text not in present:
        names = ", ".join(repr(name) for name in present if name != FILE) or "none"
        raise ScoringError(f"the table has no column {c.text!r}; it has {names}; name it with columns.text=…")
    return [name for name in present if name in found]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _kind(path: str, format: str) -> str | None:
    """parquet or jsonl, by the name; None where it may be a folder of either. Raises ScoringError for others."""
    if format != "auto":
        if format not in ("parquet", "jsonl"):
            raise ScoringError(f"format={format}: engine=spark reads parquet and jsonl; {ELSE}")
        return format
    name = path.rstrip("/*").lower()
    if name.endswith(JSONL):
        return "jsonl"
    if name.endswith(".parquet"):
        return "parquet"
    if "." not in name.rpartition("/")[2]:
        return None
    raise ScoringError(f"input={path}: engine=spark reads .parquet, {', '.join(JSONL)} and folders of them; {ELSE}")


def _kind_of_folder(place: _Place) -> str:
    """By the names in it: JSONL, where one of them is; Spark's own folders of Parquet name their files as they like."""
    names = [name.lower() for name in place.names() if not name.startswith(("_", "."))]
    lines = [name for name in names if name.endswith(JSONL)]
    if lines and len(lines) < len(names):
        other = next(name for name in names if name not in lines)
        raise ScoringError(
            f"input={place.name}: the folder holds {lines[0]} and {other}; expected files of one kind, or a glob "
            "such as input='articles/*.jsonl'"
        )
    return "jsonl" if lines else "parquet"


def _spark_type(kind: pa.DataType) -> Any:
    """Spark's type for one of the scores."""
    from pyspark.sql import types as T

    if pa.types.is_struct(kind):
        return T.StructType([T.StructField(part.name, _spark_type(part.type)) for part in kind])
    if pa.types.is_list(kind):
        return T.ArrayType(_spark_type(kind.value_type))
    simple: Mapping[Any, Any] = {pa.string(): T.StringType(), pa.float32(): T.FloatType(), pa.int64(): T.LongType()}
    return simple[kind]
