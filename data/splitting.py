"""Splits: train, validation and test that share no article, no near-duplicate and no group.

All splitters but the two for published protocols (`row_...`) divide groups, not articles: near-duplicates and articles
with a common value of `group_by` are one group. They depend on the seed, the ids and the labels, not on the order of
the rows. The two that leave one target or source out divide by that alone and take what is tied to a test article out
of the fold, since wire copies would tie all sources to each other.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data.config import SplitConfig, SplitKind
from slantwise.errors import ConfigurationError, CorpusError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
LEFT_OUT = "left out"  # of one fold: neither learned from nor judged in it


@dataclass(frozen=True)
class Items:
    """What a splitter may look at, aligned: ids, duplicate clusters, sources, targets, groups, dates, given splits,
    the label counts (n, n_labels) of each article, and the label that its row names first."""

    ids: Sequence[str]
    clusters: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float64]
    first_labels: Sequence[str | None]
    sources: Sequence[str | None]
    targets: Sequence[Sequence[str]]
    groups: Sequence[str | None]
    published: Sequence[str | None]
    given: Sequence[str | None]


@dataclass(frozen=True)
class Split:
    """`assignment[i]` is train, validation or test, or "left out" where one target or source is left out and the
    article is tied to a test article. `straddling` counts the near-duplicate clusters with articles in more than one
    of train, validation and test (0 but for given splits and published protocols). `units[i]` is the number of what
    article i must not be parted from in further folds: near-duplicates, values of `group_by` and the corpus's groups.
    `name` says which targets or sources are left out ("all others": the small ones), and is empty for other splits."""

    assignment: Sequence[str]
    straddling: int
    units: Sequence[int] = ()
    name: str = ""

    def rows(self, name: str) -> list[int]:
        return [i for i, split in enumerate(self.assignment) if split == name]


def make_splits(items: Items, config: SplitConfig) -> list[Split]:
    """One split, or one for each fold. Raises ConfigurationError or CorpusError where the division cannot be made."""
    if not len(items.ids):
        raise CorpusError("there are no labelled articles to split")
    makers = {
        SplitKind.given: _given,
        SplitKind.stratified: _stratified,
        SplitKind.temporal: _temporal,
        SplitKind.kfold: _kfold,
        SplitKind.leave_one_target_out: _leave_one_out,
        SplitKind.leave_one_source_out: _leave_one_out,
        SplitKind.row_holdout: _row_holdout,
        SplitKind.row_kfold: _row_kfold,
    }
    assignments = makers[config.kind](items, config)
    for assignment in assignments:
        _check_none_empty(assignment, config, (TRAIN, VALIDATION, TEST))
    one_out = config.kind in (SplitKind.leave_one_target_out, SplitKind.leave_one_source_out)
    names = [name for name, _ in _held_out(items, config)] if one_out else [""] * len(assignments)
    units = _units(items, config)
    return [
        Split(assignment.tolist(), _straddling(items.clusters, assignment), units, name)
        for assignment, name in zip(assignments, names, strict=True)
    ]


def without_test(items: Items, config: SplitConfig) -> Split:
    """All articles divided into train and validation: for the model that is exported after cross-validation."""
    assignment = np.full(len(items.ids), TRAIN, dtype=object)
    _carve_validation(items, config, _groups(items, config), assignment)
    _check_none_empty(assignment, config, (TRAIN, VALIDATION))
    return Split(assignment.tolist(), _straddling(items.clusters, assignment), _units(items, config))


def _check_none_empty(assignment: npt.NDArray[np.object_], config: SplitConfig, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in assignment]
    if missing:
        counts = {name: int((assignment == name).sum()) for name in names}
        raise CorpusError(
            f"split {config.kind} leaves no article for {' and '.join(missing)} ({counts}); "
            "there are too few articles or groups, or the given split lacks them: choose another split"
        )


def _straddling(clusters: npt.NDArray[np.int64], assignment: npt.NDArray[np.object_]) -> int:
    seen: dict[int, set[str]] = defaultdict(set)
    for c, split in zip(clusters.tolist(), assignment, strict=True):
        if split != LEFT_OUT:
            seen[c].add(split)
    return sum(len(splits) > 1 for splits in seen.values())


def _groups(items: Items, config: SplitConfig) -> npt.NDArray[np.int64]:
    """Group number of each article: connected through a duplicate cluster or a value of `group_by`."""
    return _components(_ties(items, config))


def _units(items: Items, config: SplitConfig) -> list[int]:
    with_groups = replace(config, group_by=sorted({*config.group_by, "group"}))
    units: list[int] = _groups(items, with_groups).tolist()
    return units


def _ties(items: Items, config: SplitConfig) -> list[list[tuple[str, str]]]:
    """What may tie each article to others: its duplicate cluster and its values of `group_by`."""
    ties = []
    for i in range(len(items.ids)):
        values = [("cluster", str(items.clusters[i]))]
        if "source" in config.group_by and items.sources[i]:
            values.append(("source", str(items.sources[i])))
        if "group" in config.group_by and items.groups[i]:
            values.append(("group", str(items.groups[i])))
        if "target" in config.group_by:
            values += [("target", target) for target in items.targets[i]]
        ties.append(values)
    return ties


def _components(values: Sequence[Collection[Hashable]]) -> npt.NDArray[np.int64]:
    """Component number of each article, int64 (n,): connected through a common value, or a chain of them."""
    parent = list(range(len(values)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, of_article in enumerate(values):
        for value in of_article:
            parent[find(i)] = find(first.setdefault(value, i))
    return np.array([find(i) for i in range(len(values))], dtype=np.int64)


def _noise(seed: int, text: str) -> int:
    """A number that depends on nothing but its arguments: the tie-break that makes order irrelevant."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest(), "big")


def _divide(
    items: Items, groups: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], shares: Sequence[float], seed: int
) -> npt.NDArray[np.int64]:
    """Part number of each of `rows`: parts of the given shares with like label counts, groups whole.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over groups instead of examples: the rarest
    label first, its largest groups first, each to the part that lacks most of it. A part that would get nothing gets
    the smallest group that another can spare.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        members[int(groups[row])].append(row)
    keys = sorted(members, key=lambda g: (-len(members[g]), _noise(seed, min(items.ids[i] for i in members[g]))))
    sizes = np.array([len(members[g]) for g in keys], dtype=float)
    counts = np.array([items.labels[members[g]].sum(axis=0) for g in keys]).reshape(len(keys), items.labels.shape[1])
    counts = np.column_stack([counts, sizes])  # the last column: how many articles, for those without labels
    wanted = np.outer(shares, counts.sum(axis=0))
    part_of = np.full(len(keys), -1)
    open_ = np.ones(len(keys), dtype=bool)
    while open_.any():
        remaining = counts[open_].sum(axis=0)
        label = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        for g in np.flatnonzero(open_ & (counts[:, label] > 0)):
            lack = wanted[:, label]
            best = np.flatnonzero(lack >= lack.max() - 1e-9)
            part = best[np.argmax(wanted[best, -1])]
            part_of[g], open_[g] = part, False
            wanted[part] -= counts[g]
    for empty in sorted(set(range(len(shares))) - set(part_of.tolist())):
        spare = [g for g in range(len(keys)) if (part_of == part_of[g]).sum() > 1]
        if spare:  # the groups stand in the order of their sizes
            part_of[spare[-1]] = empty
    part_of_group = dict(zip(keys, part_of.tolist(), strict=True))
    return np.array([part_of_group[int(groups[row])] for row in rows], dtype=np.int64)


def _carve_validation(
    items: Items, config: SplitConfig, groups: npt.NDArray[np.int64], assignment: npt.NDArray[np.object_]
) -> None:
    """Turn the share `config.validation` of train into validation, in place."""
    rows = np.flatnonzero(assignment == TRAIN)
    parts = _divide(items, groups, rows, (1 - config.validation, config.validation), config.seed + 1)
    assignment[rows[parts == 1]] = VALIDATION


def _stratified(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    groups = _groups(items, config)
    rest = 1 - config.test
    shares = (rest * (1 - config.validation), rest * config.validation, config.test)
    parts = _divide(items, groups, np.arange(len(items.ids)), shares, config.seed)
    return [np.array([TRAIN, VALIDATION, TEST], dtype=object)[parts]]


def _kfold(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    groups = _groups(items, config)
    if len(set(groups.tolist())) < config.folds:
        raise CorpusError(f"split.folds={config.folds} for {len(set(groups.tolist()))} groups; expected fewer folds")
    folds = _divide(items, groups, np.arange(len(items.ids)), [1 / config.folds] * config.folds, config.seed)
    return [_fold(items, config, groups, folds == k) for k in range(config.folds)]


def _fold(
    items: Items, config: SplitConfig, groups: npt.NDArray[np.int64], test: npt.NDArray[np.bool_]
) -> npt.NDArray[np.object_]:
    assignment = np.where(test, TEST, TRAIN).astype(object)
    _carve_validation(items, config, groups, assignment)
    return assignment


def _leave_one_out(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    """One fold for each target or source, whose articles are its test set, in alphabetical order.

    Targets that stand in one article are held out together. One last fold tests on targets or sources with fewer
    articles than `min_group` and on articles that name none. Case and spaces do not tell two names apart. An article
    that is tied to a test article (near-duplicates, `group_by`) is left out of that fold.
    """
    ties = _ties(items, config)
    numbers = np.arange(len(items.ids))
    return [_held_out_fold(items, config, ties, np.isin(numbers, rows)) for _, rows in _held_out(items, config)]


def _held_out(items: Items, config: SplitConfig) -> list[tuple[str, list[int]]]:
    """What each fold tests on: the names of the targets or sources, and the articles."""
    what = "target" if config.kind is SplitKind.leave_one_target_out else "source"
    named = items.targets if what == "target" else [[source] if source else [] for source in items.sources]
    written: dict[str, str] = {}
    for value in sorted({value for of_article in named for value in of_article}):
        written.setdefault(" ".join(value.casefold().split()), " ".join(value.split()))
    values = [{" ".join(value.casefold().split()) for value in of_article} for of_article in named]
    members: dict[int, list[int]] = defaultdict(list)
    for i, component in enumerate(_components(values).tolist()):
        members[component].append(i)
    large = [rows for rows in members.values() if len(rows) >= config.min_group and values[rows[0]]]
    large.sort(key=lambda rows: min(min(values[i]) for i in rows))
    found = [(", ".join(written[v] for v in sorted({v for i in rows for v in values[i]})), rows) for rows in large]
    rest = sorted(set(range(len(values))) - {i for rows in large for i in rows})
    if rest:
        found.append(("all others", rest))
    if len(found) < 2:
        raise CorpusError(_why_one_fold(what, values, config))
    return found


def _held_out_fold(
    items: Items, config: SplitConfig, ties: Sequence[Collection[Hashable]], test: npt.NDArray[np.bool_]
) -> npt.NDArray[np.object_]:
    tested = {tie for i in np.flatnonzero(test).tolist() for tie in ties[i]}
    apart = [tested.isdisjoint(of_article) for of_article in ties]
    assignment = np.where(test, TEST, np.where(apart, TRAIN, LEFT_OUT)).astype(object)
    # what is not in train ties nothing together there
    groups = _components([ties[i] if part == TRAIN else () for i, part in enumerate(assignment)])
    _carve_validation(items, config, groups, assignment)
    return assignment


def _why_one_fold(what: str, values: Sequence[Collection[str]], config: SplitConfig) -> str:
    distinct = len({value for of_article in values for value in of_article})
    if distinct < 2:
        why = f"the articles name {distinct} {what}{'s' * (distinct != 1)}; choose split=kfold"
    elif len(set(_components(values).tolist())) == 1:
        why = (
            f"all {distinct:,} {what}s hang together through articles that name several; choose split=kfold, or read "
            "each pair of article and target as a row of its own with an id of its own"
        )
    else:
        why = f"no {what} has split.min_group={config.min_group} articles; lower it, or choose split=kfold"
    return f"split {config.kind} cannot be made: {why}"


def _given(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    unassigned = sum(split is None for split in items.given)
    if unassigned:
        raise CorpusError(
            f"split=given, but {unassigned:,} of {len(items.ids):,} articles say no split; "
            "choose split=stratified or give every row a split"
        )
    assignment = np.array(items.given, dtype=object)
    if VALIDATION not in assignment and TRAIN in assignment:
        _carve_validation(items, config, _groups(items, config), assignment)
    return [assignment]


def _temporal(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    """Train on the past, choose on the present, test on the future; a group stands where its newest article does."""
    undated = sum(date is None for date in items.published)
    if undated:
        raise CorpusError(f"split=temporal, but {undated:,} of {len(items.ids):,} articles have no date")
    unsortable = [date for date in items.published if not re.match(r"\d{4}-\d{2}-\d{2}", str(date))]
    if unsortable:
        raise CorpusError(
            f"split=temporal, but {len(unsortable):,} of {len(items.ids):,} dates are not ISO 8601 (YYYY-MM-DD), "
            f"such as {unsortable[0]!r}"
        )
    groups = _groups(items, config)
    newest: dict[int, str] = {}
    name: dict[int, str] = {}
    for group, date, id_ in zip(groups.tolist(), items.published, items.ids, strict=True):
        newest[group] = max(newest.get(group, ""), str(date))
        name[group] = min(name.get(group, id_), id_)
    order = sorted(range(len(items.ids)), key=lambda i: (newest[g := int(groups[i])], _noise(config.seed, name[g])))
    n = len(order)
    train_end = round(n * (1 - config.test) * (1 - config.validation))
    validation_end = round(n * (1 - config.test))
    assignment = np.full(n, TEST, dtype=object)
    position: dict[int, int] = {}
    for rank, i in enumerate(order):
        start = position.setdefault(int(groups[i]), rank)  # the whole group goes where its first row fell
        assignment[i] = TRAIN if start < train_end else VALIDATION if start < validation_end else TEST
    return [assignment]


def _strata(items: Items) -> list[str]:
    """One class for each article, for scikit-learn's stratification: the label that its row names first."""
    if None in items.first_labels:
        raise ConfigurationError("row_holdout and row_kfold stratify by one label; an article has none")
    return [str(label) for label in items.first_labels]


def _row_holdout(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    from sklearn.model_selection import train_test_split

    codes = _strata(items)
    try:
        _, test = train_test_split(
            np.arange(len(codes)), test_size=config.test, stratify=codes, random_state=config.seed
        )
    except ValueError as error:
        raise CorpusError(f"split row_holdout cannot be made: {error}") from error
    return [_fold(items, config, _groups(items, config), np.isin(np.arange(len(codes)), test))]


def _row_kfold(items: Items, config: SplitConfig) -> list[npt.NDArray[np.object_]]:
    from sklearn.model_selection import StratifiedKFold

    codes, groups = _strata(items), _groups(items, config)
    splitter = StratifiedKFold(n_splits=config.folds, shuffle=True, random_state=config.seed)
    try:
        folds = list(splitter.split(codes, codes))
    except ValueError as error:
        raise CorpusError(f"split row_kfold cannot be made: {error}") from error
    return [_fold(items, config, groups, np.isin(np.arange(len(codes)), test)) for _, test in folds]
