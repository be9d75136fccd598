"""Audit: what a corpus holds and what is wrong with it, as figures. No model is trained here.

Every function returns JSON-ready values. Shares are of 1; lengths are in words (between spaces).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.corpus import Corpus, fold_text, text_digest
from data.examples import LabelledExamples
from data.prepare import CleanCorpus
from data.splitting import TEST, TRAIN, VALIDATION, Split
from slantwise.cleaning import Removed
from slantwise.rows import BadRow

Index = npt.NDArray[np.int64]

MOST_VALUES = 40  # sources or targets in a table
MOST_SHOWN = 12  # examples of clusters, conflicts, leaks and recurring lines
MOST_LINES = 5  # recurring lines of an outlet
EXCERPT = 240
LANGUAGE_SAMPLE, LANGUAGE_CHARACTERS = 3000, 1000
LANGUAGE_LEAST_WORDS = 10  # a shorter text's language is a guess
LENGTH_STEPS = 2  # bins of the length histogram for each doubling


def audit(
    corpus: Corpus,
    clean: CleanCorpus,
    removed: Sequence[Sequence[Removed]],
    splits: Sequence[Split],
    clusters: Index,
) -> dict[str, Any]:
    """All figures of a corpus and one of its tasks.

    counts        of `corpus_counts`      quarantine  of `quarantine_reasons`
    lengths       of `lengths`            languages   of `languages`
    labels        of `label_balance`      cooccurrence  of `label_cooccurrence` (multilabel, else null)
    agreement     of `data.corpus.Agreement`; null where the corpus gives no annotators' labels
    sources, targets    of `values_by_label`; null where the corpus has none
    duplicates    of `duplicates`         conflicts   of `conflicts`
    splits        of `split_counts`       leakage     of `leakage`
    cleaning      of `cleaning`

    `removed` and `clusters` hold an entry for each article of `clean`, `splits` one split or one for each fold.
    """
    labelled = clean.examples(range(len(clean)))
    articles, numbers = article_numbers(clean), text_numbers(clean.bodies)
    return {
        "counts": corpus_counts(corpus, clean, labelled),
        "quarantine": quarantine_reasons(corpus.quarantine),
        "lengths": lengths(clean.texts),
        "languages": languages(clean),
        "labels": label_balance(labelled),
        "cooccurrence": label_cooccurrence(labelled),
        "agreement": corpus.agreement.get(clean.task.name),
        "sources": values_by_label(labelled, labelled.sources),
        "targets": values_by_label(labelled, labelled.targets) if clean.task.has_target else None,
        "duplicates": duplicates(clean, numbers, clusters, splits),
        "conflicts": conflicts(clean, numbers, labelled, articles),
        "splits": split_counts(clean, splits),
        "leakage": leakage(clean, numbers, clusters, splits, labelled, articles),
        "cleaning": cleaning(clean, removed),
    }


def article_numbers(clean: CleanCorpus) -> Index:
    """The number of the article of each example, int64 (n_examples,)."""
    return np.repeat(np.arange(len(clean)), clean.example_counts)


# --- Counts -----------------------------------------------------------------------------------------------------------


def corpus_counts(corpus: Corpus, clean: CleanCorpus, labelled: LabelledExamples) -> dict[str, Any]:
    """rows, articles, merged, quarantined, set_aside (rows = articles + merged + quarantined + set_aside), labelled
    (articles with a label for the task), examples, and `text`, the equation in words."""
    set_aside = sum(bad.expected_drop for bad in corpus.quarantine)
    return {
        "rows": corpus.rows_read,
        "articles": len(corpus),
        "merged": corpus.merged,
        "quarantined": len(corpus.quarantine) - set_aside,
        "set_aside": set_aside,
        "labelled": len(clean),
        "examples": len(labelled),
        "text": corpus.counts(),
    }


def quarantine_reasons(quarantine: Iterable[BadRow]) -> list[dict[str, Any]]:
    """[{field, reason, n, set_aside, example}], most frequent first; numbers and quoted values in a reason are "…"."""
    seen: dict[tuple[str | None, str, bool], list[BadRow]] = defaultdict(list)
    for bad in quarantine:
        general = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+: line \d+|\d+", "…", bad.reason)
        seen[bad.field, general, bad.expected_drop].append(bad)
    return [
        {"field": field, "reason": reason, "n": len(rows), "set_aside": set_aside, "example": _example(rows[0])}
        for (field, reason, set_aside), rows in sorted(seen.items(), key=lambda item: -len(item[1]))
    ]


def _example(bad: BadRow) -> str:
    return excerpt(str(replace(bad, file=Path(bad.file).name)))


def lengths(texts: Iterable[str]) -> dict[str, Any]:
    """min, median, mean, p95 and max in words, and `bins` [{low, high, n}], low <= words < high."""
    n = np.array([len(text.split()) for text in texts])
    steps = np.floor(LENGTH_STEPS * np.log2(np.maximum(n, 1))).astype(int)
    edges = np.ceil(2 ** (np.arange(steps.max() + 2) / LENGTH_STEPS)).astype(int)
    counts = np.bincount(steps)
    first = int(steps.min())
    bins = [
        {"low": int(edges[i]), "high": int(edges[i + 1]), "n": int(counts[i])}
        for i in range(first, len(counts))
        if edges[i] < edges[i + 1]
    ]
    return {
        "min": int(n.min()),
        "median": float(np.median(n)),
        "mean": float(n.mean()),
        "p95": float(np.quantile(n, 0.95)),
        "max": int(n.max()),
        "bins": bins,
    }


def languages(clean: CleanCorpus) -> dict[str, Any]:
    """Languages of the articles, of those with one.

    declared    language to articles, as the corpus says
    found       the same as py3langid says, or null with a `reason`
    checked     articles that were looked at: taken at even steps among those of ten words or more
    differing   of these, how many declare another language than was found
    """
    said = clean.column("language")
    declared = Counter(filter(None, said))
    figures: dict[str, Any] = {"declared": _counted(declared), "found": None, "checked": 0, "differing": 0}
    try:
        import py3langid
    except ImportError:
        return figures | {"reason": "py3langid is not installed"}
    long_enough = [i for i, text in enumerate(clean.texts) if len(text.split()) >= LANGUAGE_LEAST_WORDS]
    found: Counter[str] = Counter()
    for i in long_enough[:: max(1, -(-len(long_enough) // LANGUAGE_SAMPLE))]:
        language = str(py3langid.classify(clean.texts[i][:LANGUAGE_CHARACTERS])[0])
        found[language] += 1
        figures["differing"] += bool(said[i]) and said[i].lower().split("-")[0] != language
    return figures | {"found": _counted(found), "checked": found.total(), "reason": None}


def _counted(counter: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


# --- Labels -----------------------------------------------------------------------------------------------------------


def indicator(labelled: LabelledExamples) -> npt.NDArray[np.int64]:
    """1 where an example carries a label, (n, n_labels)."""
    gold = labelled.gold
    matrix = gold if gold.ndim == 2 else gold[:, None] == np.arange(len(labelled.task.labels))
    return matrix.astype(np.int64)


def label_balance(labelled: LabelledExamples) -> list[dict[str, Any]]:
    """[{label, n, share}] of the examples, in the task's order; for multilabel a last row with label null: none."""
    matrix = indicator(labelled)
    rows: list[dict[str, Any]] = [
        {"label": label, "n": int(n), "share": int(n) / len(labelled)}
        for label, n in zip(labelled.task.labels, matrix.sum(axis=0), strict=True)
    ]
    if labelled.task.kind == "multilabel":
        none = int((matrix.sum(axis=1) == 0).sum())
        rows.append({"label": None, "n": none, "share": none / len(labelled)})
    return rows


def label_cooccurrence(labelled: LabelledExamples) -> list[list[int]] | None:
    """Examples that carry both labels, (n_labels, n_labels); the diagonal: that carry the label. Multilabel only."""
    if labelled.task.kind != "multilabel":
        return None
    matrix = indicator(labelled)
    return [[int(n) for n in row] for row in matrix.T @ matrix]


def values_by_label(labelled: LabelledExamples, values: Sequence[str | None]) -> dict[str, Any] | None:
    """How labels spread over sources or targets; None where no example has one.

    distinct, missing (examples without one), and `table` [{value, n, counts (in the task's order)}] of the most
    frequent ones; `others`: how many values are not in the table, `others_n`: their examples.
    """
    matrix = indicator(labelled)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        if value:
            rows_of[value].append(i)
    if not rows_of:
        return None
    order = sorted(rows_of, key=lambda value: (-len(rows_of[value]), value))
    table = [
        {"value": value, "n": len(rows_of[value]), "counts": [int(n) for n in matrix[rows_of[value]].sum(axis=0)]}
        for value in order[:MOST_VALUES]
    ]
    others = order[MOST_VALUES:]
    return {
        "distinct": len(order),
        "missing": sum(not value for value in values),
        "table": table,
        "others": len(others),
        "others_n": sum(len(rows_of[value]) for value in others),
    }


# --- Duplicates and conflicts -----------------------------------------------------------------------------------------


def duplicates(clean: CleanCorpus, numbers: Index, clusters: Index, splits: Sequence[Split]) -> dict[str, Any]:
    """Articles whose text another one has too.

    exact   {clusters, articles, surplus}: texts equal but for case and punctuation; surplus = articles - clusters
    near    the same for clusters of near-duplicates, which hold the exact ones
    sizes   [{size, n}]: near clusters by their number of articles
    straddling  near clusters with articles in more than one part of the split, summed over folds
    largest [{size, distinct, ids, sources, labels, excerpt}]: distinct texts, first ids, label to articles
    """
    exact = _members(numbers)
    near = _members(clusters)
    sizes = Counter(len(rows) for rows in near.values())
    largest = sorted(near.values(), key=lambda rows: (-len(rows), clean.rows[rows[0]]["id"]))[:MOST_SHOWN]
    return {
        "exact": _cluster_counts(exact),
        "near": _cluster_counts(near),
        "sizes": [{"size": size, "n": sizes[size]} for size in sorted(sizes)],
        "straddling": sum(split.straddling for split in splits),
        "largest": [_cluster(clean, numbers, rows) for rows in largest],
    }


def text_numbers(texts: Iterable[str]) -> Index:
    """A number for each text, int64 (n,), the same for texts that are equal but for case and punctuation."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(text_digest(text), len(numbers)) for text in texts], dtype=np.int64)


def _members(clusters: Index) -> dict[int, list[int]]:
    """Cluster number -> its articles, of clusters of two or more."""
    members: dict[int, list[int]] = defaultdict(list)
    repeated = np.flatnonzero(np.bincount(clusters)[clusters] > 1)
    for i, number in zip(repeated.tolist(), clusters[repeated].tolist(), strict=True):
        members[number].append(i)
    return members


def _cluster_counts(members: Mapping[int, Sequence[int]]) -> dict[str, int]:
    articles = sum(len(rows) for rows in members.values())
    return {"clusters": len(members), "articles": articles, "surplus": articles - len(members)}


def _cluster(clean: CleanCorpus, numbers: Index, rows: Sequence[int]) -> dict[str, Any]:
    labels = Counter(name for i in rows for name in _label_names(clean, i))
    return {
        "size": len(rows),
        "distinct": len({int(numbers[i]) for i in rows}),
        "ids": [clean.rows[i]["id"] for i in rows[:5]],
        "sources": sorted({clean.rows[i]["source"] for i in rows if clean.rows[i]["source"]})[:5],
        "labels": _counted(labels),
        "excerpt": excerpt(clean.bodies[rows[0]]),
    }


def _label_names(clean: CleanCorpus, i: int) -> list[str]:
    row = clean.rows[i]
    if clean.task.has_target:
        return [stance["stance"] for stance in row["stance"]]
    return list(row[clean.task.name]) or ["(none)"]


def conflicts(clean: CleanCorpus, numbers: Index, labelled: LabelledExamples, articles: Index) -> dict[str, Any]:
    """Examples with the same text (but for case and punctuation) and target, and different labels.

    repeats: examples whose text and target stand in an earlier example; texts: distinct ones with a conflict;
    examples: those that carry them; shown: [{excerpt, target, labels, ids}], label (or label set) to examples.
    """
    number: dict[tuple[int, str], int] = {}  # of each distinct text and target
    pairs = zip(numbers[articles].tolist(), map(fold_text, labelled.targets), strict=True)
    codes = np.array([number.setdefault(pair, len(number)) for pair in pairs], dtype=np.int64)
    repeated = _members(codes)
    matrix = indicator(labelled)
    found = [rows for rows in repeated.values() if len(np.unique(matrix[rows], axis=0)) > 1]
    found.sort(key=len, reverse=True)

    def label_set(i: int) -> str:
        return " + ".join(labelled.task.labels[j] for j in np.flatnonzero(matrix[i])) or "(none)"

    shown = [
        {
            "excerpt": excerpt(clean.bodies[articles[rows[0]]]),
            "target": labelled.examples[rows[0]].target,
            "labels": _counted(Counter(map(label_set, rows))),
            "ids": list(dict.fromkeys(labelled.ids[i] for i in rows))[:5],
        }
        for rows in found[:MOST_SHOWN]
    ]
    return {
        "repeats": len(codes) - len(number),
        "texts": len(found),
        "examples": sum(map(len, found)),
        "shown": shown,
    }


# --- Splits and leakage -----------------------------------------------------------------------------------------------


def split_counts(clean: CleanCorpus, splits: Sequence[Split]) -> dict[str, Any]:
    """folds, and `parts`: train, validation and test to {articles, examples, labels}, of the first fold; labels in the
    task's order."""
    parts = {}
    for name in (TRAIN, VALIDATION, TEST):
        rows = splits[0].rows(name)
        part = clean.examples(rows)
        labels = [int(n) for n in indicator(part).sum(axis=0)]
        parts[name] = {"articles": len(rows), "examples": len(part), "labels": labels}
    return {"folds": len(splits), "parts": parts}


def leakage(
    clean: CleanCorpus,
    numbers: Index,
    clusters: Index,
    splits: Sequence[Split],
    labelled: LabelledExamples,
    articles: Index,
) -> dict[str, Any]:
    """What of the test split stands in train or validation as well; with folds, summed over them.

    articles, examples   of the test split
    exact, near          test articles whose text (but for case and punctuation) or a near-duplicate of it stands there;
                         `near` counts the exact ones too
    exact_train, near_train   the same for train alone
    shown                [{id, excerpt, other}]: test articles and the id of one that they repeat
    shared               [{what, distinct, shared, examples, of}] for target, "text and target", title, source and
                         group, where the corpus has them: distinct values in test, those that stand in train or
                         validation too, and the test examples with such a value, of `of` that have one
    """
    figures: dict[str, Any] = {"articles": 0, "examples": 0, "exact": 0, "near": 0, "exact_train": 0, "near_train": 0}
    shown: list[dict[str, Any]] = []
    for split in splits:
        in_test = np.array([name == TEST for name in split.assignment])
        train = np.array(split.rows(TRAIN), dtype=int)
        test, rest = np.flatnonzero(in_test), np.array(sorted([*train, *split.rows(VALIDATION)]), dtype=int)
        figures["articles"] += len(test)
        figures["examples"] += int(in_test[articles].sum())
        for suffix, others in (("_train", train), ("", rest)):
            exact = np.isin(numbers[test], numbers[others])
            near = exact | np.isin(clusters[test], clusters[others])
            figures[f"exact{suffix}"] += int(exact.sum())
            figures[f"near{suffix}"] += int(near.sum())
        first = {int(clusters[i]): int(i) for i in rest[::-1]}
        shown += [_leak(clean, i, first[int(clusters[i])]) for i in test[near][: MOST_SHOWN - len(shown)].tolist()]
    figures["shown"] = shown
    figures["shared"] = [
        shared
        for what, values in _shareable(clean, labelled, articles, numbers).items()
        if (shared := _shared(what, values, splits, articles)) is not None
    ]
    return figures


def _leak(clean: CleanCorpus, i: int, other: int) -> dict[str, Any]:
    return {"id": clean.rows[i]["id"], "other": clean.rows[other]["id"], "excerpt": excerpt(clean.bodies[i])}


def _shareable(
    clean: CleanCorpus, labelled: LabelledExamples, articles: Index, numbers: Index
) -> dict[str, list[str | None]]:
    """Kind of value -> the value of each example, folded."""
    columns: dict[str, list[str | None]] = {}
    if clean.task.has_target:
        folded = [fold_text(target) for target in labelled.targets]
        columns["target"] = [*folded]
        columns["text and target"] = [f"{numbers[i]} {target}" for i, target in zip(articles, folded, strict=True)]
    for name in ("title", "source", "group"):
        of_article = [fold_text(value) if value else None for value in clean.column(name)]
        columns[name] = [of_article[i] for i in articles]
    return columns


def _shared(what: str, values: Sequence[str | None], splits: Sequence[Split], articles: Index) -> dict[str, Any] | None:
    """One row of `leakage`'s shared, None where no test example has such a value."""
    row: dict[str, Any] = {"what": what, "distinct": 0, "shared": 0, "examples": 0, "of": 0}
    for split in splits:
        part_of = np.array(split.assignment)[articles]
        test = Counter(value for value, part in zip(values, part_of, strict=True) if part == TEST and value)
        rest = {value for value, part in zip(values, part_of, strict=True) if part in (TRAIN, VALIDATION) and value}
        row["distinct"] += len(test)
        row["shared"] += len(test.keys() & rest)
        row["examples"] += sum(n for value, n in test.items() if value in rest)
        row["of"] += test.total()
    return row if row["of"] else None


# --- Cleaning ---------------------------------------------------------------------------------------------------------


def cleaning(clean: CleanCorpus, removed: Sequence[Sequence[Removed]]) -> dict[str, Any]:
    """What cleaning removed.

    articles   with a removed line; lines: of all of them; words: their words, and `share` of all words
    reasons    [{reason, lines, articles, example}], most frequent first
    recurring  [{source, lines: [{text, n}]}]: the removed lines (numbers as 0) that stand in most articles of a source,
               two or more, the sources with most articles first; source null: articles that name none
    """
    lines, holding, example = Counter[str](), Counter[str](), dict[str, str]()
    of_source: dict[str | None, Counter[str]] = defaultdict(Counter)
    sources = clean.column("source")
    largest = [source for source, _ in Counter(sources).most_common(MOST_SHOWN)]
    words = 0
    for source, page in zip(sources, removed, strict=True):
        lines.update(line.reason for line in page)
        holding.update({line.reason for line in page})
        words += sum(len(line.text.split()) for line in page)
        for line in page:
            example.setdefault(line.reason, excerpt(line.text))
        if source in largest:
            of_source[source].update({re.sub(r"\d+", "0", line.text) for line in page if line.reason != "title"})
    kept = sum(len(text.split()) for text in clean.bodies)
    recurring = [
        {"source": source, "lines": [{"text": excerpt(text), "n": n} for text, n in top]}
        for source in largest
        if (top := [(text, n) for text, n in _counted(of_source[source]).items() if n > 1][:MOST_LINES])
    ]
    return {
        "articles": sum(bool(page) for page in removed),
        "lines": lines.total(),
        "words": words,
        "share": words / max(1, words + kept),
        "reasons": [
            {"reason": reason, "lines": n, "articles": holding[reason], "example": example[reason]}
            for reason, n in lines.most_common()
        ],
        "recurring": recurring,
    }


def excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[:EXCERPT].rstrip() + " …"
