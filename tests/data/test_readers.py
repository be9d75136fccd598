"""Saved data sets of the `datasets` library become rows; nothing here touches the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from data.config import CorpusConfig, FileConfig, LabelsConfig
from data.corpus import load_corpus
from data.readers import read_corpus_rows
from slantwise.errors import CorpusError
from slantwise.rows import Format, Row


def make(ids: list[str], codes: list[Any], label: Any = None) -> Dataset:
    label = label or ClassLabel(names=["news", "sport"])
    features = Features({"id": Value("string"), "text": Value("string"), "label": label})
    return Dataset.from_dict({"id": ids, "text": [f"text of {i}" for i in ids], "label": codes}, features=features)


def rows_of(path: str, root: Path, **keys: Any) -> list[Row]:
    rows = list(read_corpus_rows(FileConfig(path=path, format=Format.dataset, **keys), root))
    assert all(isinstance(row, Row) for row in rows)
    return [row for row in rows if isinstance(row, Row)]


def test_a_saved_dataset_gives_class_names(tmp_path: Path) -> None:
    make(["a", "b"], [1, 0]).save_to_disk(tmp_path / "saved")
    rows = rows_of("saved", tmp_path)
    assert [(row.line, row.values["label"], row.values["split"]) for row in rows] == [
        (1, "sport", None),
        (2, "news", None),
    ]


def test_lists_of_classes_give_lists_of_names(tmp_path: Path) -> None:
    make(["a", "b"], [[1, 0], []], List(ClassLabel(names=["news", "sport"]))).save_to_disk(tmp_path / "saved")
    assert [row.values["label"] for row in rows_of("saved", tmp_path)] == [["sport", "news"], []]


def test_hidden_and_missing_classes_stay_what_they_are(tmp_path: Path) -> None:
    make(["a", "b"], [-1, None]).save_to_disk(tmp_path / "saved")
    assert [row.values["label"] for row in rows_of("saved", tmp_path)] == [-1, None]


def test_a_saved_dict_gives_its_splits(tmp_path: Path) -> None:
    DatasetDict(train=make(["a", "b"], [1, 0]), test=make(["c"], [1])).save_to_disk(tmp_path / "saved")
    rows = rows_of("saved", tmp_path)
    assert [(row.file, row.line, row.values["split"]) for row in rows] == [
        ("saved[train]", 1, "train"),
        ("saved[train]", 2, "train"),
        ("saved[test]", 1, "test"),
    ]
    assert [row.values["id"] for row in rows_of("saved", tmp_path, dataset_split="test")] == ["c"]


def test_a_corpus_of_a_saved_dict_has_labels_and_splits(tmp_path: Path) -> None:
    DatasetDict(train=make(["a", "b"], [1, 0]), validation=make(["c"], [1])).save_to_disk(tmp_path / "saved")
    file = FileConfig(path="saved", format=Format.dataset)
    topic = LabelsConfig(columns=["label"], labels=["news", "sport"])
    table = load_corpus(CorpusConfig(root=str(tmp_path), files=[file], topic=topic)).table
    assert table["topic"].to_pylist() == [["sport"], ["news"], ["sport"]]
    assert table["split"].to_pylist() == ["train", "train", "validation"]


def test_a_split_that_the_data_set_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    DatasetDict(train=make(["a"], [1])).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['train'\]"):
        rows_of("saved", tmp_path, dataset_split="dev")


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be loaded"):
        rows_of(".", tmp_path)


def test_a_name_is_asked_of_the_hub_with_subset_and_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def load_dataset(name: str, subset: str | None, *, revision: str | None) -> DatasetDict:
        asked.append((name, subset, revision))
        return DatasetDict(train=make(["a"], [0]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = rows_of("someone/news", tmp_path, subset="en", revision="abc")
    assert asked == [("someone/news", "en", "abc")]
    assert [(row.file, row.values["label"]) for row in rows] == [("someone/news[train]", "news")]


def test_a_hub_that_is_away_is_an_error_of_the_corpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_dataset(*_: Any, **__: Any) -> DatasetDict:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match="'someone/news' cannot be loaded: no route to the hub"):
        rows_of("someone/news", tmp_path)
