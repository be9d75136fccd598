"""Corpus: a labelled collection of articles with its provenance, read by configuration.

Every row of the files is either an article of the corpus or in quarantine with file, line, field, value and reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.config import ColumnsConfig, CorpusConfig, FileConfig, LabelsConfig
from data.labels import SPLIT_NAMES, LabelError, LabelReader, label_configs, make_task
from data.readers import read_corpus_rows
from slantwise.article import Article
from slantwise.errors import BadRowsError, ConfigurationError, CorpusError
from slantwise.rows import BadRow, Row, read_rows
from slantwise.task import Task

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
    }
)
OPTIONAL = ("title", "author", "source", "published", "language", "group")
SHOWN_ERRORS = 50


@dataclass(frozen=True)
class Corpus:
    """`table` has one row for each article (SCHEMA); `tasks` are those that it is labelled for."""

    name: str
    table: pa.Table
    tasks: Mapping[str, Task]
    metrics: Mapping[str, list[str]]
    fingerprint: str
    rows_read: int
    quarantine: tuple[BadRow, ...]
    merged: int = 0  # rows that joined the article of an earlier row

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def task(self, name: str) -> Task:
        """Raises CorpusError where the corpus has no labels for the task."""
        if name not in self.tasks:
            known = ", ".join(self.tasks) or "no task"
            raise CorpusError(f"corpus {self.name} has no labels for task {name}; it is labelled for {known}")
        return self.tasks[name]

    def articles(self) -> Iterator[Article]:
        names = [f.name for f in fields(Article)]
        for row in self.table.select(names).to_pylist():
            yield Article(**row)

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


def load_corpus(config: CorpusConfig) -> Corpus:
    """Read all files of a corpus.

    Raises CorpusError where a file is missing, empty or lacks a column, BadRowsError (all rows at once) where more
    rows than `max_bad_rows` cannot be used.
    """
    root = Path(config.root).expanduser()
    readers = {name: LabelReader(make_task(name, c), c) for name, c in label_configs(config).items()}
    builder = _Builder(config, readers, _read_joins(config, root))
    for file in config.files:
        builder.add_file(file, root)
    return builder.build()


Join = tuple[str, dict[str, dict[str, Any]], dict[str, None]]  # on, value -> columns, columns of a row without match


def _read_joins(config: CorpusConfig, root: Path) -> list[Join]:
    joins: list[Join] = []
    for join in config.joins:
        rows: dict[str, dict[str, Any]] = {}
        bad = []
        for row in read_rows(join, root):
            if isinstance(row, BadRow):
                bad.append(row)
            elif join.on not in row.values:
                raise CorpusError(f"{row.file} has no column {join.on!r} to join on; it has {_names(row.values)}")
            elif rows.setdefault(key := str(row.values[join.on]), row.values) != row.values:
                bad.append(BadRow(row.file, row.line, join.on, key, "stands twice with different columns"))
        if bad:
            raise BadRowsError(_listing(join.path, bad, "a joined table must be whole"))
        columns = {name: None for values in rows.values() for name in values if name != join.on}
        joins.append((join.on, rows, columns))
    return joins


def _names(values: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, values)) or "none"


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
    """Collects articles and bad rows over the files of one corpus."""

    config: CorpusConfig
    readers: Mapping[str, LabelReader]
    joins: list[Join]
    articles: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_line: dict[str, str] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
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
            if row.file != checked and not row.file.endswith((".jsonl", ".ndjson")):
                self._check_columns(row.file, values)
                checked = row.file
            columns.update(dict.fromkeys(values))
            self._add(row, values, file, root)
        if self.rows == rows_before:
            raise CorpusError(f"{root / file.path} holds no rows; expected at least one below the header")
        if columns:
            self._check_columns(str(root / file.path), dict.fromkeys(columns))

    def _joined(self, row: Row) -> dict[str, Any]:
        values = dict(row.values)
        for on, table, columns in self.joins:
            if on not in values:
                raise CorpusError(f"{row.file} has no column {on!r} to join on; it has {_names(values)}")
            match = table.get(str(values[on]))
            values = {**columns, **values} if match is None else {**values, **match}
        return values

    def _check_columns(self, file: str, values: Mapping[str, Any]) -> None:
        """A column that the configuration asks for must be there; the standard optional ones need not."""
        asked, standard = self.config.columns, ColumnsConfig()
        needed = {"text": asked.text, "id": asked.id}
        needed |= {n: getattr(asked, n) for n in (*OPTIONAL, "split") if getattr(asked, n) != getattr(standard, n)}
        if any(getattr(self.config, name) != LabelsConfig() for name in self.readers):
            for name, reader in self.readers.items():
                c = reader.config
                needed |= {f"{name} {column}": column for column in ([c.nested] if c.nested else c.columns)}
                if not c.nested and c.target and not c.target_name:
                    needed[f"{name} target"] = c.target
        for role, column in needed.items():
            if column is not None and column not in values:
                hint = ""
                if len(values) == 1 and re.search(r"[;\t|,]", next(iter(values))):
                    hint = "; is corpus.files.separator right?"
                elif role == "id":
                    hint = "; set corpus.columns.id=null to number the rows"
                raise CorpusError(f"{file} has no column {column!r} ({role}); it has {_names(values)}{hint}")

    def _add(self, row: Row, values: Mapping[str, Any], file: FileConfig, root: Path) -> None:
        where = f"{row.file}: line {row.line}"
        try:
            article = self._article(row, values, file, root)
        except LabelError as error:
            self.bad.append(BadRow(row.file, row.line, error.field, error.value, str(error), error.expected_drop))
            return
        known = self.articles.get(article["id"])
        if known is None:
            self.articles[article["id"]] = article
            self.first_line[article["id"]] = where
        elif not self.config.merge_rows:
            reason = f"this id stands already in {self.first_line[article['id']]}"
            self.bad.append(BadRow(row.file, row.line, self.config.columns.id, article["id"], reason))
        elif known["text"] != article["text"] or known["split"] != article["split"]:
            reason = f"another text or split under this id stands in {self.first_line[article['id']]}"
            self.bad.append(BadRow(row.file, row.line, self.config.columns.id, article["id"], reason))
        else:
            known["stance"] = (known["stance"] or []) + (article["stance"] or [])
            self.merged += 1

    def _article(self, row: Row, values: Mapping[str, Any], file: FileConfig, root: Path) -> dict[str, Any]:
        columns = self.config.columns
        text = values.get(columns.text)
        if not isinstance(text, str):
            reason = "the text is missing" if text is None else f"text was expected, not {type(text).__name__}"
            raise LabelError(columns.text, text, reason)
        if not text.strip():
            raise LabelError(columns.text, text, "the text is empty")
        if columns.id is None:
            place = _place(row.file, file.path, root)
            id_ = f"{file.split}/{place}:{row.line}" if file.split else f"{place}:{row.line}"
        else:
            id_ = "" if values.get(columns.id) is None else str(values[columns.id]).strip()
            if not id_:
                raise LabelError(columns.id, values.get(columns.id), "the id is missing")
        article: dict[str, Any] = {"id": id_, "text": self._fixed(text), "split": self._split(values, file)}
        for name in OPTIONAL:
            value = values.get(getattr(columns, name)) if getattr(columns, name) else None
            article[name] = None if value is None or not str(value).strip() else self._fixed(str(value).strip())
        for name, reader in self.readers.items():
            article[name] = reader.stances_of(values) if name == "stance" else reader.labels_of(values)
        return article

    def _fixed(self, text: str) -> str:
        if not self.config.fix_encoding:
            return text
        import ftfy

        return str(ftfy.fix_text(text, uncurl_quotes=False))

    def _split(self, values: Mapping[str, Any], file: FileConfig) -> str | None:
        value = file.split or (values.get(self.config.columns.split) if self.config.columns.split else None)
        if value is None or value == "":
            return None
        if str(value).lower() not in SPLIT_NAMES:
            raise LabelError(self.config.columns.split or "split", value, f"expected one of {', '.join(SPLIT_NAMES)}")
        return SPLIT_NAMES[str(value).lower()]

    def _drop_repeats(self) -> None:
        seen: dict[str, str] = {}
        for id_, article in list(self.articles.items()):
            key = fold_text(article["text"])
            if key in seen:
                where = self.first_line[id_].rsplit(": line ", 1)
                reason = f"repeats the text of {seen[key]!r} (drop_repeats)"
                self.bad.append(BadRow(where[0], int(where[1]), None, id_, reason, expected_drop=True))
                del self.articles[id_]
            else:
                seen[key] = id_

    def build(self) -> Corpus:
        name = self.config.name
        errors = [bad for bad in self.bad if not bad.expected_drop]
        if len(errors) > self.config.max_bad_rows:
            raise BadRowsError(
                _listing(name, errors, f"mend them, or put them in quarantine with corpus.max_bad_rows={len(errors)}")
            )
        if self.config.drop_repeats:
            self._drop_repeats()
        if not self.articles:
            raise CorpusError(f"corpus {name}: none of its {self.rows:,} rows can be used")
        rows = [{key: article.get(key) for key in SCHEMA.names} for article in self.articles.values()]
        tasks = {}
        for task_name, reader in self.readers.items():
            if any(row[task_name] is not None for row in rows):
                tasks[task_name] = reader.task
            elif getattr(self.config, task_name) != LabelsConfig():
                column = reader.config.nested or ", ".join(reader.config.columns)
                raise CorpusError(
                    f"corpus {name}: the {task_name} column {column!r} is empty in all {len(rows):,} rows"
                )
        unknown = set(self.config.metrics) - set(self.readers)
        if unknown:
            raise ConfigurationError(f"corpus.metrics names {sorted(unknown)}; expected {', '.join(self.readers)}")
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        metrics, fingerprint = dict(self.config.metrics), _fingerprint(rows, tasks)
        return Corpus(name, table, tasks, metrics, fingerprint, self.rows, tuple(self.bad), self.merged)


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


def _fingerprint(rows: list[dict[str, Any]], tasks: Mapping[str, Task]) -> str:
    """sha256 over the articles and the label sets; the order of the rows does not matter."""

    def digest(row: dict[str, Any]) -> bytes:
        # rows that were merged into one article left its stances in their order
        stances = sorted(json.dumps(s, sort_keys=True) for s in row["stance"]) if row["stance"] else None
        text = json.dumps({**row, "stance": stances}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    digests = sorted(map(digest, rows))
    total = hashlib.sha256(json.dumps([t.to_dict() for t in tasks.values()], sort_keys=True).encode())
    for each in digests:
        total.update(each)
    return total.hexdigest()
