"""Batch scoring: one output row for each input row, in order, whatever the input and output look like."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slantwise.article import Article
from slantwise.errors import ScoringError
from slantwise.model import Model
from slantwise.rows import BadRow, Layout, Row, read_rows
from slantwise.scoring import (
    CHUNK,
    PEEKED,
    Counts,
    ScoreColumns,
    ScoreConfig,
    check_output,
    peek,
    quarantine_path,
    score,
    scores_schema,
)  # fmt: skip

Rows = list[dict[str, Any]]
ARTICLES: Rows = [
    {"id": "a", "text": "The council praised the Harbour Plan.\nTalk was of nurse, “vaccine” and clinic.",
     "title": "Nurses, at last", "source": "north.example", "targets": ["Harbour Plan", "nurses"]},
    {"id": "b", "text": "The council condemned the Tram Line. Talk was of frost; the cost is high.", "title": None,
     "source": None, "targets": []},
    {"id": "c", "text": "Goal, goal", "title": "", "source": "north.example", "targets": ["Tram Line"]},
]  # fmt: skip


@pytest.fixture
def expected(model: Model) -> Rows:
    """What the scores of ARTICLES should be: the model's own predictions, rounded as they are written."""
    articles = [Article(r["id"], r["text"], r["title"] or None, source=r["source"]) for r in ARTICLES]
    rows = model.predict(articles, [r["targets"] for r in ARTICLES])
    return [{"id": row.pop("id"), "error": None, **rounded(row)} for row in rows]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


def write_input(path: Path, rows: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read_output(path: Path) -> Rows:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        rows: Rows = pq.read_table(path).to_pylist()
        return [rounded(row) for row in rows]
    with path.open(encoding="utf-8", newline="") as file:
        plain = list(csv.DictReader(file))
    return [{k: (v or None) if k in ("id", "error") else json.loads(v or "null") for k, v in r.items()} for r in plain]


def config(**changes: Any) -> ScoreConfig:
    return ScoreConfig(**{"model": "", "input": "", "output": "", **changes})


def scored(model: Model, path: Path, output: Path, **changes: Any) -> Counts:
    return score(model, read_rows(Layout(str(path)), Path()), output, config(**changes))


def in_memory(*values: dict[str, Any]) -> Iterator[Row | BadRow]:
    yield from (Row("memory.jsonl", number, value) for number, value in enumerate(values, start=1))


@pytest.mark.parametrize("ending_in", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("ending_out", [".jsonl", ".csv", ".parquet"])
def test_every_input_gives_the_model_s_rows_in_every_output(
    model: Model, expected: Rows, tmp_path: Path, ending_in: str, ending_out: str
) -> None:
    path, output = write_input(tmp_path / f"in{ending_in}", ARTICLES), tmp_path / f"out{ending_out}"
    assert scored(model, path, output) == Counts(rows=3, rejected=0)
    assert read_output(output) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, output.name])


@pytest.mark.parametrize("folder", ["", "class"])
def test_a_folder_of_text_files_is_scored_by_path(model: Model, tmp_path: Path, folder: str) -> None:
    source = tmp_path / "pages" / folder
    source.mkdir(parents=True)
    for article in ARTICLES:
        (source / f"{article['id']}.txt").write_text(article["text"], encoding="utf-8")
    output = tmp_path / "out.jsonl"
    scored(model, tmp_path / "pages", output, targets=["Tram Line"])
    rows = read_output(output)
    assert [row["id"] for row in rows] == [(Path(folder) / f"{a['id']}.txt").as_posix() for a in ARTICLES]
    alone = model.predict([Article("x", ARTICLES[1]["text"])], [["Tram Line"]])[0]
    assert rows[1]["stance"] == rounded(alone["stance"])


def test_parquet_has_the_schema_of_the_tasks(model: Model, tmp_path: Path) -> None:
    scored(model, write_input(tmp_path / "in.jsonl", ARTICLES), tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet") == scores_schema(model.tasks)


# --- bad rows ---

BAD: Rows = [
    {"id": "a", "text": "Goal, goal"},
    {"id": "b"},
    {"id": "c", "text": None},
    {"id": "d", "text": "  \n"},
    {"id": "e", "text": 7},
    {"id": "f", "text": "Frost", "targets": 3},
    {"id": "g", "text": "Frost", "targets": ["Tram Line", ""]},
    {"id": "h", "text": "Frost"},
]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_bad_rows_keep_their_place_with_an_error_and_null_predictions(
    model: Model, tmp_path: Path, ending: str
) -> None:
    path, output = write_input(tmp_path / "in.jsonl", BAD), tmp_path / f"out{ending}"
    with path.open("a") as file:
        file.write("{broken\n[1, 2]\n")
    assert scored(model, path, output) == Counts(rows=10, rejected=8)
    rows = read_output(output)
    assert [row["id"] or None for row in rows] == [*"abcdefgh", None, None]
    for row in rows:
        good = row["id"] in ("a", "h")
        assert (row["error"] is None) == good
        assert [row[task.name] is not None for task in model.tasks] == [good] * 3


def test_the_quarantine_lists_bad_rows_with_line_field_value_and_reason(model: Model, tmp_path: Path) -> None:
    path, output = write_input(tmp_path / "in.jsonl", BAD), tmp_path / "out.jsonl"
    scored(model, path, output)
    listed = [json.loads(line) for line in quarantine_path(output).read_text(encoding="utf-8").splitlines()]
    assert {bad["file"] for bad in listed} == {str(path)}
    assert [(bad["line"], bad["field"], bad["value"], bad["reason"]) for bad in listed] == [
        (2, "text", None, "the text is missing"),
        (3, "text", None, "the text is missing"),
        (4, "text", r"'  \n'", "the text is empty"),
        (5, "text", "7", "the text is no text"),
        (6, "targets", "3", "targets is no list"),
        (7, "targets", "['Tram Line', '']", "targets holds something that is no name"),
    ]
    errors = [row["error"] for row in read_output(output) if row["error"]]
    assert errors == [bad["reason"] for bad in listed]


def test_without_bad_rows_there_is_no_quarantine(model: Model, tmp_path: Path) -> None:
    scored(model, write_input(tmp_path / "in.jsonl", ARTICLES), tmp_path / "out.jsonl")
    assert not quarantine_path(tmp_path / "out.jsonl").exists()


def test_bad_rows_do_not_shift_the_others(model: Model, expected: Rows, tmp_path: Path) -> None:
    rows = [ARTICLES[0], {"id": "x"}, ARTICLES[1], {"id": "y"}, ARTICLES[2]]
    score(model, in_memory(*rows), tmp_path / "out.jsonl", config())
    assert [row for row in read_output(tmp_path / "out.jsonl") if row["id"] in "abc"] == expected


# --- targets and ids ---


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"targets": ["Tram Line", "Russia"]}, ["Tram Line", "Russia"]),
        ({"targets": [{"target": "Tram Line"}, {"target": "Russia", "stance": "favor"}]}, ["Tram Line", "Russia"]),
        ({"targets": "Tram Line | Russia|"}, ["Tram Line", "Russia"]),
        ({"stances": [{"target": "Russia", "stance": None}]}, ["Russia"]),
        ({"targets": []}, []),
        ({"targets": None}, ["Harbour Plan"]),
        ({"targets": ""}, ["Harbour Plan"]),
        ({}, ["Harbour Plan"]),
    ],
)
def test_targets_come_as_a_list_a_string_or_from_the_configuration(
    model: Model, tmp_path: Path, values: dict[str, Any], names: list[str]
) -> None:
    rows = in_memory({"id": "a", "text": "The council met.", **values})
    score(model, rows, tmp_path / "out.jsonl", config(targets=["Harbour Plan"]))
    assert [entry["target"] for entry in read_output(tmp_path / "out.jsonl")[0]["stance"]] == names


def test_other_columns_can_be_named(model: Model, tmp_path: Path) -> None:
    columns = ScoreColumns(id="key", text="body", title="head", source="outlet", targets="about")
    row = {"key": 7, "body": "Goal, goal", "head": "Storm", "outlet": "north.example", "about": "A;B", "text": "Frost"}
    score(model, in_memory(row), tmp_path / "out.jsonl", config(columns=columns, target_separator=";"))
    article = Article("7", "Goal, goal", "Storm", source="north.example")
    row = read_output(tmp_path / "out.jsonl")[0]
    assert row == {"error": None, **rounded(model.predict([article], [["A", "B"]])[0])}


@pytest.mark.parametrize("column", [None, "id"])
def test_rows_without_an_id_are_numbered(model: Model, tmp_path: Path, column: str | None) -> None:
    rows = [{"text": "Frost"}, {"text": "Goal"}, {"text": ""}]
    score(model, in_memory(*rows), tmp_path / "out.jsonl", config(columns=ScoreColumns(id=column)))
    assert [row["id"] for row in read_output(tmp_path / "out.jsonl")] == ["1", "2", "3"]


# --- the output ---


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("out.txt", lambda path: None, "expected a name that ends in .jsonl, .parquet, .csv"),
        ("out", lambda path: None, "expected a name that ends in"),
        ("out.jsonl", lambda path: path.touch(), "out.jsonl exists"),
        ("out.csv", lambda path: path.mkdir(), "out.csv exists"),
        ("out.jsonl", lambda path: quarantine_path(path).touch(), "out.jsonl.quarantine.jsonl exists"),
        ("file/out.jsonl", lambda path: path.parent.touch(), "file is not a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(ScoringError, match=message) as caught:
        check_output(tmp_path / name)
    assert f"output={tmp_path / name}" in str(caught.value)


def test_the_output_s_folder_is_made(model: Model, tmp_path: Path) -> None:
    score(model, in_memory({"text": "Frost"}), tmp_path / "new" / "folder" / "out.jsonl", config())
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_scoring_leaves_no_output(
    model: Model, tmp_path: Path, ending: str, interruption: type[BaseException]
) -> None:
    def rows() -> Iterator[Row | BadRow]:
        yield from in_memory(*({"text": "Frost"} for _ in range(CHUNK)), {"id": "bad"})
        assert list(tmp_path.iterdir())  # something had been written
        raise interruption

    with pytest.raises(interruption):
        score(model, rows(), tmp_path / f"out{ending}", config())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ScoringError, match=r"out\.jsonl cannot be written: No space left on device"):
        score(model, in_memory({"text": "Frost"}), tmp_path / "out.jsonl", config())
    assert list(tmp_path.iterdir()) == []


# --- memory ---


def test_rows_are_pulled_a_chunk_at_a_time(model: Model, tmp_path: Path) -> None:
    pulled, furthest = 0, 0

    def rows() -> Iterator[Row | BadRow]:
        nonlocal pulled
        for number in range(3 * CHUNK + 5):
            pulled += 1
            yield Row("memory", number, {"text": "Frost"})

    def report(counts: Counts) -> None:
        nonlocal furthest
        furthest = max(furthest, pulled - counts.rows)

    counts = score(model, peek(rows(), ScoreColumns()), tmp_path / "out.jsonl", config(), report)
    assert counts.rows == 3 * CHUNK + 5
    assert furthest == 0


def test_the_look_at_the_first_rows_reads_no_further() -> None:
    pulled = 0

    def rows() -> Iterator[Row | BadRow]:
        nonlocal pulled
        for number in range(10 * PEEKED):
            pulled += 1
            yield Row("memory", number, {"text": str(number)})

    peeked = peek(rows(), ScoreColumns())
    assert pulled == PEEKED
    assert [row.values["text"] for row in peeked if isinstance(row, Row)] == [str(n) for n in range(10 * PEEKED)]


def test_a_text_column_that_no_row_has_is_an_error() -> None:
    with pytest.raises(ScoringError, match=r"memory\.jsonl has no column 'text'; it has 'id', 'body'; .*columns\.text"):
        peek(in_memory({"id": "a"}, {"id": "b", "body": "Frost"}), ScoreColumns())


def test_a_first_row_without_text_is_but_a_bad_row() -> None:
    assert len(list(peek(in_memory({"id": "a"}, {"id": "b", "text": "Frost"}), ScoreColumns()))) == 2


def test_an_input_without_rows_is_an_error() -> None:
    with pytest.raises(ScoringError, match="no rows"):
        peek(iter([]), ScoreColumns())
