"""Splits: what must stay together stays together, whatever the seed, the sizes and the order of the rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.config import SplitConfig, SplitKind
from data.splitting import Items, Split, make_splits, without_test
from slantwise.errors import ConfigurationError, CorpusError

KINDS = [SplitKind.stratified, SplitKind.temporal, SplitKind.kfold]
HELD_OUT = [SplitKind.leave_one_target_out, SplitKind.leave_one_source_out]
SPLITS = {"train", "validation", "test"}


def items_of(n: int, **columns: Any) -> Items:
    """n articles, each a cluster of its own with label i % 2, one a day; `columns` replace what they name."""
    plain = Items(
        ids=[f"a{i:04}" for i in range(n)],
        clusters=np.arange(n),
        labels=np.eye(2)[np.arange(n) % 2],
        first_labels=[("x", "y")[i % 2] for i in range(n)],
        sources=[None] * n,
        targets=[[] for _ in range(n)],
        groups=[None] * n,
        published=[f"{2000 + i // 336}-{1 + i // 28 % 12:02}-{1 + i % 28:02}" for i in range(n)],
        given=[None] * n,
    )
    return replace(plain, **columns)


def reordered(items: Items, order: Sequence[int]) -> Items:
    def pick(values: Any) -> Any:
        return values[np.array(order)] if isinstance(values, np.ndarray) else [values[i] for i in order]

    return Items(**{name: pick(values) for name, values in vars(items).items()})


def by_id(items: Items, split: Split) -> dict[str, str]:
    return dict(zip(items.ids, split.assignment, strict=True))


def sizes(split: Split) -> Counter[str]:
    return Counter(split.assignment)


def straddled(values: Sequence[Sequence[str]], assignment: Sequence[str]) -> set[str]:
    """The values that occur in more than one split."""
    places: dict[str, set[str]] = defaultdict(set)
    for several, split in zip(values, assignment, strict=True):
        for value in several:
            places[value].add(split)
    return {value for value, splits in places.items() if len(splits) > 1}


def singles(values: Sequence[Any]) -> list[list[str]]:
    return [[] if value is None else [str(value)] for value in values]


@dataclass(frozen=True)
class Case:
    items: Items
    config: SplitConfig
    splits: list[Split]


@st.composite
def cases(draw: st.DrawFn, kinds: Sequence[SplitKind] = KINDS) -> Case:
    """Articles with duplicates, outlets, groups and targets, and a split of them that can be made."""
    n = draw(st.integers(24, 90))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    def names(prefix: str, most: int) -> st.SearchStrategy[str | None]:
        return st.none() | st.integers(0, most).map(lambda i: f"{prefix}{i}")

    items = items_of(
        n,
        clusters=np.array(column(st.integers(0, n)), dtype=np.int64),
        labels=np.array(column(st.lists(st.integers(0, 2), min_size=3, max_size=3)), dtype=float),
        sources=column(names("s", n // 2)),
        targets=column(st.lists(st.integers(0, n).map(lambda i: f"t{i}"), max_size=1)),
        groups=column(names("g", n)),
        published=column(st.integers(1, 28).map(lambda day: f"2024-01-{day:02}")),
    )
    config = SplitConfig(
        kind=draw(st.sampled_from(kinds)),
        test=draw(st.sampled_from([0.2, 0.3])),
        validation=draw(st.sampled_from([0.15, 0.3])),
        folds=draw(st.integers(2, 4)),
        group_by=draw(st.sampled_from([[], ["source"], ["group"], ["target"], ["group", "target"]])),
        seed=draw(st.integers(0, 99)),
    )
    try:
        return Case(items, config, make_splits(items, config))
    except CorpusError as error:  # everything hangs together: the error says so, and there is no split to judge
        assume("too few" not in str(error) and "fewer folds" not in str(error))
        raise


@settings(max_examples=75, deadline=None)
@given(cases())
def test_no_duplicate_cluster_and_no_group_straddles_two_splits(case: Case) -> None:
    columns = {
        "source": singles(case.items.sources),
        "group": singles(case.items.groups),
        "target": case.items.targets,
    }
    for split in case.splits:
        assert straddled(singles(case.items.clusters.tolist()), split.assignment) == set()
        assert split.straddling == 0
        for name in case.config.group_by:
            assert straddled(columns[name], split.assignment) == set(), name


@settings(max_examples=25, deadline=None)
@given(cases())
def test_every_article_is_in_exactly_one_split_and_no_split_is_empty(case: Case) -> None:
    for split in case.splits:
        assert len(split.assignment) == len(case.items.ids)
        assert set(split.assignment) == SPLITS
        assert sorted(chain.from_iterable(split.rows(name) for name in SPLITS)) == list(range(len(case.items.ids)))


@settings(max_examples=25, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(case: Case, random: Any) -> None:
    order = random.sample(range(len(case.items.ids)), len(case.items.ids))
    shuffled = reordered(case.items, order)
    again = make_splits(shuffled, case.config)
    assert [by_id(shuffled, split) for split in again] == [by_id(case.items, split) for split in case.splits]


@settings(max_examples=25, deadline=None)
@given(cases())
def test_the_same_seed_gives_the_same_split(case: Case) -> None:
    assert make_splits(case.items, case.config) == case.splits


@settings(max_examples=25, deadline=None)
@given(cases([SplitKind.kfold]))
def test_the_test_folds_partition_the_articles(case: Case) -> None:
    assert len(case.splits) == case.config.folds
    assert sorted(chain.from_iterable(split.rows("test") for split in case.splits)) == list(range(len(case.items.ids)))


@settings(max_examples=25, deadline=None)
@given(cases([SplitKind.temporal]))
def test_the_newest_of_a_temporal_training_group_is_no_newer_than_that_of_a_test_group(case: Case) -> None:
    (split,) = case.splits
    if not case.config.group_by:
        newest: dict[int, str] = {}
        for cluster, date in zip(case.items.clusters.tolist(), case.items.published, strict=True):
            newest[cluster] = max(newest.get(cluster, ""), str(date))
        ages = {
            name: [newest[int(case.items.clusters[i])] for i in split.rows(name)]
            for name in ("train", "validation", "test")
        }
        assert max(ages["train"]) <= min(ages["validation"])
        assert max(ages["validation"]) <= min(ages["test"])


@pytest.mark.parametrize("kind", [SplitKind.stratified, SplitKind.kfold, SplitKind.row_holdout, SplitKind.row_kfold])
def test_another_seed_gives_another_split(kind: SplitKind) -> None:
    items = items_of(60)
    splits = [make_splits(items, SplitConfig(kind=kind, seed=seed)) for seed in (1, 2)]
    assert splits[0] != splits[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.15), (0.1, 0.5), (0.5, 0.1)])
def test_shares_are_kept(kind: SplitKind, test: float, validation: float) -> None:
    items = items_of(400)
    config = SplitConfig(kind=kind, test=test, validation=validation, folds=4)
    for split in make_splits(items, config):
        held_out = 0.25 if kind is SplitKind.kfold else test
        wanted = {"test": 400 * held_out, "validation": 400 * (1 - held_out) * validation}
        for name, count in wanted.items():
            assert sizes(split)[name] == pytest.approx(count, abs=2), name


@pytest.mark.parametrize("kind", [SplitKind.stratified, SplitKind.kfold])
def test_label_shares_are_kept_in_every_split(kind: SplitKind) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 4)) < [0.5, 0.2, 0.1, 0.05]).astype(float)
    items = items_of(600, labels=labels, clusters=np.arange(600) // 2)
    for split in make_splits(items, SplitConfig(kind=kind)):
        for name in SPLITS:
            rows = split.rows(name)
            expected = labels.sum(axis=0) * len(rows) / 600
            assert labels[rows].sum(axis=0) == pytest.approx(expected, abs=4), name


def test_a_rare_label_reaches_every_split() -> None:
    labels = np.array([[1.0, 0.0]] * 190 + [[0.0, 1.0]] * 10)
    (split,) = make_splits(items_of(200, labels=labels), SplitConfig())
    assert [sum(labels[split.rows(name), 1]) for name in ("train", "validation", "test")] == [7, 1, 2]


def test_articles_without_any_label_are_shared_out_too() -> None:
    (split,) = make_splits(items_of(200, labels=np.zeros((200, 2))), SplitConfig())
    assert sizes(split)["test"] == pytest.approx(40, abs=1)


def test_units_join_duplicates_groups_and_what_is_grouped_by() -> None:
    clusters = np.arange(40)
    clusters[1] = 0
    items = items_of(40, clusters=clusters, groups=[None, "g", "g", *[None] * 37])
    (split,) = make_splits(items, SplitConfig())
    assert len(set(split.units[:3])) == 1
    assert len(set(split.units)) == 38
    config = SplitConfig(kind=SplitKind.kfold, folds=2, group_by=["source"])
    by_source = make_splits(items_of(40, sources=[*"abcdefghij"] * 4), config)[0]
    assert len(set(by_source.units)) == 10


def test_a_group_that_two_values_join_is_one() -> None:
    n = 30
    sources = ["s", "s", None, *[None] * (n - 3)]
    groups = [None, "g", "g", *[None] * (n - 3)]
    config = SplitConfig(group_by=["source", "group"])
    for seed in range(10):
        (split,) = make_splits(items_of(n, sources=sources, groups=groups), replace(config, seed=seed))
        assert len({*split.assignment[:3]}) == 1


# one target or source left out


@st.composite
def held_out_cases(draw: st.DrawFn) -> Case:
    """Articles with duplicates, a few outlets and up to two targets each, and a split of them that can be made."""
    n = draw(st.integers(30, 80))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    items = items_of(
        n,
        clusters=np.array(column(st.integers(0, 3 * n)), dtype=np.int64),
        labels=np.array(column(st.lists(st.integers(0, 2), min_size=3, max_size=3)), dtype=float),
        sources=column(st.sampled_from(["Ames Post", "AMES  post", "Bay", "Cove", "Dell", None])),
        targets=column(
            st.sampled_from([[], ["tax"], ["Tax", "port"], ["port"], ["dam"], ["Dam "], ["fair"], ["inn", "ale"]])
        ),
        groups=column(st.none() | st.integers(0, 3 * n).map(lambda i: f"g{i}")),
    )
    config = SplitConfig(
        kind=draw(st.sampled_from(HELD_OUT)),
        validation=draw(st.sampled_from([0.15, 0.3])),
        min_group=draw(st.integers(1, 12)),
        group_by=draw(st.sampled_from([[], ["group"]])),
        seed=draw(st.integers(0, 99)),
    )
    try:
        return Case(items, config, make_splits(items, config))
    except CorpusError as error:
        assume("too few" not in str(error) and "cannot be made" not in str(error))
        raise


def held_out_names(case: Case) -> list[list[str]]:
    """The targets or sources of each article, as they are told apart."""
    by_target = case.config.kind is SplitKind.leave_one_target_out
    named = case.items.targets if by_target else singles(case.items.sources)
    return [[" ".join(name.lower().split()) for name in names] for names in named]


def placed(split: Split, values: Sequence[Sequence[str]]) -> tuple[list[Sequence[str]], list[str]]:
    """Values and split of the articles that are in train, validation or test."""
    rows = [i for i, name in enumerate(split.assignment) if name in SPLITS]
    return [values[i] for i in rows], [split.assignment[i] for i in rows]


@settings(max_examples=75, deadline=None)
@given(held_out_cases())
def test_a_held_out_target_or_source_is_unknown_to_train_and_validation(case: Case) -> None:
    names = held_out_names(case)
    for split in case.splits:
        tested = set(chain.from_iterable(names[i] for i in split.rows("test")))
        known = set(chain.from_iterable(names[i] for part in ("train", "validation") for i in split.rows(part)))
        assert tested & known == set()


@settings(max_examples=75, deadline=None)
@given(held_out_cases())
def test_no_duplicate_and_no_group_straddles_where_one_is_left_out(case: Case) -> None:
    for split in case.splits:
        assert straddled(*placed(split, singles(case.items.clusters.tolist()))) == set()
        assert split.straddling == 0
        if case.config.group_by:
            assert straddled(*placed(split, singles(case.items.groups))) == set()


@settings(max_examples=50, deadline=None)
@given(held_out_cases())
def test_only_what_is_tied_to_a_test_article_is_left_out_of_a_fold(case: Case) -> None:
    for split in case.splits:
        test = split.rows("test")
        clusters = {int(case.items.clusters[i]) for i in test}
        groups = {case.items.groups[i] for i in test if case.config.group_by} - {None}
        for i in split.rows("left out"):
            assert int(case.items.clusters[i]) in clusters or case.items.groups[i] in groups


@settings(max_examples=50, deadline=None)
@given(held_out_cases())
def test_every_article_is_test_in_one_fold_where_one_is_left_out(case: Case) -> None:
    assert sorted(chain.from_iterable(split.rows("test") for split in case.splits)) == list(range(len(case.items.ids)))


@settings(max_examples=50, deadline=None)
@given(held_out_cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_fold_that_leaves_one_out(case: Case, random: Any) -> None:
    order = random.sample(range(len(case.items.ids)), len(case.items.ids))
    shuffled = reordered(case.items, order)
    again = make_splits(shuffled, case.config)
    assert [by_id(shuffled, split) for split in again] == [by_id(case.items, split) for split in case.splits]


def test_each_source_is_the_test_set_of_one_fold_in_alphabetical_order_and_small_ones_of_the_last() -> None:
    sources = ["b"] * 12 + ["a"] * 20 + ["c"] * 3 + [None] * 5
    config = SplitConfig(kind=SplitKind.leave_one_source_out)
    splits = make_splits(items_of(40, sources=sources), config)
    assert [split.rows("test") for split in splits] == [
        list(range(12, 32)), list(range(12)), list(range(32, 40))
    ]  # fmt: skip
    assert [split.name for split in splits] == ["a", "b", "all others"]


def test_targets_of_one_article_are_held_out_together() -> None:
    targets = [["Tax"]] * 9 + [["the  tax"], ["tax", "port"]] + [["port"]] * 10 + [["dam"]] * 15
    splits = make_splits(items_of(36, targets=targets), SplitConfig(kind=SplitKind.leave_one_target_out, min_group=1))
    assert [(split.name, split.rows("test")) for split in splits] == [
        ("dam", list(range(21, 36))), ("port, Tax", [*range(9), *range(10, 21)]), ("the tax", [9]),
    ]  # fmt: skip


def test_a_wire_copy_in_another_source_is_left_out_of_the_fold_and_ties_nothing() -> None:
    clusters = np.arange(40)
    clusters[25] = 3  # the text of an article of "a" in "b"
    items = items_of(40, sources=["a"] * 20 + ["b"] * 20, clusters=clusters)
    first, second = make_splits(items, SplitConfig(kind=SplitKind.leave_one_source_out))
    assert (first.rows("left out"), second.rows("left out")) == ([25], [3])
    assert (first.rows("test"), second.rows("test")) == (list(range(20)), list(range(20, 40)))


def test_validation_holds_other_sources_than_train_where_they_are_grouped() -> None:
    sources = [("a", "b", "c", "d")[i % 4] for i in range(80)]
    clusters = np.arange(80)
    clusters[1] = clusters[2] = clusters[3] = 0  # a wire report in all four
    config = SplitConfig(kind=SplitKind.leave_one_source_out, group_by=["source"], validation=0.3)
    for split in make_splits(items_of(80, sources=sources, clusters=clusters), config):
        assert straddled(*placed(split, singles(sources))) == set()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[]] * 40, "the articles name 0 targets; choose split=kfold"),
        ([["tax"], ["TAX"]] * 20, "the articles name 1 target; choose split=kfold"),
        ([["tax", "port"], ["port", "dam"]] * 20, "all 3 targets hang together through articles that name several"),
        ([[f"t{i}"] for i in range(40)], r"no target has split\.min_group=10 articles"),
    ],
)
def test_targets_that_make_one_fold_are_refused_with_advice(targets: list[list[str]], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        make_splits(items_of(40, targets=targets), SplitConfig(kind=SplitKind.leave_one_target_out))


@pytest.mark.parametrize("kind", list(SplitKind))
def test_a_kind_with_folds_is_one_that_makes_several_splits(kind: SplitKind) -> None:
    columns = {"sources": ["a", "b"] * 30, "targets": [["x"], ["y"]] * 30, "given": ["train", "train", "test"] * 20}
    splits = make_splits(items_of(60, labels=np.ones((60, 1)), **columns), SplitConfig(kind=kind))
    assert kind.has_folds == (len(splits) > 1)


# temporal


def test_temporal_tests_on_the_newest() -> None:
    (split,) = make_splits(items_of(100), SplitConfig(kind=SplitKind.temporal, test=0.2, validation=0.25))
    assert list(split.assignment) == ["train"] * 60 + ["validation"] * 20 + ["test"] * 20


def test_a_temporal_group_stands_where_its_newest_article_does() -> None:
    clusters = np.arange(100)
    clusters[0] = 99  # an old article, printed again on the last day
    (split,) = make_splits(items_of(100, clusters=clusters), SplitConfig(kind=SplitKind.temporal))
    assert split.assignment[0] == split.assignment[99] == "test"


@pytest.mark.parametrize(
    ("date", "message"), [(None, "1 of 100 articles have no date"), ("02/05/2020", "not ISO 8601")]
)
def test_temporal_needs_dates_that_sort(date: str | None, message: str) -> None:
    published = [*items_of(100).published[:-1], date]
    with pytest.raises(CorpusError, match=message):
        make_splits(items_of(100, published=published), SplitConfig(kind=SplitKind.temporal))


# given


def given_items(train: int, validation: int, test: int, **columns: Any) -> Items:
    names = ["train"] * train + ["validation"] * validation + ["test"] * test
    return items_of(len(names), given=names, **columns)


def test_a_given_split_is_kept_as_it_is() -> None:
    items = given_items(6, 2, 4)
    (split,) = make_splits(items, SplitConfig(kind=SplitKind.given))
    assert split.assignment == items.given


def test_a_missing_validation_split_is_carved_out_of_train_alone() -> None:
    items = given_items(100, 0, 40, clusters=np.repeat(np.arange(70), 2))
    (split,) = make_splits(items, SplitConfig(kind=SplitKind.given, validation=0.2))
    assert split.rows("test") == list(range(100, 140))
    assert sizes(split) == {"train": 80, "validation": 20, "test": 40}
    assert split.straddling == 0


def test_straddling_clusters_of_a_given_split_are_counted() -> None:
    clusters = np.array([0, 1, 2, 3, 4, 5, 0, 1, 8, 9, 10, 10])  # 0 in train and validation, 1 in train and validation
    (split,) = make_splits(given_items(6, 2, 4, clusters=clusters), SplitConfig(kind=SplitKind.given))
    assert split.straddling == 2


def test_a_given_split_must_be_given_for_all() -> None:
    items = given_items(6, 2, 4)
    with pytest.raises(CorpusError, match="1 of 12 articles say no split"):
        make_splits(replace(items, given=[*items.given[:-1], None]), SplitConfig(kind=SplitKind.given))


@pytest.mark.parametrize(
    ("counts", "missing"), [((6, 2, 0), "test"), ((0, 2, 4), "train"), ((0, 0, 4), "train and validation")]
)
def test_a_given_split_without_train_or_test_is_refused(counts: tuple[int, int, int], missing: str) -> None:
    with pytest.raises(CorpusError, match=f"leaves no article for {missing} "):
        make_splits(given_items(*counts), SplitConfig(kind=SplitKind.given))


# too little


@pytest.mark.parametrize("kind", list(SplitKind))
def test_no_article_at_all_is_refused(kind: SplitKind) -> None:
    with pytest.raises(CorpusError, match="no labelled articles"):
        make_splits(items_of(0), SplitConfig(kind=kind))


@pytest.mark.parametrize("kind", [kind for kind in SplitKind if kind is not SplitKind.given])
@pytest.mark.parametrize("n", [1, 2])
def test_too_few_articles_are_refused(kind: SplitKind, n: int) -> None:
    with pytest.raises(CorpusError):
        make_splits(items_of(n), SplitConfig(kind=kind))


def test_a_split_that_would_be_empty_gets_the_smallest_group_that_can_be_spared() -> None:
    sources = ["a"] * 20 + ["b"] * 18 + ["c"] * 9
    (split,) = make_splits(items_of(47, sources=sources), SplitConfig(group_by=["source"], test=0.1, validation=0.1))
    assert sizes(split) == {"train": 20, "validation": 18, "test": 9}


@pytest.mark.parametrize("kind", KINDS)
def test_articles_that_all_hang_together_are_refused(kind: SplitKind) -> None:
    with pytest.raises(CorpusError, match=r"too few articles or groups|fewer folds"):
        make_splits(items_of(50, sources=["one"] * 50), SplitConfig(kind=kind, group_by=["source"]))


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"split\.folds=5 for 4 groups"):
        make_splits(items_of(40, clusters=np.arange(40) // 10), SplitConfig(kind=SplitKind.kfold))


# all articles, and published protocols


def test_without_test_leaves_train_and_validation() -> None:
    items = items_of(100, clusters=np.arange(100) // 2)
    split = without_test(items, SplitConfig(validation=0.2))
    assert sizes(split) == {"train": 80, "validation": 20}
    assert split.straddling == 0


def test_without_test_of_one_group_is_refused() -> None:
    with pytest.raises(CorpusError, match="no article for validation"):
        without_test(items_of(10, clusters=np.zeros(10, dtype=np.int64)), SplitConfig())


def test_row_holdout_tests_on_the_rows_of_train_test_split() -> None:
    from sklearn.model_selection import train_test_split

    items = items_of(50, clusters=np.arange(50) // 2)
    (split,) = make_splits(items, SplitConfig(kind=SplitKind.row_holdout, seed=7))
    _, test = train_test_split(np.arange(50), test_size=0.2, stratify=np.arange(50) % 2, random_state=7)
    assert split.rows("test") == sorted(test)
    assert split.straddling > 0


def test_row_kfold_tests_on_the_rows_of_stratified_k_fold() -> None:
    from sklearn.model_selection import StratifiedKFold

    items = items_of(50)
    splits = make_splits(items, SplitConfig(kind=SplitKind.row_kfold, seed=7))
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=7).split(np.zeros(50), np.arange(50) % 2)
    assert [split.rows("test") for split in splits] == [test.tolist() for _, test in folds]


@pytest.mark.parametrize("kind", [SplitKind.row_holdout, SplitKind.row_kfold])
def test_row_protocols_need_one_label_an_article(kind: SplitKind) -> None:
    with pytest.raises(ConfigurationError, match="an article has none"):
        make_splits(items_of(10, first_labels=[None] * 10), SplitConfig(kind=kind))


@pytest.mark.parametrize(
    "keys",
    [
        {"test": 0.0},
        {"test": 1.0},
        {"validation": 1.5},
        {"folds": 1},
        {"min_group": 0},
        {"near_duplicates": 0.0},
        {"group_by": ["outlet"]},
    ],
)
def test_a_split_configuration_that_cannot_work(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"split.{next(iter(keys))}="):
        SplitConfig(**keys)
