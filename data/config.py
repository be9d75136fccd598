"""The configuration of corpora, cleaning and splits: plain dataclasses, checked on construction."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from slantwise.errors import ConfigurationError
from slantwise.rows import Layout
from slantwise.task import TASK_NAMES


class SplitKind(StrEnum):
    """How articles are divided into train, validation and test."""

    given = "given"  # as the corpus says; a missing validation split is carved out of train
    stratified = "stratified"  # hold-out, label shares kept, groups and near-duplicates together
    temporal = "temporal"  # hold-out, the newest articles are test
    kfold = "kfold"  # cross-validation, label shares kept, groups and near-duplicates together
    leave_one_target_out = "leave_one_target_out"  # cross-validation, each fold tests on a target unknown to train
    leave_one_source_out = "leave_one_source_out"  # cross-validation, each fold tests on a source unknown to train
    row_holdout = "row_holdout"  # scikit-learn's train_test_split over rows: for published protocols
    row_kfold = "row_kfold"  # scikit-learn's StratifiedKFold over rows: for published protocols

    @property
    def has_folds(self) -> bool:
        """Whether every article is test in one of several folds, so that none is unseen by the final model."""
        return self in FOLDED


FOLDED = {SplitKind.kfold, SplitKind.row_kfold, SplitKind.leave_one_target_out, SplitKind.leave_one_source_out}


@dataclass
class FileConfig(Layout):
    """One file (or glob) of a corpus and how to read it; `path` is relative to the corpus's root."""

    split: str | None = None  # every row of this file belongs to this split
    subset: str | None = None  # data set: the configuration's name
    dataset_split: str | None = None  # data set: the split to read
    revision: str | None = None  # data set: the commit to read


@dataclass
class JoinConfig(Layout):
    """A second table (or several, by a glob) whose columns are added to the rows with the same values of `on`."""

    on: list[str] = field(default_factory=list)  # one column or several
    key: list[str] = field(default_factory=list)  # what the second table calls them, where it is not the same

    def __post_init__(self) -> None:
        if not self.on or (self.key and len(self.key) != len(self.on)):
            raise ConfigurationError(f"corpus.joins: on={self.on}, key={self.key}; expected one column each or more")


@dataclass
class ColumnsConfig:
    """Which column of the files holds which field of the article; null where there is none.

    A key inside an object is a column too: `source.name` is the name in {"source": {"name": ...}}. So is a key of all
    objects of a list: `tags.name` is the list of their names.
    """

    id: str | None = "id"  # null: ids are made from the file's name and the row's number
    text: str = "text"  # a text, or a list of texts
    append: list[str] = field(default_factory=list)  # columns whose text follows `text`
    between: str = "\n\n"  # what stands between the texts of these columns and of a list
    fallback: str | None = None  # the column that holds the text where all of these are empty
    title: str | None = "title"
    author: str | None = "author"
    source: str | None = "source"
    published: str | None = "published"
    date_format: str | None = None  # how `published` is written, such as "%d.%m.%Y"; "unix": seconds since 1970
    language: str | None = "language"
    split: str | None = "split"
    group: str | None = "group"  # articles with one value stay in one split and are resampled together


@dataclass
class LabelsConfig:
    """Where a task's labels stand and what their values mean."""

    # Several columns, or one that holds a list, for multilabel; for stance a column for each target, named as it is.
    columns: list[str] = field(default_factory=list)
    separator: str | None = None  # splits a cell that holds several labels
    indicators: bool = False  # each of `columns` is one label: 1, true, yes or x where it holds, 0, false or no if not
    largest: bool = False  # each of `columns` is one label's share; the largest is the label, ties are set aside
    # Columns with one annotator's label each (or one with a list of them): their agreement is reported, and without
    # `columns` the label that most of them gave is the label; rows without such a one (a tie) are set aside.
    annotators: list[str] = field(default_factory=list)
    soft: bool = False  # training learns from the shares of the labels (`largest`, `annotators`), not from one label
    map: dict[Any, str] = field(default_factory=dict)  # value in the file (or column, see above) -> label
    missing: list[str] = field(default_factory=list)  # values that mean "no label here"
    drop: list[str] = field(default_factory=list)  # values whose rows are set aside on purpose
    labels: list[str] = field(default_factory=list)  # the ordered label set; empty: the task's standard one
    ignore_unknown: bool = False  # values outside the label set count as no label; otherwise they are errors
    drop_unlabelled: bool = False  # rows without any label of this task are set aside on purpose
    kind: str | None = None  # multiclass or multilabel where it differs from the task's standard
    # stance only
    target: str | None = None  # the column (or, in a nested list, the key) that names the target
    target_name: str | None = None  # one fixed target for all rows
    nested: str | None = None  # the column that holds a list of {target, label} objects
    start: str | None = None  # the key or column with the mention's first character
    end: str | None = None  # the key or column with the character after the mention


@dataclass
class DownloadConfig:
    """A file that `slantwise download` fetches. The URL should name a fixed version, such as a commit."""

    url: str = ""  # http or https
    sha256: str = ""  # of the file's bytes, 64 hexadecimal digits
    path: str = ""  # where it is put, relative to the corpus's root, with "/"
    unpack: bool = False  # a .zip or .tar(.gz, .bz2, .xz): its files are put beside it, the archive stays

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ConfigurationError(f"corpus.download: url={self.url!r}; expected https://… or http://…")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise ConfigurationError(
                f"corpus.download: sha256={self.sha256!r} of {self.url}; expected 64 hexadecimal digits"
            )
        path = PurePosixPath(self.path)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in self.path or "\0" in self.path:
            raise ConfigurationError(f"corpus.download: path={self.path!r}; expected a path below the corpus's root")


@dataclass
class CorpusConfig:
    """A labelled corpus: its files, their columns and the meaning of their labels."""

    name: str = "corpus"
    root: str = "."  # relative paths start here
    path: str | None = None  # a shorthand for one entry of `files`
    files: list[FileConfig] = field(default_factory=list)
    joins: list[JoinConfig] = field(default_factory=list)
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    topic: LabelsConfig = field(default_factory=LabelsConfig)
    framing: LabelsConfig = field(default_factory=LabelsConfig)
    stance: LabelsConfig = field(default_factory=LabelsConfig)
    where: dict[str, list[str]] = field(default_factory=dict)  # column: values; all other rows are set aside
    where_not: dict[str, list[str]] = field(default_factory=dict)  # column: values whose rows are set aside
    splits: dict[Any, str] = field(default_factory=dict)  # value of the split column -> train, validation or test
    drop_empty_text: bool = False  # rows without text are set aside; otherwise they are errors
    merge_rows: bool = False  # rows with one id are one article with several stances or labels
    # The texts are HTML pages: the main text is extracted (trafilatura), and the title, author and date of publication
    # where the row has none.
    html: bool = False
    fix_encoding: bool = False  # repair text that was decoded wrongly, such as "â€œ" (ftfy)
    drop_repeats: bool = False  # keep only the first of articles with the same text (case and punctuation folded)
    max_bad_rows: int = 0  # more unusable rows than this stop the run; fewer go to quarantine
    metrics: dict[str, list[str]] = field(default_factory=dict)  # by task: the official metrics, the primary one first
    licence: str | None = None
    homepage: str | None = None
    download: list[DownloadConfig] = field(default_factory=list)  # what `slantwise download` fetches, and from where

    def __post_init__(self) -> None:
        if self.path is not None and self.files not in ([], [FileConfig(path=self.path)]):
            raise ConfigurationError(
                f"corpus.path={self.path}, but corpus {self.name} names its files; use corpus=file"
            )
        if self.path is not None:
            self.files = [FileConfig(path=self.path)]
        if not self.files:
            raise ConfigurationError(f"corpus {self.name}: no files; set corpus.path or corpus.files")
        if self.max_bad_rows < 0:
            raise ConfigurationError(f"corpus.max_bad_rows={self.max_bad_rows}; expected 0 or more")
        if unknown := set(self.splits.values()) - {"train", "validation", "test"}:
            raise ConfigurationError(f"corpus.splits gives {sorted(unknown)}; expected train, validation or test")
        paths = [file.path for file in self.download]
        if repeated := sorted({path for path in paths if paths.count(path) > 1}):
            raise ConfigurationError(f"corpus.download names {', '.join(repeated)} more than once")


@dataclass
class TaskConfig:
    """Which of the three questions is asked; labels and kind come from the corpus."""

    name: str = "???"

    def __post_init__(self) -> None:
        if self.name not in TASK_NAMES:
            raise ConfigurationError(f"task.name={self.name}; expected one of {', '.join(TASK_NAMES)}")


@dataclass
class CleaningConfig:
    """What is done to an article's text before a classifier sees it."""

    furniture: bool = True  # remove share bars, captions, bylines, advertisements, recurring lines ...
    min_articles: int = 4  # a line that stands in this many articles of one outlet is furniture


@dataclass
class SplitConfig:
    """How a corpus is divided."""

    kind: SplitKind = SplitKind.stratified
    test: float = 0.2  # share of articles; hold-outs only
    validation: float = 0.15  # share of what is not test
    folds: int = 5  # kfold and row_kfold only
    min_group: int = 10  # leave-one-out only: targets or sources with fewer articles are left out together
    group_by: list[str] = field(default_factory=list)  # source, target, group: articles that share one stay together
    near_duplicates: float = 0.5  # Jaccard similarity from which two texts stay together; 1: only identical ones
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("test", "validation"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise ConfigurationError(f"split.{name}={share}; expected a share between 0 and 1")
        if self.folds < 2:
            raise ConfigurationError(f"split.folds={self.folds}; expected 2 or more")
        if self.min_group < 1:
            raise ConfigurationError(f"split.min_group={self.min_group}; expected 1 or more")
        if not 0 < self.near_duplicates <= 1:
            raise ConfigurationError(f"split.near_duplicates={self.near_duplicates}; expected more than 0, at most 1")
        unknown = set(self.group_by) - {"source", "target", "group"}
        if unknown:
            raise ConfigurationError(f"split.group_by={sorted(unknown)}; expected source, target or group")
