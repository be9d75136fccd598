"""Corpus: a labelled collection of articles with its provenance, read by configuration.

Every row of the files is either an article of the corpus or in quarantine with file, line, field, value and reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from data.columns import POOL
from data.config import ColumnsConfig, CorpusConfig, FileConfig, JoinConfig, LabelsConfig
from data.labels import (
    SPLIT_NAMES,
    LabelError,
    LabelReader,
    iso_date,
    joined_votes,
    krippendorff_alpha,
    label_configs,
    make_task,
    value_key,
)
from data.readers import read_corpus_rows
from slantwise.article import Article
from slantwise.errors import BadRowsError, ConfigurationError, CorpusError
from slantwise.rows import ENDINGS, BadRow, Format, Row, flat, plain_ending
from slantwise.task import TASK_NAMES, Task

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.string(),
        "title": pa.string(),
        "author": pa.string(),
        "source": pa.string(),
        "published": pa.string(),
        "language": pa.string(),
        "split": pa.string(),
        "group": pa.string(),
        "topic": pa.list_(pa.string()),
        "framing": pa.list_(pa.string()),
        "stance": pa.list_(
            pa.struct({"target": pa.string(), "stance": pa.string(), "start": pa.int64(), "end": pa.int64()})
        ),
        # for each entry of `stance`, or for the article itself, the shares of the task's labels (LabelsConfig.soft)
        **{f"{task}_shares": pa.list_(pa.list_(pa.float32())) for task in TASK_NAMES},
    }
)
FURTHER = "column."  # before the names of columns that are read for evaluation alone
SEVERAL = "(several)"  # what such a column holds where an article's rows differ
RAGGED = (Format.jsonl, Format.json, Format.sgml)  # rows of such a file need not have the same columns
OPTIONAL = ("title", "author", "source", "published", "language", "group")
SHOWN_ERRORS, SHOWN_COLUMNS = 50, 40
ROWS_OF_A_BATCH = 1024  # articles that are kept as Python objects while the table grows


class Agreement(TypedDict):
    """How well a task's annotators agree: Krippendorff's alpha for nominal labels (None where it is not defined), the
    most labels that one item got, and the items with two labels or more, those of rows set aside for a tie included."""

    alpha: float | None
    annotators: int
    items: int


@dataclass(frozen=True)
class Corpus:
    """`table` has one row for each article (SCHEMA, and the columns that were asked for, named FURTHER and their name);
    `tasks` are those that it is labelled for."""

    name: str
    table: pa.Table
    tasks: Mapping[str, Task]
    metrics: Mapping[str, list[str]]
    fingerprint: str
    rows_read: int
    quarantine: tuple[BadRow, ...]
    merged: int = 0  # rows that joined the article of an earlier row
    agreement: Mapping[str, Agreement] = field(default_factory=dict)  # by task, where the annotators are given
    columns: tuple[str, ...] = ()  # of its files, where the configuration does not say where any labels stand

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def task(self, name: str) -> Task:
        """Raises CorpusError where the corpus has no labels for the task."""
        if name not in self.tasks:
            known = ", ".join(self.tasks) or "no task"
            hint = self._columns_hint(name)
            raise CorpusError(f"corpus {self.name} has no labels for task {name}; it is labelled for {known}{hint}")
        return self.tasks[name]

    def _columns_hint(self, task: str) -> str:
        """How to name the column of a task's labels, where no such column was named yet."""
        if not self.columns:
            return ""
        hint = f"; name the column of the labels with 'corpus.{task}.columns=[<column>]'"
        if task == "stance":
            hint += ", that of the targets with corpus.stance.target=<column>"
        hint += f", and labels of your own with 'corpus.{task}.labels=[<label>,<label>]'"
        return f"{hint}; its columns are {_names(self.columns)}"

    def articles(self) -> Iterator[Article]:
        names = [f.name for f in fields(Article)]
        for batch in self.table.select(names).to_batches(max_chunksize=ROWS_OF_A_BATCH):
            for row in batch.to_pylist():
                yield Article(**row)

    def without_texts(self) -> Corpus:
        """The same without the column `text`: for who keeps a large corpus after it has been cleaned."""
        return replace(self, table=self.table.drop_columns(["text"]))

    def counts(self) -> str:
        """One line whose numbers add up: rows read = articles + merged + quarantined."""
        dropped = sum(bad.expected_drop for bad in self.quarantine)
        parts = [f"{len(self):,} articles"]
        if self.merged:
            parts.append(f"{self.merged:,} merged into them")
        if dropped:
            parts.append(f"{dropped:,} set aside by configuration")
        parts.append(f"{len(self.quarantine) - dropped:,} unusable")
        return f"{self.name}: {self.rows_read:,} rows = " + " + ".join(parts)


def write_quarantine(quarantine: tuple[BadRow, ...], path: Path) -> None:
    """One JSON object a line: file, line, field, value, reason, expected_drop."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for bad in quarantine:
            file.write(json.dumps(vars(bad), ensure_ascii=False, default=str) + "\n")


def load_corpus(config: CorpusConfig, further: Sequence[str] = ()) -> Corpus:
    """Read all files of a corpus; `further` names columns that are kept beside those that `config` gives a meaning.

    These do not change the fingerprint. Raises CorpusError where a file is missing, empty or lacks a column,
    BadRowsError (all rows at once) where more rows than `max_bad_rows` cannot be used.
    """
    root = Path(config.root).expanduser()
    readers = {name: LabelReader(make_task(name, c), c) for name, c in label_configs(config).items()}
    builder = _Builder(config, readers, [_read_join(join, root) for join in config.joins], further)
    for file in config.files:
        builder.add_file(file, root)
    return builder.build()


@dataclass
class _Join:
    """A second table: its rows by the values of their key, and its columns, for rows without a match."""

    on: list[str]
    rows: dict[tuple[str, ...], dict[str, Any]]
    columns: dict[str, None]

    def add_to(self, row: Row, values: dict[str, Any]) -> dict[str, Any]:
        key = _key(row.file, values, self.on)
        match = self.rows.get(key) if key else None
        return {**self.columns, **values} if match is None else {**values, **match}


def _read_join(config: JoinConfig, root: Path) -> _Join:
    names = config.key or config.on
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    bad = []
    for row in read_corpus_rows(config, root):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        key = _key(row.file, row.values, names)
        values = {name: value for name, value in row.values.items() if name not in names}
        if key is None:
            bad.append(BadRow(row.file, row.line, names[0], None, "the key to join on is missing"))
        elif rows.setdefault(key, values) != values:
            bad.append(BadRow(row.file, row.line, names[0], ", ".join(key), "stands twice with different columns"))
    if bad:
        raise BadRowsError(_listing(config.path, bad, "a joined table must be whole"))
    return _Join(config.on, rows, {name: None for values in rows.values() for name in values})


def _key(file: str, values: Mapping[str, Any], names: list[str]) -> tuple[str, ...] | None:
    """The values to join on; None where one of them is missing."""
    for name in names:
        if name not in values:
            raise CorpusError(f"{file} has no column {name!r} to join on; it has {_names(values)}")
    return None if any(values[n] in (None, "") for n in names) else tuple(value_key(values[n]) for n in names)


def _names(values: Collection[str]) -> str:
    shown = ", ".join(map(repr, list(values)[:SHOWN_COLUMNS])) or "none"
    return f"{shown} … ({len(values)} columns)" if len(values) > SHOWN_COLUMNS else shown


def _listing(name: str, bad: list[BadRow], advice: str) -> str:
    if len(bad) == 1:
        return f"{bad[0]}; {advice}"
    lines = [f"{name}: {len(bad):,} rows cannot be used; {advice}", *(f"  {b}" for b in bad[:SHOWN_ERRORS])]
    if len(bad) > SHOWN_ERRORS:
        reasons = Counter(b.reason for b in bad[SHOWN_ERRORS:])
        lines += [f"  … and {n:,} more: {reason}" for reason, n in reasons.most_common()]
    return "\n".join(lines)


@dataclass
class _Builder:
    """Collects articles and bad rows over the files of one corpus.

    Articles go into the Arrow table a batch at a time; only where rows are merged does each wait for the last row.
    """

    config: CorpusConfig
    readers: Mapping[str, LabelReader]
    joins: list[_Join]
    further: Sequence[str] = ()
    waiting: list[dict[str, Any]] = field(default_factory=list)  # the articles that are not in `batches` yet
    batches: list[pa.RecordBatch] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  # of the articles in `batches`
    numbers: dict[str, int] = field(default_factory=dict)  # of the articles, by id
    places: list[tuple[str, int]] = field(default_factory=list)  # file and line of the articles
    bad: list[BadRow] = field(default_factory=list)
    ratings: dict[str, list[list[str]]] = field(default_factory=lambda: defaultdict(list))
    further_rows: dict[int, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    columns: dict[str, None] = field(default_factory=dict)  # of all files, an ordered set
    rows: int = 0
    merged: int = 0

    def add_file(self, file: FileConfig, root: Path) -> None:
        rows_before = self.rows
        columns: dict[str, None] = {}  # an ordered set
        checked = ""
        for row in read_corpus_rows(file, root):
            self.rows += 1
            if isinstance(row, BadRow):
                self.bad.append(row)
                continue
            values = self._joined(row)
            if row.file != checked and not _is_ragged(file, row.file):
                self._check_columns(row.file, values, file.path)
                checked = row.file
            columns.update(dict.fromkeys(values))
            self._add(row, values, file, root)
        if self.rows == rows_before:
            raise CorpusError(f"{root / file.path} holds no rows; expected at least one below the header")
        self.columns |= columns
        if columns:
            self._check_columns(str(root / file.path), dict.fromkeys(columns), file.path)

    def _joined(self, row: Row) -> dict[str, Any]:
        values = flat(row.values)
        for join in self.joins:
            values = join.add_to(row, values)
        return values

    def _check_columns(self, file: str, values: Mapping[str, Any], path: str) -> None:
        """A column that the configuration asks for must be there; the standard optional ones need not."""
        asked, standard = self.config.columns, ColumnsConfig()
        needed = {"text": asked.text, "id": asked.id, "fallback": asked.fallback}
        needed |= {f"append {column}": column for column in asked.append}
        needed |= {f"evaluation.slices {column}": column for column in self.further}
        needed |= {f"where {column}": column for column in (*self.config.where, *self.config.where_not)}
        needed |= {n: getattr(asked, n) for n in (*OPTIONAL, "split") if getattr(asked, n) != getattr(standard, n)}
        if self._says_where_labels_stand:
            for name, reader in self.readers.items():
                c = reader.config
                needed |= {f"{name} {column}": column for column in ([c.nested] if c.nested else c.columns)}
                needed |= {f"{name} {column}": column for column in c.annotators if not c.nested}
                if not c.nested and c.target and not c.target_name:
                    needed[f"{name} target"] = c.target
        for role, column in needed.items():
            if column is not None and column not in values:
                hint = self._column_hint(role, values, path)
                raise CorpusError(f"{file} has no column {column!r} ({role}); it has {_names(values)}{hint}")

    @property
    def _says_where_labels_stand(self) -> bool:
        """Whether the configuration does; otherwise the rows are canonical ones."""
        return any(getattr(self.config, name) != LabelsConfig() for name in self.readers)

    def _column_hint(self, role: str, values: Mapping[str, Any], path: str) -> str:
        """How to mend a missing column on the command line, where that can be told."""
        if len(values) == 1 and (found := re.search(r"[;\t|,]", next(iter(values)))):
            # Hydra does not read "\t" as a tab, the shell does in $'…'
            dollar, separator = ("$", "\\t") if found[0] == "\t" else ("", found[0])
            hint = f"; name the separator, as in {dollar}'corpus.files=[{{path: {path}, separator: \"{separator}\"}}]'"
            return f"{hint} in place of corpus.path" if self.config.path else hint
        return {
            "text": "; set corpus.columns.text=…",
            "id": "; set corpus.columns.id=null to number the rows",
        }.get(role, "")

    def _add(self, row: Row, values: Mapping[str, Any], file: FileConfig, root: Path) -> None:
        try:
            self._select(values)
            article = self._article(row, values, file, root)
        except LabelError as error:
            self.bad.append(BadRow(row.file, row.line, error.field, error.value, str(error), error.expected_drop))
            return
        number = self.numbers.setdefault(article["id"], len(self.places))
        if number == len(self.places):
            self.places.append((row.file, row.line))
            self.waiting.append(article)
            if len(self.waiting) == ROWS_OF_A_BATCH and not self.config.merge_rows:
                self._put_away()
        elif reason := self._clash(number, article):
            place = "{}: line {}".format(*self.places[number])
            self.bad.append(BadRow(row.file, row.line, self.config.columns.id, article["id"], f"{reason} {place}"))
        else:
            self._merge(self.waiting[number], article)
            if self.voted:
                self.further_rows[number].append((row.file, row.line))

    def _clash(self, number: int, article: dict[str, Any]) -> str | None:
        """Why a row cannot join the article of that number, which has its id; ends before the place of that one."""
        if not self.config.merge_rows:
            return "this id stands already in"
        known = self.waiting[number]
        if known["text"] != article["text"] or known["split"] != article["split"]:
            return "another text or split under this id stands in"
        if different := self._contradicted(known, article):
            return f"another {different[0]} label under this id stands in"
        return None

    def _put_away(self) -> None:
        """Move the waiting articles into the table."""
        for start in range(0, len(self.waiting), ROWS_OF_A_BATCH):
            articles = self.waiting[start : start + ROWS_OF_A_BATCH]
            rows = [{key: article.get(key) for key in SCHEMA.names} for article in articles]
            self.digests += map(_digest, rows)
            columns = [pa.array([row[f.name] for row in rows], f.type, memory_pool=POOL) for f in SCHEMA]
            columns += [pa.array([a[FURTHER + name] for a in articles], pa.string()) for name in self.further]
            self.batches.append(pa.RecordBatch.from_arrays(columns, schema=self.schema))
        self.waiting.clear()

    def _contradicted(self, known: dict[str, Any], article: dict[str, Any]) -> list[str]:
        """The tasks of one label each for which the two have different ones."""
        single = [
            name
            for name, reader in self.readers.items()
            if name != "stance" and reader.task.kind == "multiclass" and name not in self.voted
        ]
        return [name for name in single if known[name] and article[name] and known[name] != article[name]]

    def _merge(self, known: dict[str, Any], article: dict[str, Any]) -> None:
        """Add the stances and labels of a further row to its article, labels in the task's order."""
        for name, reader in self.readers.items():
            shares = f"{name}_shares"
            if name in self.voted:
                known[name] = joined_votes(known[name], article[name])
            elif known[name] is None or article[name] is None:
                given = article if known[name] is None else known
                known[name], known[shares] = given[name], given[shares]
            elif name == "stance":
                known[name] = known[name] + article[name]
                known[shares] = known[shares] + article[shares] if reader.config.soft else None
            else:
                known[name] = sorted({*known[name], *article[name]}, key=reader.task.labels.index)
        for name in self.further:
            if known[FURTHER + name] != article[FURTHER + name]:
                known[FURTHER + name] = SEVERAL
        self.merged += 1

    def _select(self, values: Mapping[str, Any]) -> None:
        """Raises LabelError where `where` or `where_not` sets the row aside."""
        for name, columns, kept in (("where", self.config.where, True), ("where_not", self.config.where_not, False)):
            for column, asked in columns.items():
                value = values.get(column)
                cells = {"" if v is None else value_key(v) for v in (value if isinstance(value, list) else [value])}
                if bool(cells & set(map(value_key, asked))) is not kept:
                    raise LabelError(column, value, f"set aside by the configuration ({name})", expected_drop=True)

    def _text(self, values: Mapping[str, Any]) -> str:
        """The text, put together from its columns. Raises LabelError where it is missing, empty or no text."""
        columns = self.config.columns
        parts = self._texts(values, [columns.text, *columns.append])
        if not parts and columns.fallback:
            parts = self._texts(values, [columns.fallback])
        if not parts:
            reason = "the text is missing" if values.get(columns.text) is None else "the text is empty"
            raise LabelError(columns.text, values.get(columns.text), reason, expected_drop=self.config.drop_empty_text)
        return columns.between.join(parts)

    def _page(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, str | None]]:
        """The text, title, author and date (YYYY-MM-DD) of an article whose text is an HTML page.

        Raises LabelError where there is no text in it.
        """
        import trafilatura

        page = self._text(values)
        # a date is taken from the page's metadata and markup, not guessed from its text
        dates = {"original_date": True, "extensive_search": False}
        document = trafilatura.bare_extraction(
            page, with_metadata=True, include_comments=False, date_extraction_params=dates
        )
        if document is None or not (document.text or "").strip():
            raise LabelError(self.config.columns.text, page, "no main text was found in this HTML page")
        return document.text, {"title": document.title, "author": document.author, "published": document.date}

    def _texts(self, values: Mapping[str, Any], names: list[str]) -> list[str]:
        """The texts of the columns that are not empty; a list of texts is one for each of its items."""
        texts = []
        for name in names:
            value = values.get(name)
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, str | None):
                    raise LabelError(name, value, f"text was expected, not {type(part).__name__}")
                texts.append(part or "")
        return [text for text in texts if text.strip()]

    def _article(self, row: Row, values: Mapping[str, Any], file: FileConfig, root: Path) -> dict[str, Any]:
        columns = self.config.columns
        text, found = self._page(values) if self.config.html else (self._text(values), {})
        if columns.id is None:
            place = _place(row.file, file.path, root)
            item = "" if row.item is None else f".{row.item}"
            id_ = f"{file.split}/{place}:{row.line}{item}" if file.split else f"{place}:{row.line}{item}"
        else:
            id_ = "" if values.get(columns.id) is None else str(values[columns.id]).strip()
            if isinstance(values.get(columns.id), bool | list | dict):
                raise LabelError(columns.id, values[columns.id], "a text or a number was expected")
            if not id_:
                raise LabelError(columns.id, values.get(columns.id), "the id is missing")
        article: dict[str, Any] = {"id": id_, "text": self._fixed(text), "split": self._split(values, file)}
        for name in OPTIONAL:
            value = values.get(getattr(columns, name)) if getattr(columns, name) else None
            if name == "published" and columns.date_format and value not in (None, ""):
                value = iso_date(str(columns.published), value, columns.date_format)
            value = _as_text(str(getattr(columns, name)), value) or found.get(name)
            article[name] = self._fixed(value.strip()) if value and value.strip() else None
        for name in self.further:
            article[FURTHER + name] = _as_text(name, values.get(name))
        for name, reader in self.readers.items():
            if name in self.voted:
                article[name] = reader.votes_of(values)
                continue
            self.ratings[name] += reader.ratings_of(values)
            article[name] = reader.stances_of(values) if name == "stance" else reader.labels_of(values)
            article[f"{name}_shares"] = None if article[name] is None else reader.shares_of(values)
        return article

    @property
    def schema(self) -> pa.Schema:
        """Of the table."""
        return pa.schema([*SCHEMA, *(pa.field(FURTHER + name, pa.string()) for name in self.further)])

    @cached_property
    def voted(self) -> list[str]:
        """The tasks whose labels wait for all rows of an article, since each row holds what one annotator said."""
        return [name for name, reader in self.readers.items() if self.config.merge_rows and reader.by_vote]

    def _fixed(self, text: str) -> str:
        if not self.config.fix_encoding:
            return text
        import ftfy

        return str(ftfy.fix_text(text, uncurl_quotes=False))

    def _split(self, values: Mapping[str, Any], file: FileConfig) -> str | None:
        value: Any = file.split
        if not value and self.config.columns.split:
            value = values.get(self.config.columns.split)
            value = {value_key(k): v for k, v in self.config.splits.items()}.get(value_key(value), value)
        if value is None or value == "":
            return None
        if str(value).lower() not in SPLIT_NAMES:
            raise LabelError(self.config.columns.split or "split", value, f"expected one of {', '.join(SPLIT_NAMES)}")
        return SPLIT_NAMES[str(value).lower()]

    def _drop_repeats(self) -> None:
        first: dict[bytes, str] = {}  # of the articles with one text
        kept: list[bool] = []
        for number, batch in enumerate(self.batches):
            start = len(kept)
            for id_, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                repeated = first.setdefault(text_digest(text), id_)
                if repeated != id_:
                    reason = f"repeats the text of {repeated!r} (drop_repeats)"
                    self.bad.append(BadRow(*self.places[len(kept)], None, id_, reason, expected_drop=True))
                kept.append(repeated == id_)
            self.batches[number] = batch.filter(pa.array(kept[start:], pa.bool_()))
        self.digests = [digest for digest, keep in zip(self.digests, kept, strict=True) if keep]

    def _elect(self) -> None:
        """Give the articles the labels of their annotators' votes; all rows of one without a majority are set aside."""
        articles, places = self.waiting, self.places
        self.waiting, self.places = [], []
        for number, (article, place) in enumerate(zip(articles, places, strict=True)):
            try:
                for name in self.voted:
                    reader, votes = self.readers[name], article[name]
                    self.ratings[name] += reader.ratings(votes)
                    article[name], article[f"{name}_shares"] = reader.elect(votes)
            except LabelError as error:
                rows = [place, *self.further_rows[number]]
                self.merged -= len(rows) - 1
                self.bad += [BadRow(*at, error.field, error.value, str(error), error.expected_drop) for at in rows]
            else:
                self.waiting.append(article)
                self.places.append(place)

    def build(self) -> Corpus:
        name = self.config.name
        errors = [bad for bad in self.bad if not bad.expected_drop]
        if len(errors) > self.config.max_bad_rows:
            raise BadRowsError(
                _listing(name, errors, f"mend them, or put them in quarantine with corpus.max_bad_rows={len(errors)}")
            )
        if self.voted:
            self._elect()
        if not self.places:
            raise CorpusError(f"corpus {name}: none of its {self.rows:,} rows can be used")
        self._put_away()
        if self.config.drop_repeats:
            self._drop_repeats()
        table = pa.Table.from_batches(self.batches, self.schema)
        tasks = {}
        for task_name, reader in self.readers.items():
            if table[task_name].null_count < len(table):
                tasks[task_name] = reader.task
            elif getattr(self.config, task_name) != LabelsConfig():
                within = f"{reader.config.nested}." if reader.config.nested else ""
                column = ", ".join(within + column for column in reader.config.columns or reader.config.annotators)
                raise CorpusError(
                    f"corpus {name}: the {task_name} column {column!r} is empty in all {len(table):,} rows"
                )
        unknown = set(self.config.metrics) - set(self.readers)
        if unknown:
            raise ConfigurationError(f"corpus.metrics names {sorted(unknown)}; expected {', '.join(self.readers)}")
        metrics, fingerprint = dict(self.config.metrics), _fingerprint(self.digests, tasks)
        agreement = {task: found for task in tasks if (found := _agreement(self.ratings[task]))}
        columns = () if self._says_where_labels_stand else tuple(self.columns)
        bad = tuple(self.bad)
        return Corpus(name, table, tasks, metrics, fingerprint, self.rows, bad, self.merged, agreement, columns)


def _agreement(ratings: list[list[str]]) -> Agreement | None:
    """None where no item has two labels."""
    several = [labels for labels in ratings if len(labels) > 1]
    if not several:
        return None
    return {"alpha": krippendorff_alpha(several), "annotators": max(map(len, several)), "items": len(several)}


def _as_text(column: str, value: Any) -> str | None:
    """The text of a cell, None for an empty one; several, such as authors, with commas. Raises LabelError."""
    if isinstance(value, list):
        return ", ".join(text for part in value if (text := _as_text(column, part))) or None
    if isinstance(value, dict):
        raise LabelError(column, value, "a text or a number was expected")
    return None if value is None or value != value else str(value).strip() or None


def _is_ragged(file: FileConfig, path: str) -> bool:
    return (file.format if file.format is not Format.auto else ENDINGS.get(plain_ending(Path(path)))) in RAGGED


def _place(file: str, pattern: str, root: Path) -> str:
    """The file as ids name it: relative to the corpus's root, or to the folder that an absolute pattern names."""
    path, named = Path(file), root / Path(pattern).expanduser()
    for base in (root, named, *named.parents):
        if path != base and path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return file


def fold_text(text: str) -> str:
    """Lower case, words only: texts that differ in case and punctuation alone are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def text_digest(text: str) -> bytes:
    """Sixteen bytes that are the same for texts that differ in case and punctuation alone."""
    return hashlib.blake2b(fold_text(text).encode("utf-8", "replace"), digest_size=16).digest()


def _fingerprint(digests: Iterable[bytes], tasks: Mapping[str, Task]) -> str:
    """sha256 over the articles and the label sets; the order of the rows does not matter."""
    total = hashlib.sha256(json.dumps([t.to_dict() for t in tasks.values()], sort_keys=True).encode())
    for digest in sorted(digests):
        total.update(digest)
    return total.hexdigest()


def _digest(row: dict[str, Any]) -> bytes:
    # rows that were merged into one article left its stances in their order
    stances = sorted(json.dumps(s, sort_keys=True) for s in row["stance"]) if row["stance"] else None
    given = {name: value for name, value in row.items() if value is not None or not name.endswith("_shares")}
    text = json.dumps({**given, "stance": stances}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
