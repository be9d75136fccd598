"""Labels: the values of a file's cells become labels of a task, or a reason why they cannot."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, cast

from data.config import CorpusConfig, LabelsConfig
from slantwise.errors import ConfigurationError
from slantwise.rows import flat, parse_list
from slantwise.task import IPTC_TOPICS, POLICY_FRAMES, STANCES, Kind, Task

STANDARD: dict[str, Task] = {
    "topic": Task("topic", "multiclass", IPTC_TOPICS),
    "framing": Task("framing", "multilabel", POLICY_FRAMES),
    "stance": Task("stance", "multiclass", STANCES, has_target=True),
}
# The canonical article row carries its labels in these columns.
CANONICAL: dict[str, LabelsConfig] = {
    "topic": LabelsConfig(columns=["topic"]),
    "framing": LabelsConfig(columns=["frames"]),
    "stance": LabelsConfig(nested="stances", target="target", columns=["stance"], start="start", end="end"),
}


class LabelError(Exception):
    """A cell that is no label; `field` and `value` say which, the message what was expected."""

    def __init__(self, field: str, value: Any, reason: str, expected_drop: bool = False) -> None:
        super().__init__(reason)
        self.field, self.value, self.expected_drop = field, value, expected_drop


def label_configs(config: CorpusConfig) -> dict[str, LabelsConfig]:
    """Task name -> where its labels stand.

    A corpus that says nothing of its labels is read as canonical rows; a task of which only the label set or the map
    is given keeps the canonical columns.
    """
    named = {name: getattr(config, name) for name in STANDARD if getattr(config, name) != LabelsConfig()}
    return {name: _with_canonical_columns(name, labels) for name, labels in named.items()} or dict(CANONICAL)


def _with_canonical_columns(name: str, labels: LabelsConfig) -> LabelsConfig:
    if labels.columns or labels.nested or labels.annotators:
        return labels
    canonical = CANONICAL[name]
    if name == "stance" and (labels.target or labels.target_name):
        raise ConfigurationError("corpus.stance.columns is empty; name the column that holds the stance")
    places = {key: getattr(canonical, key) for key in ("columns", "nested", "target", "start", "end")}
    return replace(labels, **places)


def make_task(name: str, config: LabelsConfig) -> Task:
    """The task as this corpus defines it: its own labels and kind, else the standard ones."""
    standard = STANDARD[name]
    labels = tuple(config.labels) or standard.labels
    if config.kind not in (None, "multiclass", "multilabel"):
        raise ConfigurationError(f"corpus.{name}.kind={config.kind}; expected multiclass or multilabel")
    if not config.columns and not config.annotators:
        raise ConfigurationError(f"corpus.{name}.columns is empty; name the column that holds the labels")
    kind = cast(Kind, config.kind or standard.kind)
    if kind == "multilabel" and config.largest:
        raise ConfigurationError(f"corpus.{name}: largest chooses one label; set corpus.{name}.kind=multiclass")
    if config.largest and config.indicators:
        raise ConfigurationError(f"corpus.{name}: largest and indicators are both set; the columns can only be one")
    if config.soft and not (config.largest or config.annotators):
        raise ConfigurationError(f"corpus.{name}: soft needs shares; set largest, or name the annotators")
    if _one_column_a_target(name, config) and (config.nested or config.target or config.target_name):
        raise ConfigurationError(
            f"corpus.{name}.columns={config.columns}: several columns hold one target each and are named as it is, so "
            "they go without nested, target and target_name; name one column, or set largest where they are shares"
        )
    return Task(name, kind, labels, standard.has_target)


def _one_column_a_target(name: str, config: LabelsConfig) -> bool:
    return name == "stance" and len(config.columns) > 1 and not config.largest


def value_key(value: Any) -> str:
    """The form under which a cell is looked up: 2.0, 2 and "2" are one code, and so are true, "True" and "TRUE"."""
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    text = str(value).strip()
    if text.endswith(".0") and text[:-2].lstrip("-").isdigit():
        return text[:-2]
    return text.capitalize() if text.lower() in ("true", "false") else text


Answers = list[list[str]]  # the labels that each annotator gave
Votes = list[tuple[dict[str, Any], Answers]]  # those on each target {target, start, end}; on {} for topic and framing


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of one task from rows."""

    task: Task
    config: LabelsConfig

    @property
    def by_vote(self) -> bool:
        """Whether the labels are those that most annotators gave."""
        return not self.config.columns

    def __post_init__(self) -> None:
        given = set(self.config.map.values())
        if self.config.indicators or self.config.largest:
            given |= {self.config.map.get(column, column) for column in self.config.columns}
        unknown = sorted(given - set(self.task.labels))
        if unknown:
            key = "columns and map give" if self.config.indicators or self.config.largest else "map gives"
            raise ConfigurationError(f"corpus.{self.task.name}: {key} {unknown}; {self._expected(*unknown)}")

    @cached_property
    def _map(self) -> dict[str, str]:
        return {value_key(value): label for value, label in self.config.map.items()}

    @cached_property
    def _missing(self) -> frozenset[str]:
        return frozenset(map(value_key, self.config.missing))

    @cached_property
    def _drop(self) -> frozenset[str]:
        return frozenset(map(value_key, self.config.drop))

    def _expected(self, *received: str) -> str:
        """What a label should have been, and what may be wrong where these were received."""
        labels, key = self.task.labels, f"corpus.{self.task.name}"
        hints = [f"did you mean {close[0]!r}?" for label in received[:1] if (close := _close(label, labels))]
        if not self.config.labels:
            hints.append(
                f"labels of your own are named with '{key}.labels=[...]', other words for these with "
                f"'+{key}.map={{<word>: <label>}}'"
            )
        if {"yes", "no", "on", "off", "true", "false"} & {label.lower() for label in received} and (
            {"True", "False"} & {*labels, *received}
        ):
            hints.append("YAML reads a bare yes, no, on or off as true or false: write it in quotes")
        return "; ".join([f"expected {_listing(labels)}", *hints])

    def labels_of(self, row: Mapping[str, Any]) -> list[str] | None:
        """Topic or framing labels of a row; None where it is not labelled for the task. Raises LabelError."""
        if self.by_vote:
            return self.elect(self.votes_of(row))[0]
        if self.config.largest:
            labels = self._largest(row)
        else:
            labels = self._indicators(row) if self.config.indicators else self._listed(row)
        if self.task.kind == "multiclass" and not labels:
            labels = None
        if self.task.kind == "multiclass" and labels and len(labels) > 1:
            raise LabelError(self.config.columns[0], labels, "several labels where the task takes one")
        if not labels:
            self._unlabelled(row)
        return labels

    def _unlabelled(self, row: Mapping[str, Any]) -> None:
        if self.config.drop_unlabelled:
            column = self.config.nested or (self.config.columns or self.config.annotators)[0]
            raise LabelError(column, row.get(column), "no label (drop_unlabelled)", expected_drop=True)

    def _listed(self, row: Mapping[str, Any]) -> list[str] | None:
        labels: list[str] = []
        labelled = False
        for column in self.config.columns:
            value = self._parts(row.get(column))
            labelled = labelled or not _is_blank(value) or "" in self._map
            labels += self._labels_in(column, value)
        return list(dict.fromkeys(labels)) if labelled else None

    def _parts(self, value: Any) -> Any:
        """The list that a cell stands for: one that is written out, or one with separators; None for a blank one."""
        value = parse_list(value)
        if not isinstance(value, str) or not self.config.separator:
            return value
        return [part for part in value.split(self.config.separator) if part.strip()] if value.strip() else None

    def _labels_in(self, column: str, value: Any) -> Iterator[str]:
        for item in value if isinstance(value, list) else [value]:
            label = self._label(column, item)
            if label is not None:
                yield label

    def votes_of(self, row: Mapping[str, Any]) -> Votes:
        """What the annotators said of the row, or of each of its targets. Raises LabelError."""
        votes = [(entry, self._answers(entry)) for entry in self._entries(row)]
        if self.task.name != "stance":
            return [({}, answers) for _, answers in votes]
        return [(self._place(entry, self._target(entry)), answers) for entry, answers in votes if answers]

    def _answers(self, row: Mapping[str, Any]) -> Answers:
        answers: Answers = []
        for column in self.config.annotators:
            if self.task.kind == "multiclass":
                answers += [[label] for label in self._labels_in(column, self._parts(row.get(column)))]
                continue
            value = parse_list(row.get(column))  # one annotator's labels, or a list with those of several
            several = isinstance(value, list) and (self.config.separator or any(isinstance(v, list) for v in value))
            cells = value if several else [value]
            answers += [list(self._labels_in(column, self._parts(cell))) for cell in cells if not _is_blank(cell)]
        return answers

    def elect(self, votes: Votes) -> tuple[list[Any] | None, list[list[float] | None] | None]:
        """What `labels_of` or `stances_of` gives for these votes, and `shares_of`.

        Of one label, that of most annotators; of several, those that more than half of them gave. Raises LabelError
        where two labels have most votes.
        """
        cast_ = [(place, answers) for place, answers in votes if answers]
        if not cast_:
            self._unlabelled({})
            return None, None
        labels = [self._majority(answers) for _, answers in cast_]
        shares = [self._shares_of_answers(answers) for _, answers in cast_] if self.config.soft else None
        if self.task.name != "stance":
            return labels[0], shares
        return [{**place, "stance": chosen[0]} for (place, _), chosen in zip(cast_, labels, strict=True)], shares

    def _majority(self, answers: Answers) -> list[str]:
        counts = Counter(label for labels in answers for label in labels)
        if self.task.kind == "multilabel":
            return [label for label in self.task.labels if 2 * counts[label] > len(answers)]
        return [_first(self.config.annotators[0], counts)]

    def _shares_of_answers(self, answers: Answers) -> list[float] | None:
        counts = Counter(label for labels in answers for label in labels)
        return [counts[label] / len(answers) for label in self.task.labels] if answers else None

    def ratings_of(self, row: Mapping[str, Any]) -> list[list[str]]:
        """`ratings` of the votes in a row; [] without annotators."""
        return self.ratings(self.votes_of(row)) if self.config.annotators else []

    def ratings(self, votes: Votes) -> list[list[str]]:
        """The items that agreement is measured on: the row or each target, or "yes" and "no" to each of its labels."""
        if self.task.kind == "multiclass":
            return [[label for labels in answers for label in labels] for _, answers in votes]
        return [["yes" if label in labels else "no" for labels in answers] for _, answers in votes
                for label in self.task.labels]  # fmt: skip

    def shares_of(self, row: Mapping[str, Any]) -> list[list[float] | None] | None:
        """For each entry of `stances_of`, or for the row itself, the share of each label of the task (None where
        nothing is given); None for all without `soft`. Raises LabelError.

        They come from `columns` where these hold shares, else from the annotators.
        """
        if not self.config.soft:
            return None
        if self.by_vote:
            return self.elect(self.votes_of(row))[1]
        entries = self._entries(row)
        if self.task.name == "stance":
            entries = [entry for entry in entries if self._stance_label(entry) is not None]
        read = self._shares_of_columns if self.config.largest else self._shares_of_annotators
        return [read(entry) for entry in entries]

    def _shares_of_annotators(self, row: Mapping[str, Any]) -> list[float] | None:
        return self._shares_of_answers(self._answers(row))

    def _shares_of_columns(self, row: Mapping[str, Any]) -> list[float] | None:
        found = self._shares(row)
        if any(share < 0 for share in found.values()):
            raise LabelError(self.config.columns[0], found, "shares of 0 or more were expected")
        total = sum(found.values())
        return [found.get(label, 0) / total for label in self.task.labels] if total else None

    def _largest(self, row: Mapping[str, Any]) -> list[str] | None:
        """The label with the largest share; None without any. Raises LabelError for a tie."""
        shares = self._shares(row)
        return [_first(self.config.columns[0], shares)] if shares else None

    def _shares(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Label -> share; {} where all columns are empty."""
        if all(_is_blank(row.get(column)) for column in self.config.columns):
            return {}
        shares: dict[str, float] = {}
        for column in self.config.columns:
            try:
                share = float(row[column])
            except (KeyError, TypeError, ValueError):
                share = math.nan
            if not math.isfinite(share):
                raise LabelError(column, row.get(column), "a number was expected")
            label = self.config.map.get(column, column)
            shares[label] = shares.get(label, 0.0) + share
        return shares

    def stances_of(self, row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The stances of a row as {target, stance, start, end}; None where it has none. Raises LabelError."""
        if self.by_vote:
            return self.elect(self.votes_of(row))[0]
        if _one_column_a_target("stance", self.config):
            found = [(row, column, self._label(column, row.get(column))) for column in self.config.columns]
        else:
            found = [(entry, self._target(entry), self._stance_label(entry)) for entry in self._entries(row)]
        stances = [{**self._place(entry, target), "stance": label} for entry, target, label in found if label]
        if not stances:
            self._unlabelled(row)
        return stances or None

    def _entries(self, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The objects of the nested list; without one the row itself."""
        if not self.config.nested:
            return [row]
        entries = parse_list(row.get(self.config.nested))
        if _is_blank(entries):
            return []
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise LabelError(self.config.nested, entries, "a list of objects was expected")
        return [flat(entry) for entry in entries]

    def _stance_label(self, entry: Mapping[str, Any]) -> str | None:
        if self.config.largest:
            return next(iter(self._largest(entry) or []), None)
        column = self.config.columns[0]
        return self._label(f"{self.config.nested}.{column}" if self.config.nested else column, entry.get(column))

    def _target(self, entry: Mapping[str, Any]) -> Any:
        return self.config.target_name or (entry.get(self.config.target) if self.config.target else None)

    def _place(self, entry: Mapping[str, Any], target: Any) -> dict[str, Any]:
        if not isinstance(target, str) or not target.strip():
            raise LabelError(self.config.target or "target", target, "the target is missing")
        start, end = (_position(key, entry.get(key)) if key else None for key in (self.config.start, self.config.end))
        return {"target": " ".join(target.split()), "start": start, "end": end}

    def _indicators(self, row: Mapping[str, Any]) -> list[str] | None:
        if "" not in self._missing and all(_is_blank(row.get(column)) for column in self.config.columns):
            return None
        return [self._map.get(value_key(c), c) for c in self.config.columns if self._indicates(c, row.get(c))]

    def _indicates(self, column: str, value: Any) -> bool:
        key = "" if _is_blank(value) else value_key(value)
        if key in self._missing or key.lower() in NO:
            return False
        if key.lower() not in YES:
            hint = '; missing: [""] reads an empty cell as 0' if not key else ""
            raise LabelError(column, value, f"0 or 1 was expected{hint}")
        return True

    def _label(self, field: str, value: Any) -> str | None:
        key = "" if _is_blank(value) else value_key(value)
        if isinstance(value, list | dict):
            raise LabelError(field, value, "a single label was expected")
        if key in self._missing or (not key and key not in self._map):
            return None
        if key in self._drop:
            raise LabelError(field, value, "set aside by the configuration (drop)", expected_drop=True)
        written = str(value).strip()  # a label set may tell "TRUE" from "True"
        label = self._map.get(key, written if written in self.task.labels else key)
        if label not in self.task.labels and self.config.ignore_unknown:
            return None
        if label not in self.task.labels:
            raise LabelError(field, value, f"unknown label; {self._expected(written)}")
        return label


YES, NO = ("1", "true", "yes", "y", "x"), ("0", "false", "no", "n")


def _first(field: str, shares: Mapping[str, float]) -> str:
    """The label with the largest share; raises LabelError where two have it."""
    first = [label for label in shares if shares[label] == max(shares.values())]
    if len(first) > 1:
        raise LabelError(field, dict(shares), f"a tie between {' and '.join(sorted(first))}", expected_drop=True)
    return first[0]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def joined_votes(votes: Votes, further: Votes) -> Votes:
    """Both, with the answers to one target side by side."""
    found = [(place, list(answers)) for place, answers in votes]
    for place, answers in further:
        of_target = next((known for at, known in found if at == place), None)
        if of_target is None:
            found.append((place, list(answers)))
        else:
            of_target += answers
    return found


def krippendorff_alpha(ratings: Iterable[Sequence[str]]) -> float | None:
    """Agreement of annotators on nominal labels: 1 where all agree, 0 where they agree as often as by chance.

    `ratings` holds the labels that each item got, in any order, missing ones left out; items with one label or none
    do not count. None where nothing can be said: no item has two labels, or only one label was ever given.
    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C.
    """
    totals: Counter[str] = Counter()
    differing = 0.0  # pairs of unlike labels within items, each item's weighed by 1 / (its labels - 1)
    for labels in ratings:
        if len(labels) > 1:
            counts = Counter(labels)
            totals += counts
            differing += (len(labels) ** 2 - sum(n * n for n in counts.values())) / (len(labels) - 1)
    n = totals.total()
    differing_by_chance = n * n - sum(count * count for count in totals.values())
    return 1 - (n - 1) * differing / differing_by_chance if differing_by_chance else None


def _position(field: str, value: Any) -> int | None:
    """A character position; CSV holds it as text, a table with gaps as a float."""
    if value is None or value == "":
        return None
    if not value_key(value).isdecimal():
        raise LabelError(field, value, "a character position was expected")
    return int(value_key(value))


def iso_date(field: str, value: Any, written: str) -> str:
    """The date as ISO 8601 from a text in the form `written` (of strptime, or "unix": seconds). Raises LabelError."""
    try:
        if written == "unix":
            return datetime.fromtimestamp(float(value), UTC).isoformat()
        found = datetime.strptime(str(value).strip(), written)
    except (TypeError, ValueError, OverflowError, OSError):
        raise LabelError(field, value, f"a date written as {written} was expected (date_format)") from None
    return found.date().isoformat() if found.time() == time() else found.isoformat()


def _listing(labels: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(labels[:limit])
    return f"one of {shown}" + (f" … ({len(labels)} labels)" if len(labels) > limit else "")


def _close(label: str, labels: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(label.lower().replace(" ", "_"), labels, n=1, cutoff=0.8)


SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test",
}  # fmt: skip
