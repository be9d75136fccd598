"""Batch scoring: one output row for each input row, in order, whatever the input and output look like."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slantwise import segments
from slantwise.article import Article
from slantwise.errors import ConfigurationError, CorpusError, ScoringError
from slantwise.manifest import lock
from slantwise.model import Model
from slantwise.scores import scores_schema
from slantwise.scoring import Progress, ScoreConfig, check_output, parts_folder, quarantine_path, score, summary_path
from slantwise.workers import cpu_count

Rows = list[dict[str, Any]]
ARTICLES: Rows = [
    {"id": "a", "text": "The council praised the Harbour Plan.\nTalk was of nurse, “vaccine” and clinic.",
     "title": "Nurses, at last", "source": "north.example", "targets": ["Harbour Plan", "nurses"]},
    {"id": "b", "text": "The council condemned the Tram Line. Talk was of frost; the cost is high.", "title": None,
     "source": None, "targets": []},
    {"id": "c", "text": "Goal, goal", "title": "", "source": "north.example", "targets": ["Tram Line"]},
]  # fmt: skip
INPUTS = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".csv.gz", ".parquet"]
OUTPUTS = [".jsonl", ".csv", ".parquet"]


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
    ending = Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path
    if ending == ".jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        lines = [list(rows[0])] + [["|".join(v) if isinstance(v, list) else v for v in row.values()] for row in rows]
        with (path.parent / "plain.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
        content = (path.parent / "plain.csv").read_bytes()
        (path.parent / "plain.csv").unlink()
    if path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as file:
            file.write(content)
    else:
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def read_output(path: Path) -> Rows:
    """The rows of a file or of a folder of parts."""
    if path.is_dir():
        return [row for part in sorted(path.glob("part-*")) for row in read_output(part)]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        rows: Rows = pq.read_table(path, partitioning=None).to_pylist()
        return [rounded(row) for row in rows]
    with path.open(encoding="utf-8", newline="") as file:
        return [from_cells(row) for row in csv.DictReader(file)]


def from_cells(row: dict[str, str]) -> dict[str, Any]:
    """The nested row that a CSV row stands for."""
    found: dict[str, Any] = {"id": row["id"] or None, "error": row["error"] or None}
    found |= dict.fromkeys(("topic", "framing", "stance"))
    for name, cell in row.items():
        *path, last = name.split(".")
        if not cell or name in ("id", "error"):
            continue
        value = cell if last == "label" else json.loads(cell)
        place = found
        for step in path:
            place[step] = place.get(step) or {}
            place = place[step]
        place[last] = value
    return found


def config(**changes: Any) -> ScoreConfig:
    return ScoreConfig(**{"model": "", "input": "", "output": "", **changes})


def scored(model: Model, path: Any, output: Path, **changes: Any) -> dict[str, Any]:
    return score(config(input=str(path), output=str(output), **changes), model)


def score_values(model: Model, folder: Path, *values: dict[str, Any], **changes: Any) -> Rows:
    """The scores of a JSONL file that holds `values`."""
    path = folder / "values.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in values), encoding="utf-8")
    scored(model, path, folder / "values.parquet", **changes)
    return read_output(folder / "values.parquet")


# --- formats ---


@pytest.mark.parametrize("ending_in", INPUTS)
@pytest.mark.parametrize("ending_out", OUTPUTS)
def test_every_input_gives_the_model_s_rows_in_every_output(
    model: Model, expected: Rows, tmp_path: Path, ending_in: str, ending_out: str
) -> None:
    path, output = write_input(tmp_path / f"in{ending_in}", ARTICLES), tmp_path / f"out{ending_out}"
    assert scored(model, path, output)["rows"] == 3
    assert read_output(output) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, output.name, summary_path(output).name])


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_a_folder_of_parts_holds_the_same_rows(model: Model, expected: Rows, tmp_path: Path, form: str) -> None:
    path = write_input(tmp_path / "in.jsonl", ARTICLES * 3)
    scored(model, path, tmp_path / "out", output_format=form, part_rows=2)
    assert sorted(p.name for p in (tmp_path / "out").glob("part-*")) == [f"part-0000{i}.{form}" for i in range(5)]
    assert read_output(tmp_path / "out") == expected * 3


def test_a_folder_of_parquet_parts_is_read_like_any_data_set(model: Model, tmp_path: Path) -> None:
    rows = [*ARTICLES, {"id": "bad", "text": None}]
    scored(model, write_input(tmp_path / "in.jsonl", rows), tmp_path / "out", part_rows=2)
    table = pq.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == ["a", "b", "c", "bad"]
    assert table.schema.equals(scores_schema(model.tasks))


@pytest.mark.parametrize("folder", ["", "class"])
def test_a_folder_of_text_files_is_scored_by_path(model: Model, tmp_path: Path, folder: str) -> None:
    source = tmp_path / "pages" / folder
    source.mkdir(parents=True)
    for article in ARTICLES:
        (source / f"{article['id']}.txt").write_text(article["text"], encoding="utf-8")
    output = tmp_path / "out.jsonl"
    scored(model, tmp_path / "pages", output, targets=["Tram Line"], part_rows=2)
    rows = read_output(output)
    assert [row["id"] for row in rows] == [(Path(folder) / f"{a['id']}.txt").as_posix() for a in ARTICLES]
    alone = model.predict([Article("x", ARTICLES[1]["text"])], [["Tram Line"]])[0]
    assert rows[1]["stance"] == rounded(alone["stance"])


@pytest.mark.parametrize("name", ["parts", "parts/*.jsonl*", "deep"])
def test_a_folder_or_glob_of_data_files_is_scored_in_order_of_their_names(
    model: Model, expected: Rows, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / ("deep/day=1" if name == "deep" else "parts")
    folder.mkdir(parents=True)
    write_input(folder / "part-1.jsonl.gz", ARTICLES[1:2])
    write_input(folder / "part-0.jsonl", ARTICLES[:1])
    write_input(folder / "part-2.jsonl", ARTICLES[2:])
    (folder / "_SUCCESS").touch()
    (folder / ".part-3.jsonl").write_text("{half a li")
    scored(model, tmp_path / name, tmp_path / "out.jsonl")
    assert read_output(tmp_path / "out.jsonl") == expected


def test_a_folder_of_texts_and_data_files_is_ambiguous(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_input(tmp_path / "in" / "a.jsonl", ARTICLES)
    (tmp_path / "in" / "a.txt").write_text("Goal")
    with pytest.raises(CorpusError, match=r"both data files \(a\.jsonl\) and texts \(a\.txt\).*format=folder"):
        scored(model, tmp_path / "in", tmp_path / "out.jsonl")


@pytest.mark.parametrize("name", ["one.jsonl", "one.parquet", "one.csv.gz"])
@pytest.mark.parametrize("how", ["file", "folder", "glob"])
def test_input_behind_fsspec(model: Model, expected: Rows, tmp_path: Path, name: str, how: str) -> None:
    local = write_input(tmp_path / name, ARTICLES)
    system, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}-{how}"
    system.pipe(f"{folder}/{name}", local.read_bytes())
    url = f"memory:/{folder}" + {"file": f"/{name}", "folder": "", "glob": "/one.*"}[how]
    scored(model, url, tmp_path / "out.jsonl")
    assert read_output(tmp_path / "out.jsonl") == expected


def test_a_url_that_is_not_there(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"memory://nowhere\.jsonl does not exist"):
        scored(model, "memory://nowhere.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(CorpusError, match="nonsense"):
        scored(model, "nonsense://user:hidden@host/in.jsonl?key=hidden", tmp_path / "out.jsonl")


def test_secrets_of_a_url_are_not_told(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        scored(model, "nonsense://user:hidden@host/in.jsonl?key=hidden", tmp_path / "out.jsonl")
    assert "hidden" not in str(caught.value)


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
BROKEN = b'{broken\n[1, 2]\n{"id": 1, "id": 2}\n{"text": "\xff"}\n{"text": "\\ud83d"}\n\n  \nnull\n'
CODES = ["missing_text", "missing_text", "empty_text", "wrong_type", "bad_targets", "bad_targets"]
BROKEN_CODES = ["unreadable_row"] * 3 + ["invalid_text"] * 2 + ["unreadable_row"]


@pytest.mark.parametrize("ending", OUTPUTS)
def test_bad_rows_keep_their_place_with_a_code_and_null_predictions(model: Model, tmp_path: Path, ending: str) -> None:
    path, output = write_input(tmp_path / "in.jsonl", BAD), tmp_path / f"out{ending}"
    with path.open("ab") as file:
        file.write(BROKEN)
    summary = scored(model, path, output)
    assert (summary["rows"], sum(summary["rejected"].values())) == (14, 12)
    rows = read_output(output)
    assert [row["id"] for row in rows] == [*"abcdefgh", *[None] * 6]
    assert [row["error"] for row in rows] == [None, *CODES, None, *BROKEN_CODES]
    for row in rows:
        assert [row[task.name] is not None for task in model.tasks] == [row["error"] is None] * 3


def test_the_quarantine_lists_bad_rows_with_place_field_value_and_reason(model: Model, tmp_path: Path) -> None:
    path, output = write_input(tmp_path / "in.jsonl", BAD), tmp_path / "out.jsonl"
    scored(model, path, output)
    listed = read_output(quarantine_path(output))
    assert {bad["file"] for bad in listed} == {str(path)}
    assert [(bad["row"], bad["line"], bad["id"]) for bad in listed] == [(n, n, "abcdefgh"[n - 1]) for n in range(2, 8)]
    assert [(bad["code"], bad["field"], bad["value"], bad["reason"]) for bad in listed] == [
        ("missing_text", "text", None, "the text is missing"),
        ("missing_text", "text", None, "the text is missing"),
        ("empty_text", "text", r"'  \n'", "the text is empty"),
        ("wrong_type", "text", "7", "expected text; received int"),
        ("bad_targets", "targets", "3", "expected a list of names; received int"),
        ("bad_targets", "targets", "['Tram Line', '']", "the list holds something that is no name"),
    ]


def test_the_quarantine_of_a_folder_is_in_parts_too(model: Model, tmp_path: Path) -> None:
    scored(model, write_input(tmp_path / "in.jsonl", BAD), tmp_path / "out", part_rows=3)
    held = {p.name: [bad["id"] for bad in read_output(p)] for p in sorted((tmp_path / "out/_quarantine").iterdir())}
    assert held == {"part-00000.jsonl": ["b", "c"], "part-00001.jsonl": ["d", "e", "f"], "part-00002.jsonl": ["g"]}


def test_parquet_with_text_that_is_no_utf8_rejects_that_row(model: Model, tmp_path: Path) -> None:
    text = pa.array([b"Goal, goal", b"Frost \xff", None]).view(pa.string())
    pq.write_table(pa.table({"id": [1, 2, 3], "text": text}), tmp_path / "in.parquet")
    scored(model, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    rows = read_output(tmp_path / "out.jsonl")
    assert [(row["id"], row["error"]) for row in rows] == [("1", None), ("2", "invalid_text"), ("3", "missing_text")]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_text_of_50_megabytes_is_rejected_and_the_others_are_scored(
    model: Model, tmp_path: Path, ending: str
) -> None:
    rows = [{"id": "a", "text": "Goal"}, {"id": "b", "text": "frost " * 8_500_000}, {"id": "c", "text": "Frost"}]
    scored(model, write_input(tmp_path / f"in{ending}", rows), tmp_path / "out.jsonl")
    assert [row["error"] for row in read_output(tmp_path / "out.jsonl")] == [None, "text_too_long", None]
    assert quarantine_path(tmp_path / "out.jsonl").stat().st_size < 10_000


def test_a_line_without_an_end_does_not_fill_the_memory(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_ROW", 1 << 20)
    with (tmp_path / "in.jsonl").open("w") as file:
        file.write('{"id": "a", "text": "Goal"}\n{"id": "b", "text": "')
        for _ in range(30):
            file.write("frost " * 20_000)
        file.write('"}\n{"id": "c", "text": "Frost"}\n')
    scored(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    rows = read_output(tmp_path / "out.jsonl")
    assert [(row["id"], row["error"]) for row in rows] == [("a", None), (None, "unreadable_row"), ("c", None)]


def test_nested_junk_is_rejected(model: Model, tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    lines = [f'{{"text": {deep}}}', '{"text": {"a": [1, {"b": null}]}}', deep, '{"text": "Goal"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    scored(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    errors = [row["error"] for row in read_output(tmp_path / "out.jsonl")]
    assert errors == ["unreadable_row", "wrong_type", "unreadable_row", None]


def test_too_many_bad_rows_stop_the_job_with_a_summary(model: Model, tmp_path: Path) -> None:
    rows = [{"id": i, "text": "Goal"} for i in range(500)] + [{"id": i} for i in range(1_500)]
    path = write_input(tmp_path / "in.jsonl", rows)
    with pytest.raises(ScoringError, match=r"of the 1,\d+ rows read were rejected \(missing_text .*max_rejected=0.3"):
        scored(model, path, tmp_path / "out", max_rejected=0.3, part_rows=250)
    done = len(read_output(tmp_path / "out"))
    assert done >= 750
    summary = scored(model, path, tmp_path / "out", max_rejected=1.0, part_rows=250)
    assert summary["rejected"] == {"missing_text": 1_500}
    assert len(read_output(tmp_path / "out")) == 2_000


def test_few_rows_are_scored_however_many_are_bad(model: Model, tmp_path: Path) -> None:
    assert scored(model, write_input(tmp_path / "in.jsonl", BAD), tmp_path / "out", max_rejected=0.0)["rows"] == 8


# --- targets, columns and ids ---


@pytest.mark.parametrize(
    ("values", "names"),
    [({"targets": ["Tram Line", "Russia"]}, ["Tram Line", "Russia"]), ({}, ["Harbour Plan"]), ({"targets": []}, [])],
)
def test_targets_come_from_the_row_or_the_configuration(
    model: Model, tmp_path: Path, values: dict[str, Any], names: list[str]
) -> None:
    rows = score_values(model, tmp_path, {"id": "a", "text": "The council met.", **values}, targets=["Harbour Plan"])
    assert [entry["target"] for entry in rows[0]["stance"]] == names


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_other_columns_can_be_named(model: Model, tmp_path: Path, ending: str) -> None:
    from slantwise.inputs import Columns

    columns = Columns(id="key", text="body.plain", title="head", source="outlet", targets="about")
    row = {"key": 7, "body": {"plain": "Goal, goal"}, "head": "Storm", "outlet": "north.example", "about": "A;B",
           "text": "Frost"}  # fmt: skip
    path = write_input(tmp_path / f"in{ending}", [row])
    scored(model, path, tmp_path / "out.jsonl", columns=columns, target_separator=";")
    article = Article("7", "Goal, goal", "Storm", source="north.example")
    found = read_output(tmp_path / "out.jsonl")[0]
    assert found == {"error": None, **rounded(model.predict([article], [["A", "B"]])[0])}


def test_rows_without_an_id_are_numbered_through_files_and_parts(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_input(tmp_path / "in/a.jsonl", [{"text": "Frost"}, {"text": "Goal"}, {"text": ""}])
    write_input(tmp_path / "in/b.csv", [{"text": "Frost"}, {"text": "Goal"}])
    scored(model, tmp_path / "in", tmp_path / "out", part_rows=2)
    assert [row["id"] for row in read_output(tmp_path / "out")] == ["1", "2", "3", "4", "5"]


# --- input and output that cannot be ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "in.jsonl",
            '{"id": "a"}\n{"id": "b", "body": "Frost"}\n',
            "in.jsonl has no column 'text'; it has 'id', 'body'",
        ),
        ("in.csv", "id,body\n1,Goal\n", "has no column 'text'; it has 'id', 'body'; name it with columns.text=…"),
        ("in.jsonl", "\n \n", "no rows"),
        ("in.csv", "id,text\n", "no rows"),
        ("in.jsonl", "", "is empty"),
        ("in.parquet", "Goal", "cannot be read as Parquet"),
        ("in.jsonl.gz", "Goal", "cannot be read"),
    ],
)
def test_an_input_that_cannot_be_scored(model: Model, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises((ScoringError, CorpusError), match=message):
        scored(model, tmp_path / name, tmp_path / "out.jsonl")


def test_parquet_without_the_text_column(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"in\.parquet has no column 'text'; it has 'id', 'body'"):
        scored(model, write_input(tmp_path / "in.parquet", [{"id": 1, "body": "Goal"}]), tmp_path / "out")


def test_a_first_row_without_text_is_but_a_bad_row(model: Model, tmp_path: Path) -> None:
    assert [row["error"] for row in score_values(model, tmp_path, {"id": "a"}, {"text": "Frost"})] == [
        "missing_text", None
    ]  # fmt: skip


def test_a_remote_output_is_refused_and_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScoringError, match="expected a folder of this machine; engine=spark"):
        check_output(Path("s3://bucket/scores"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("out.txt", lambda path: None, "expected a folder, or a file whose name ends in .jsonl, .parquet or .csv"),
        ("out", lambda path: path.touch(), "out is a file; expected a folder"),
        ("file/out.jsonl", lambda path: path.parent.touch(), "file is not a folder"),
        ("file/out", lambda path: path.parent.touch(), "file is not a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(ScoringError, match=message) as caught:
        check_output(tmp_path / name)
    assert f"output={tmp_path / name}" in str(caught.value)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.quarantine.jsonl"])
def test_a_file_that_exists_is_never_overwritten(model: Model, tmp_path: Path, name: str) -> None:
    path = write_input(tmp_path / "in.jsonl", ARTICLES)
    (tmp_path / name).write_text("precious")
    with pytest.raises(ScoringError, match=f"{name} exists"):
        scored(model, path, tmp_path / "out.jsonl")
    assert (tmp_path / name).read_text() == "precious"


def test_a_folder_that_holds_something_else_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(
        ScoringError, match=r"holds thesis\.tex but no _manifest\.jsonl; expected a new or empty folder"
    ):
        scored(model, write_input(tmp_path / "in.jsonl", ARTICLES), tmp_path / "out")


def test_the_output_s_folder_is_made(model: Model, tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.jsonl", ARTICLES)
    scored(model, path, tmp_path / "new" / "folder" / "out.jsonl")
    made = {p.name for p in (tmp_path / "new" / "folder").iterdir()}
    assert made == {"out.jsonl", "out.jsonl.summary.json"}
    assert not parts_folder(tmp_path / "new" / "folder" / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"part_rows": 0}, "part_rows=0"), ({"workers": -1}, "workers=-1"), ({"max_rejected": 1.5}, "max_rejected=1.5")],
)
def test_an_option_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config(**changes)


def test_a_second_process_is_told_at_once(model: Model, tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.jsonl", ARTICLES)
    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out"), pytest.raises(ScoringError, match="another process is scoring into it"):
        scored(model, path, tmp_path / "out")
    assert scored(model, path, tmp_path / "out")["rows"] == 3


# --- progress and processors ---


def test_progress_tells_rows_and_the_share_of_the_input(model: Model, tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.jsonl", [{"id": i, "text": "Goal" if i % 5 else ""} for i in range(100)])
    told: list[Progress] = []
    score(config(input=str(path), output=str(tmp_path / "out"), part_rows=20), model, told.append)
    assert [(p.rows, p.session_rows, p.rejected) for p in told] == [(n, n, n // 5) for n in range(20, 101, 20)]
    assert [p.share for p in told] == sorted(p.share for p in told)
    assert told[-1].share == 1.0


def test_processors_are_those_of_the_process_within_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slantwise import workers

    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert 1 <= cpu_count() <= 8
    for name, content, count in (("cpu.max", "max 100000\n", []), ("cpu.max", "250000 100000\n", [3])):
        (tmp_path / name).write_text(content)
        assert list(workers._quotas(tmp_path)) == count
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for quota, count in (("-1", []), ("100000", [1])):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
        assert list(workers._quotas(tmp_path)) == count
