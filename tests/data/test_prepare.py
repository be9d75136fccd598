"""From a corpus to cleaned, split, labelled examples."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import CleaningConfig, CorpusConfig, LabelsConfig, SplitConfig, SplitKind
from data.corpus import SEVERAL, Corpus, load_corpus
from data.prepare import CleanCorpus, clean_corpus, encode, fit_cleaner, split_corpus, split_without_test
from slantwise.errors import CorpusError
from slantwise.task import Task

Row = dict[str, Any]


def corpus_of(rows: list[Row], folder: Path, **keys: Any) -> Corpus:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_corpus(CorpusConfig(path=str(path), **keys))


def clean(corpus: Corpus, task: str) -> CleanCorpus:
    return clean_corpus(corpus, corpus.task(task), fit_cleaner(corpus, CleaningConfig()))


def reprinted(rows: list[Row], seed: int) -> list[Row]:
    """The rows and, of a third of them, a second printing: another title and outlet, a sentence more, other case."""
    draw = random.Random(seed)
    copies = []
    for row in draw.sample(rows, len(rows) // 3):
        text = draw.choice([row["text"], row["text"].upper(), row["text"] + " More follows in the evening edition."])
        copies.append(
            {**row, "id": f"{row['id']}-again", "title": "Printed again", "source": "wire.example", "text": text}
        )
    return rows + copies


@pytest.mark.parametrize("kind", [SplitKind.stratified, SplitKind.temporal, SplitKind.kfold])
@pytest.mark.parametrize("task", ["topic", "framing", "stance"])
def test_second_printings_never_straddle_two_splits(
    tmp_path: Path, tiny_rows: list[Row], kind: SplitKind, task: str
) -> None:
    cleaned = clean(corpus_of(reprinted(tiny_rows, 1), tmp_path), task)
    splits, _ = split_corpus(cleaned, SplitConfig(kind=kind, folds=3))
    for split in splits:
        place = dict(zip((row["id"] for row in cleaned.rows), split.assignment, strict=True))
        assert [id_ for id_ in place if place[id_] != place[id_.removesuffix("-again")]] == []
        assert split.straddling == 0


def test_duplicates_are_found_by_the_body_whatever_the_title(tmp_path: Path, tiny_rows: list[Row]) -> None:
    first, second = tiny_rows[0], {**tiny_rows[0], "id": "again", "title": " ".join(f"word{i}" for i in range(60))}
    _, clusters = split_corpus(clean(corpus_of([first, second, *tiny_rows[1:]], tmp_path), "topic"), SplitConfig())
    assert clusters[0] == clusters[1]


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([SplitKind.stratified, SplitKind.temporal, SplitKind.kfold]))
def test_the_order_of_the_rows_changes_neither_texts_nor_splits(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: SplitKind
) -> None:
    from_sample = Path(__file__).parents[2] / "data" / "sample" / "articles.jsonl"
    lines = from_sample.read_text(encoding="utf-8").splitlines()[:90]
    rows = [json.loads(line) for line in lines]
    results = []
    for order in (rows, random.Random(seed).sample(rows, len(rows))):
        cleaned = clean(corpus_of(order, tmp_path_factory.mktemp("corpus")), "topic")
        ids = [row["id"] for row in cleaned.rows]
        splits, _ = split_corpus(cleaned, SplitConfig(kind=kind, folds=3))
        results.append((
            dict(zip(ids, cleaned.texts, strict=True)),
            [dict(zip(ids, split.assignment, strict=True)) for split in splits],
        ))  # fmt: skip
    assert results[0] == results[1]


def test_only_articles_that_are_labelled_for_the_task_are_kept(tmp_path: Path, tiny_rows: list[Row]) -> None:
    for row in tiny_rows[::2]:
        row["topic"] = None
    corpus = corpus_of(tiny_rows, tmp_path)
    assert [row["id"] for row in clean(corpus, "topic").rows] == [row["id"] for row in tiny_rows[1::2]]
    assert len(clean(corpus, "stance")) == len(tiny_rows)


def test_the_classifier_sees_title_and_body_and_duplicates_are_found_by_the_body(
    tiny_corpus: Corpus, tiny_rows: list[Row]
) -> None:
    cleaned, row = clean(tiny_corpus, "topic"), tiny_rows[5]
    assert cleaned.rows[5]["id"] == row["id"]
    assert cleaned.texts[5] == f"{row['title']}\n\n{row['text']}"
    assert cleaned.bodies[5] == row["text"]


def test_recurring_lines_of_an_outlet_are_removed_and_counted(tmp_path: Path, tiny_rows: list[Row]) -> None:
    for row in tiny_rows:
        row["text"] += f"\n\nAll rights with {row['source']} since 1901"
    cleaned = clean(corpus_of(tiny_rows, tmp_path), "topic")
    assert not any("since 1901" in text for text in cleaned.texts)
    assert cleaned.furniture_lines == len(tiny_rows)


def test_topic_examples_are_aligned(tiny_corpus: Corpus, tiny_rows: list[Row]) -> None:
    examples = clean(tiny_corpus, "topic").examples([4, 2])
    assert examples.ids == examples.groups == ["a004", "a002"]
    assert [examples.task.labels[i] for i in examples.gold] == [tiny_rows[4]["topic"], tiny_rows[2]["topic"]]
    assert [e.target for e in examples.examples] == [None, None]
    assert examples.sources == [tiny_rows[4]["source"], tiny_rows[2]["source"]]


def test_framing_gold_is_one_column_a_label(tiny_corpus: Corpus, tiny_rows: list[Row]) -> None:
    examples = clean(tiny_corpus, "framing").examples(range(12))
    assert examples.gold.dtype == bool
    assert examples.gold.shape == (12, len(examples.task.labels))
    for gold, row in zip(examples.gold, tiny_rows, strict=False):
        assert [label for label, on in zip(examples.task.labels, gold, strict=True) if on] == row["frames"]


def test_a_stance_article_is_one_example_a_target(tmp_path: Path) -> None:
    text = "Ann met Bo in the old harbour town and praised the plan. Later Bo rejected it in front of Ann."
    stances = [
        {"target": "Bo", "stance": "against", "start": text.rindex("Bo"), "end": text.rindex("Bo") + 2},
        {"target": "Ann", "stance": "favor"},
        {"target": "the bridge", "stance": "neutral", "start": 5, "end": 15},
    ]
    row = {"id": "1", "text": text, "title": "Harbour", "source": "x", "stances": stances}
    examples = clean(corpus_of([row], tmp_path), "stance").examples([0])
    assert examples.ids == ["1", "1", "1"]
    assert [e.target for e in examples.examples] == ["Bo", "Ann", "the bridge"]
    first, second, third = examples.examples
    assert first.span is not None
    start, end = first.span
    assert (first.text[start:end], start) == ("Bo", first.text.rindex("Bo"))  # the marked one, moved by the title
    assert (second.span, third.span) == (None, None)  # no mark; a mark that stands nowhere in the text
    assert [examples.task.labels[i] for i in examples.gold] == ["against", "favor", "neutral"]


def test_groups_are_the_group_column_or_the_id(tmp_path: Path, tiny_rows: list[Row]) -> None:
    tiny_rows[0]["group"] = tiny_rows[1]["group"] = "story"
    examples = clean(corpus_of(tiny_rows, tmp_path), "topic").examples([0, 1, 2])
    assert examples.groups == ["story", "story", "a002"]


def test_examples_are_selected_and_joined_in_order(tiny_corpus: Corpus) -> None:
    every = clean(tiny_corpus, "framing").examples(range(10))
    joined = every.select([3, 1]) + every.select([7])
    assert list(joined.ids) == ["a003", "a001", "a007"]
    assert np.array_equal(joined.gold, every.gold[[3, 1, 7]])
    assert len(joined) == 3


def test_shares_reach_the_examples_and_survive_selecting_and_joining(tmp_path: Path) -> None:
    votes = [["art", "art", "sport"], ["sport", "sport"], ["art", "sport", "art", "art"]]
    rows = [{"id": f"a{i}", "text": f"text {i}", "votes": given} for i, given in enumerate(votes)]
    topic = LabelsConfig(annotators=["votes"], labels=["art", "sport"], soft=True)
    examples = clean(corpus_of(rows, tmp_path, topic=topic), "topic").examples([2, 0, 1])
    wanted = np.array([[3 / 4, 1 / 4], [2 / 3, 1 / 3], [0, 1]], dtype=np.float32)
    assert examples.gold.tolist() == [0, 0, 1]
    for found, of in [
        (examples, [0, 1, 2]),
        (examples.select([2, 0]), [2, 0]),
        (examples.select([1]) + examples.select([2, 0]), [1, 2, 0]),
        (examples.select([1]) + replace(examples.select([2]), shares=None), [1, 2]),  # the same as its one-hot label
        (examples.with_labels_of([1, 2, 0]), [1, 2, 0]),
    ]:
        assert found.shares is not None
        np.testing.assert_allclose(found.shares, wanted[of])
        assert found.gold.tolist() == [wanted[i].argmax() for i in of]
    plain = replace(topic, soft=False)
    assert clean(corpus_of(rows, tmp_path, topic=plain), "topic").examples([0]).shares is None


def test_each_stance_has_its_shares(tmp_path: Path) -> None:
    entries = [{"target": "Ann", "votes": ["favor", "neutral", "favor"]}, {"target": "Bo", "votes": ["against"]}]
    rows = [{"id": "1", "text": "Ann met Bo", "e": entries}, {"id": "2", "text": "Ann left", "e": entries[:1]}]
    stance = LabelsConfig(nested="e", target="target", annotators=["votes"], soft=True)
    shares = clean(corpus_of(rows, tmp_path, stance=stance), "stance").examples([1, 0]).shares
    np.testing.assert_allclose(shares, [[2 / 3, 0, 1 / 3], [2 / 3, 0, 1 / 3], [0, 1, 0]], rtol=1e-6)


def test_units_of_a_split_reach_the_examples(tiny_corpus: Corpus) -> None:
    cleaned = clean(tiny_corpus, "topic")
    split = split_corpus(cleaned, SplitConfig())[0][0]
    examples = cleaned.examples([3, 1], split.units)
    assert list(examples.units) == [str(split.units[3]), str(split.units[1])]
    assert list((examples.select([1]) + examples).units) == [examples.units[1], *examples.units]
    assert list(cleaned.examples([3, 1]).units) == list(examples.groups)


def test_encode_follows_the_order_of_the_tasks_labels() -> None:
    assert encode([["b"], ["a"]], Task("topic", "multiclass", ("b", "a"))).tolist() == [0, 1]
    assert encode([["b", "c"], []], Task("framing", "multilabel", ("c", "a", "b"))).tolist() == [
        [True, False, True],
        [False, False, False],
    ]


def test_without_test_every_article_is_for_training_or_validation(tiny_corpus: Corpus) -> None:
    cleaned = clean(tiny_corpus, "stance")
    config = SplitConfig(kind=SplitKind.kfold, folds=3)
    _, clusters = split_corpus(cleaned, config)
    split = split_without_test(cleaned, clusters, config)
    assert set(split.assignment) == {"train", "validation"}
    assert len(split.assignment) == len(cleaned)


def test_a_given_split_reaches_the_examples(tmp_path: Path, tiny_rows: list[Row]) -> None:
    for number, row in enumerate(tiny_rows):
        row["split"] = "test" if number % 4 == 0 else "train"
    cleaned = clean(corpus_of(tiny_rows, tmp_path), "topic")
    (split,), _ = split_corpus(cleaned, SplitConfig(kind=SplitKind.given))
    assert split.rows("test") == list(range(0, len(tiny_rows), 4))
    assert 0 < len(split.rows("validation")) < 20


# --- Further columns --------------------------------------------------------------------------------------------------


def with_sections(rows: list[Row]) -> list[Row]:
    return [{**row, "section": [" home ", "world", "", None][i % 4], "desk": {"page": i}} for i, row in enumerate(rows)]


def test_further_columns_reach_the_examples_and_leave_the_fingerprint(tmp_path: Path, tiny_rows: list[Row]) -> None:
    rows = with_sections(tiny_rows)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = CorpusConfig(path=str(path))
    corpus = load_corpus(config, ["section", "desk.page"])
    assert corpus.fingerprint == load_corpus(config).fingerprint
    examples = clean(corpus, "stance").examples(range(len(rows)))
    number = {row["id"]: i for i, row in enumerate(rows)}
    of_rows = [number[id_] for id_ in examples.ids]
    assert examples.columns["section"] == [["home", "world", None, None][i % 4] for i in of_rows]
    assert examples.columns["desk.page"] == [str(i) for i in of_rows]
    assert set(clean(load_corpus(config), "stance").examples([0]).columns) == {"language", "published"}


def test_a_further_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, tiny_rows: list[Row]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in with_sections(tiny_rows)), encoding="utf-8")
    message = r"no column 'sektion' \(evaluation.slices sektion\); it has .*'section'"
    with pytest.raises(CorpusError, match=message):
        load_corpus(CorpusConfig(path=str(path)), ["sektion"])


def test_rows_of_one_article_that_differ_in_a_further_column_say_so(tmp_path: Path) -> None:
    rows = [
        {"id": id_, "text": f"{id_} says no to the plan", "about": about, "says": "against", "section": section}
        for id_, about, section in [("a", "plan", "home"), ("a", "mayor", "world"), ("b", "plan", "home")]
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stance = LabelsConfig(columns=["says"], target="about")
    corpus = load_corpus(CorpusConfig(path=str(path), merge_rows=True, stance=stance), ["section"])
    assert corpus.table["column.section"].to_pylist() == [SEVERAL, "home"]
