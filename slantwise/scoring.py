"""`slantwise score`: a model and articles in; one score row for each input row out, in input order, exactly once.

The input is read in chunks (slantwise.segments), chunks are scored by processes or a thread while further ones are
read and finished ones written, and every so many rows a part is put on the disk and into the manifest
(slantwise.parts, slantwise.manifest). A job that ended early goes on behind its last part and ends with the same bytes.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from slantwise import __version__, spark, workers
from slantwise.errors import ConfigurationError, ScoringError
from slantwise.inputs import MAX_CHARACTERS, Columns, InputOptions
from slantwise.manifest import NAME as JOURNAL
from slantwise.manifest import Job, Manifest, PartRecord, lock, open_manifest, sha256_of, write_durably
from slantwise.model import MANIFEST, Model, code_checksum, find_directory, load
from slantwise.monitoring import drift_of
from slantwise.parts import OutputFormat, Part, join
from slantwise.rows import Format, Layout
from slantwise.segments import BYTES, ROWS, Chunk, Position, check_text, chunk_rows, chunks, read_segments
from slantwise.sources import File, find_files, fingerprint, without_secrets
from slantwise.spark import SparkSettings
from slantwise.summary import NAME as SUMMARY
from slantwise.summary import add, in_lines, judge, rejected, to_json
from slantwise.task import Task
from slantwise.workers import Scored, Work, score_chunk

PART_ROWS, ENCODER_PART_ROWS = 50_000, 2_000  # a minute's work or so, which is what an interruption may cost
ENDINGS = {f".{form}": form for form in OutputFormat}


class Engine(StrEnum):
    local = "local"
    spark = "spark"


@dataclass
class ScoreConfig:
    """`slantwise score`; configs/score.yaml says what each key does."""

    model: str = "???"
    input: str = "???"
    output: str = "???"
    format: Format = Format.auto
    encoding: str = "utf-8"
    separator: str | None = None
    columns: Columns = field(default_factory=Columns)
    targets: list[str] = field(default_factory=list)
    target_separator: str = "|"
    max_characters: int = MAX_CHARACTERS
    output_format: OutputFormat = OutputFormat.parquet
    part_rows: int | None = None
    max_rejected: float = 0.5
    workers: int | None = None
    device: str = "auto"
    engine: Engine = Engine.local
    spark: SparkSettings = field(default_factory=SparkSettings)

    def __post_init__(self) -> None:
        self.format, self.output_format = Format(self.format), OutputFormat(self.output_format)
        problems = [
            f"{name}={getattr(self, name)}; expected 1 or more"
            for name in ("part_rows", "workers", "max_characters")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        if not 0 <= self.max_rejected <= 1:
            problems.append(f"max_rejected={self.max_rejected}; expected a share from 0 to 1")
        if problems:
            raise ConfigurationError("; ".join(problems))

    @property
    def layout(self) -> Layout:
        return Layout(self.input, self.format, self.encoding, None, self.separator)

    @property
    def input_options(self) -> InputOptions:
        return InputOptions(self.columns, tuple(self.targets), self.target_separator, self.max_characters)


@dataclass(frozen=True)
class Progress:
    """How far a job is: rows of the whole input, those of this session, and the share of the input read, 0 to 1."""

    rows: int
    session_rows: int
    rejected: int
    share: float


Report = Callable[[Progress], None]


def main() -> None:
    from hydra.core.config_store import ConfigStore

    from slantwise.command import run

    ConfigStore.instance().store(name="score_schema", node=ScoreConfig)
    run("score", _job)


def _job(config: Any) -> None:
    from slantwise.command import to_object
    from slantwise.locate import locate_model

    chosen = to_object(config, ScoreConfig)
    if chosen.engine is Engine.spark:
        spark.run(chosen)
        return
    check_output(Path(chosen.output))
    with _bar() as report:
        try:
            summary = score(chosen, lambda: locate_model(chosen.model), report)
        except BrokenProcessPool:
            raise SystemExit(
                "error: a worker process was ended from outside, as the kernel does where memory runs out; what is "
                "done is kept: run the same command again, with fewer workers (workers=1)"
            ) from None
    print(f"{chosen.output}: " + "\n  ".join(in_lines(summary)))


@contextmanager
def _bar() -> Iterator[Report]:
    """A line on the terminal: articles, articles a second, time left, rejected rows."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(), TextColumn("{task.fields[rows]} articles"), BarColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Bar(*columns) as bar:
        job = bar.add_task("score", total=None, rows="0", rate="")
        began: list[float] = []

        def report(progress: Progress) -> None:
            elapsed = bar.tasks[0].elapsed or 1e-9
            began.append(progress.share) if not began else None
            done = progress.share - began[0]
            left = f", {_time(elapsed * (1 - progress.share) / done)} left" if done > 0.001 else ""
            rate = f"{progress.session_rows / elapsed:,.0f} articles/s{left}, {progress.rejected:,} rejected"
            bar.update(job, total=1, completed=progress.share, rows=f"{progress.rows:,}", rate=rate)

        yield report


def _time(seconds: float) -> str:
    minutes, hours = int(seconds / 60), int(seconds / 3600)
    return f"{hours} h {minutes % 60:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def check_output(output: Path) -> None:
    """Raises ScoringError where the output cannot be: a name that says no format, or something that is in the way."""
    if str(output).partition("/")[0].endswith(":"):  # s3://…, which a Path has made s3:/…
        raise ScoringError(f"output={output}: expected a folder of this machine; engine=spark writes to remote storage")
    if output.suffix and output.suffix not in ENDINGS and not output.is_dir():
        raise ScoringError(
            f"output={output}: expected a folder, or a file whose name ends in .jsonl, .parquet or .csv"
        )  # fmt: skip
    if output.is_file() and output.suffix not in ENDINGS:
        raise ScoringError(f"output={output} is a file; expected a folder")
    for parent in output.parents:
        if parent.exists() and not parent.is_dir():
            raise ScoringError(f"output={output}: {parent} is not a folder")


def parts_folder(output: Path) -> Path:
    """Where the parts of an output that is one file are until it is whole."""
    return output.with_name(output.name + ".parts")


def quarantine_path(output: Path) -> Path:
    """The list of rejected rows of an output that is one file."""
    return output.with_name(output.name + ".quarantine.jsonl")


def summary_path(output: Path) -> Path:
    """The summary of an output that is one file."""
    return output.with_name(output.name + ".summary.json")


def score(
    config: ScoreConfig, model: Model | Callable[[], Path], report: Report = lambda progress: None
) -> dict[str, Any]:
    """Score the whole input, or what an earlier call of the same job left of it; the summary of all its rows.

    `model` is one in memory, or finds the directory of one. Raises ScoringError, CorpusError or ModelError.
    """
    output = Path(config.output)
    if output.suffix not in ENDINGS:
        return score_into(output, config.output_format, config, model, report)
    folder = parts_folder(output)
    for path in (output, quarantine_path(output), summary_path(output)):
        if path.exists() and not folder.exists():
            raise ScoringError(f"output={output}: {path} exists; remove it or choose another name")
    form = ENDINGS[output.suffix]
    shutil.rmtree(_finished(folder), ignore_errors=True)

    def finish(manifest: Manifest, tasks: Sequence[Task]) -> None:
        _join(manifest, output, form, tasks)
        folder.rename(_finished(folder))  # at once: half a folder could not be gone on with
        shutil.rmtree(_finished(folder))

    return score_into(folder, form, config, model, report, finish)


def _finished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.finished")


def _join(manifest: Manifest, output: Path, form: OutputFormat, tasks: Sequence[Task]) -> None:
    folder, names = manifest.path.parent, [name for part in manifest.parts for name in part.files]
    if quarantined := [name for name in names if "/" in name]:
        join(folder, quarantined, quarantine_path(output), OutputFormat.jsonl, tasks)
    write_durably(summary_path(output), (folder / SUMMARY).read_bytes())
    join(folder, [name for name in names if "/" not in name], output, form, tasks)


def score_into(
    folder: Path,
    form: OutputFormat,
    config: ScoreConfig,
    model: Model | Callable[[], Path],
    report: Report,
    finish: Callable[[Manifest, Sequence[Task]], None] = lambda manifest, tasks: None,
) -> dict[str, Any]:
    """`score` with a folder of parts as its output; `finish` is called before the folder is let go."""
    with ExitStack() as held:
        exists = folder.is_dir()
        if exists:  # one that has to be made is locked below: what cannot be scored leaves none behind
            held.enter_context(lock(folder))
        files = find_files(config.layout)
        directory = None if isinstance(model, Model) else find_directory(model())
        loaded = model if isinstance(model, Model) else load(_checked(directory), config.device)
        part_rows = config.part_rows or (ENCODER_PART_ROWS if _is_encoder(loaded) else PART_ROWS)
        job = Job(_model_entry(loaded, directory), fingerprint(files), _options(config, form, part_rows), _code())

        def read(start: Position, first: int) -> Iterator[Chunk]:
            segments = read_segments(files, config.layout, config.input_options, start, chunk_rows(part_rows))
            return chunks(segments, first, part_rows)

        found = None if (folder / JOURNAL).exists() else peek(read(Position(), 1), config.columns)
        with _disk(folder):
            if not exists:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock(folder))
            manifest = open_manifest(folder, job)
        session = Session(folder, manifest, form, loaded.tasks, config.max_rejected, files, report)
        if not manifest.complete:
            if found is None or manifest.parts:  # another process may have begun it meanwhile
                found = read(manifest.position, manifest.rows + 1)
            _run(session, found, loaded, directory, Work(config.input_options, form), config)
        with _disk(folder):
            summary = session.complete(loaded)
            finish(manifest, loaded.tasks)
        return summary


def _checked(directory: Path | None) -> Path:
    assert directory is not None
    return directory


def _is_encoder(model: Model) -> bool:
    return any(head.body is not None for head in model.heads.values())


def _model_entry(model: Model, directory: Path | None) -> dict[str, Any]:
    """What says that a model is the same one: the checksum of its manifest, which holds those of all its files."""
    if directory is None:
        return {"tasks": [task.to_dict() for task in model.tasks]}
    return {"sha256": sha256_of(directory / MANIFEST), "tasks": [task.name for task in model.tasks]}


def _options(config: ScoreConfig, form: OutputFormat, part_rows: int) -> dict[str, Any]:
    """All that shapes the output besides model and input; not `workers` and `max_rejected`, which may change."""
    names = ("encoding", "separator", "targets", "target_separator", "max_characters", "device")
    return {
        "input": without_secrets(config.input),
        "format": str(config.format),
        **{name: getattr(config, name) for name in names},
        "columns": asdict(config.columns),
        "output_format": str(form),
        "part_rows": part_rows,
        "chunk": [ROWS, BYTES],
    }


def _code() -> str:
    return f"{__version__} {code_checksum()[:16]}"


def peek(found: Iterator[Chunk], columns: Columns) -> Iterator[Chunk]:
    """The same chunks, after a look at the first rows: an input without the text is an error, not rejected rows."""
    first = next(found, None)
    if first is None:
        raise ScoringError("the input holds no rows")
    check_text(first.rows(), columns.text)
    return chain([first], found)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """What is not written is told as the user's to mend: a full disk, a missing permission."""
    try:
        yield
    except OSError as error:
        raise ScoringError(
            f"{folder} cannot be written: {error.strerror or error}; finished parts are kept: mend it and run the same "
            "command again"
        ) from error


def _run(
    session: Session, found: Iterator[Chunk], model: Model, directory: Path | None, work: Work, config: ScoreConfig
) -> None:
    """Score the chunks: by processes, or by one thread where there is little to do or the model uses threads itself."""
    first = list(islice(found, 2))
    count = config.workers or workers.cpu_count()
    if _is_encoder(model):
        if config.workers is not None and config.workers > 1:
            raise ConfigurationError(
                f"workers={config.workers}: an encoder is scored in one process; OMP_NUM_THREADS sets its threads"
            )
        count = 1
    single = count == 1 or len(first) < 2 or directory is None
    executor: Executor
    if single:
        executor = ThreadPoolExecutor(1, "score", workers.begin_thread, (model, work))
    else:
        executor = workers.processes(count, _checked(directory), work)
    try:
        # one thread for the products of a linear model, as in a worker process: the same bytes
        with nullcontext() if _is_encoder(model) else threadpool_limits(1):
            session.run(executor, chain(first, found), 1 if single else count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class Session:
    """One process's turn at a job: chunks go out to be scored, their rows come back in order and into parts."""

    def __init__(
        self, folder: Path, manifest: Manifest, form: OutputFormat, tasks: Sequence[Task], max_rejected: float,
        files: Sequence[File], report: Report,
    ) -> None:  # fmt: skip
        self.folder, self.manifest, self.form, self.tasks = folder, manifest, form, tasks
        self.max_rejected, self.files, self.report = max_rejected, files, report
        self.summary: dict[str, Any] = {}
        for record in manifest.parts:
            self.summary = add(self.summary, record.counts)
        self.began = self.rows = manifest.rows
        self.before = [0, *accumulate(file.size for file in files)]  # bytes of the files before each
        self.part: Part | None = None
        self.of_part: dict[str, Any] = {}

    def run(self, executor: Executor, found: Iterable[Chunk], count: int) -> None:
        """Two chunks wait for each of the `count` workers, so that reading and writing overlap with scoring."""
        pending: deque[tuple[Chunk, float, Future[Scored]]] = deque()
        try:
            for chunk in found:
                pending.append((chunk, self._share(chunk), executor.submit(score_chunk, chunk)))
                if len(pending) > 2 * count:
                    self._take(*pending.popleft())
            while pending:
                self._take(*pending.popleft())
        finally:
            if self.part is not None:
                self.part.discard()

    def _share(self, chunk: Chunk) -> float:
        """The share of the input that is read with the chunk."""
        file = self.files[chunk.end.file]
        return (self.before[chunk.end.file] + file.size * file.share_read()) / (self.before[-1] or 1)

    def _take(self, chunk: Chunk, share: float, future: Future[Scored]) -> None:
        scored = future.result()
        with _disk(self.folder):
            if self.part is None:
                self.part = Part(self.folder, len(self.manifest.parts), self.form, self.tasks)
            self.part.write(scored.encoded, scored.quarantined)
            self.of_part = add(self.of_part, scored.summary)
            self.rows += chunk.count
            judge(add(self.summary, self.of_part), self.max_rejected)
            if chunk.ends_part:
                self._end_part(chunk)
        total = add(self.summary, self.of_part)
        self.report(Progress(self.rows, self.rows - self.began, rejected(total), share))

    def _end_part(self, chunk: Chunk) -> None:
        assert self.part is not None
        number, first = len(self.manifest.parts), self.manifest.rows + 1
        files = self.part.publish()
        self.manifest.add(PartRecord(number, first, self.rows, files, self.of_part, chunk.end))
        self.summary, self.of_part, self.part = add(self.summary, self.of_part), {}, None

    def complete(self, model: Model) -> dict[str, Any]:
        """Write the summary, with how far it is from the model's test split, and close the manifest."""
        references = {name: head.reference for name, head in model.heads.items()}
        summary = {**self.summary, "drift": drift_of(references, self.summary)}
        if not self.manifest.complete:
            write_durably(self.folder / SUMMARY, to_json(summary))
            self.manifest.finish(summary)
        return summary


if __name__ == "__main__":
    main()
