"""A corpus is all rows of its files: articles, merged rows and rows in quarantine add up."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from data.config import ColumnsConfig, CorpusConfig, FileConfig, JoinConfig, LabelsConfig
from data.corpus import SCHEMA, Corpus, fold_text, load_corpus, write_quarantine
from data.labels import LabelReader, label_configs, make_task
from slantwise.errors import BadRowsError, ConfigurationError, CorpusError
from slantwise.rows import BadRow, Format

TOPIC = LabelsConfig(columns=["topic"], labels=["art", "sport"])


def load(root: Path, *files: str | FileConfig, **keys: Any) -> Corpus:
    entries = [file if isinstance(file, FileConfig) else FileConfig(path=file) for file in files]
    return load_corpus(CorpusConfig(name="tiny", root=str(root), files=entries, **keys))


def write(root: Path, text: str, name: str = "a.csv") -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return name


def write_rows(root: Path, rows: list[dict[str, Any]], name: str = "a.jsonl") -> str:
    return write(root, "".join(json.dumps(row) + "\n" for row in rows), name)


def adds_up(corpus: Corpus) -> bool:
    return corpus.rows_read == len(corpus) + corpus.merged + len(corpus.quarantine)


# canonical rows


def test_canonical_rows_need_no_further_key(tmp_path: Path) -> None:
    row = {
        "id": "a1", "text": "One text.", "title": "T", "author": "", "source": "example.org", "published": "2020-02-05",
        "language": "en", "topic": "health", "frames": ["economic", "morality"],
        "stances": [{"target": "Ann", "stance": "favor", "start": 0, "end": 3}, {"target": "Bo", "stance": "against"}],
    }  # fmt: skip
    corpus = load(tmp_path, write_rows(tmp_path, [row]))
    assert corpus.table.schema == SCHEMA
    assert corpus.table.to_pylist() == [
        {
            "id": "a1", "text": "One text.", "title": "T", "author": None, "source": "example.org",
            "published": "2020-02-05", "language": "en", "split": None, "group": None,
            "topic": ["health"], "framing": ["economic", "morality"],
            "stance": [
                {"target": "Ann", "stance": "favor", "start": 0, "end": 3},
                {"target": "Bo", "stance": "against", "start": None, "end": None},
            ],
            "topic_shares": None, "framing_shares": None, "stance_shares": None,
        }
    ]  # fmt: skip
    assert list(corpus.tasks) == ["topic", "framing", "stance"]
    (article,) = corpus.articles()
    assert (article.id, article.title, article.author) == ("a1", "T", None)


def test_canonical_rows_read_the_same_from_jsonl_and_parquet(tmp_path: Path, tiny_rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(tiny_rows), tmp_path / "a.parquet")
    lines, table = load(tmp_path, write_rows(tmp_path, tiny_rows)), load(tmp_path, "a.parquet")
    assert lines.table.equals(table.table)
    assert lines.fingerprint == table.fingerprint


def test_a_task_without_any_label_is_no_task_of_the_corpus(tmp_path: Path) -> None:
    corpus = load(tmp_path, write_rows(tmp_path, [{"id": "1", "text": "a", "topic": "health"}]))
    with pytest.raises(CorpusError, match="has no labels for task framing; it is labelled for topic"):
        corpus.task("framing")


def test_a_corpus_without_labels_tells_its_columns_and_how_to_name_that_of_the_labels(tmp_path: Path) -> None:
    corpus = load(tmp_path, write_rows(tmp_path, [{"id": "1", "text": "a", "section": "home"}]))
    with pytest.raises(CorpusError, match=r"no task; .*'corpus\.topic\.columns=\[<column>\]'.* 'text', 'section'$"):
        corpus.task("topic")
    with pytest.raises(CorpusError, match=r"'corpus\.stance\.columns=.* corpus\.stance\.target=<column>"):
        corpus.task("stance")


def test_a_corpus_whose_labels_were_named_does_not_tell_how_to(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a", "section": "health"}]
    corpus = load(tmp_path, write_rows(tmp_path, rows), topic=LabelsConfig(columns=["section"]))
    with pytest.raises(CorpusError, match=r"it is labelled for topic$"):
        corpus.task("framing")


def test_frames_of_an_empty_list_are_a_label(tmp_path: Path) -> None:
    corpus = load(tmp_path, write_rows(tmp_path, [{"id": "1", "text": "a", "frames": []}, {"id": "2", "text": "b"}]))
    assert corpus.table["framing"].to_pylist() == [[], None]
    assert list(corpus.tasks) == ["framing"]


def test_metrics_of_a_task_that_the_corpus_does_not_configure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"corpus\.metrics names \['stance'\]"):
        load(tmp_path, write(tmp_path, "id,text,topic\n1,a,art\n"), topic=TOPIC, metrics={"stance": ["macro_f1"]})


# counts and quarantine

MIXED = "id,text,topic\n1,a,art\n2,b,skip\n1,c,art\n3,,art\n4,d,arts\n5,e\n6,f,sport\n"


def test_every_row_is_an_article_or_in_quarantine(tmp_path: Path) -> None:
    topic = LabelsConfig(columns=["topic"], labels=["art", "sport"], drop=["skip"])
    corpus = load(tmp_path, write(tmp_path, MIXED), topic=topic, max_bad_rows=4)
    assert [(bad.line, bad.field, bad.value) for bad in corpus.quarantine] == [
        (3, "topic", "skip"),
        (4, "id", "1"),
        (5, "text", ""),
        (6, "topic", "arts"),
        (7, None, ["5", "e"]),
    ]
    assert [bad.expected_drop for bad in corpus.quarantine] == [True, False, False, False, False]
    assert corpus.table["id"].to_pylist() == ["1", "6"]
    assert corpus.table["text"].to_pylist() == ["a", "f"]
    assert adds_up(corpus)
    assert corpus.counts() == "tiny: 7 rows = 2 articles + 1 set aside by configuration + 4 unusable"


def test_one_bad_row_too_many_stops_the_run_and_all_are_reported(tmp_path: Path) -> None:
    topic = LabelsConfig(columns=["topic"], labels=["art", "sport"], drop=["skip"])
    with pytest.raises(BadRowsError) as caught:
        load(tmp_path, write(tmp_path, MIXED), topic=topic, max_bad_rows=3)
    message = str(caught.value)
    assert message.startswith("tiny: 4 rows cannot be used; mend them, or put them in quarantine with ")
    assert "corpus.max_bad_rows=4" in message
    listed = [line.split(", field")[0].split(": ")[1] for line in message.splitlines()[1:]]
    assert listed == ["line 4", "line 5", "line 6", "line 7"]


def test_bad_rows_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path, "id,text,topic\n1,,art\n", "a.csv")
    write(tmp_path, "id,text,topic\n2,x,none\n", "b.csv")
    with pytest.raises(BadRowsError, match=r"(?s)a\.csv: line 2.*b\.csv: line 2"):
        load(tmp_path, "a.csv", "b.csv", topic=TOPIC)


def test_many_bad_rows_are_listed_to_the_fiftieth_and_counted_after_it(tmp_path: Path) -> None:
    with pytest.raises(BadRowsError) as caught:
        load(tmp_path, write_rows(tmp_path, [{"id": str(i), "text": ""} for i in range(70)]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 50 + 1
    assert lines[-1] == "  … and 20 more: the text is empty"


def test_quarantine_is_written_one_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text,topic\n1,a,art\n2,caf\xe9,art\n3,caf\xe9\n4,b,arts\n")
    corpus = load(tmp_path, "a.csv", topic=TOPIC, max_bad_rows=3)
    write_quarantine(corpus.quarantine, tmp_path / "q.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"file", "line", "field", "value", "reason", "expected_drop"}] * 3
    assert [(row["line"], row["field"]) for row in rows] == [(3, "text"), (4, None), (5, "topic")]


def test_quarantine_holds_what_no_encoding_can(tmp_path: Path) -> None:
    write_quarantine((BadRow("a.txt", 1, None, "caf\udce9", "the reason"),), tmp_path / "q.jsonl")
    assert json.loads((tmp_path / "q.jsonl").read_text(encoding="utf-8"))["value"] == "caf\udce9"


def test_a_corpus_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="none of its 1 rows can be used"):
        load(tmp_path, write(tmp_path, "id,text,topic\n1,,art\n"), topic=TOPIC, max_bad_rows=9)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    content = "id,text,topic\n" if name == "a.csv" else "\n\n"
    with pytest.raises(CorpusError, match="holds no rows"):
        load(tmp_path, write(tmp_path, content, name), topic=TOPIC)


# texts and ids


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "1"}, "the text is missing"),
        ({"id": "1", "text": None}, "the text is missing"),
        ({"id": "1", "text": " \n"}, "the text is empty"),
        ({"id": "1", "text": 5}, "text was expected, not int"),
        ({"id": "1", "text": ["a", 5]}, "text was expected, not int"),
        ({"id": "1", "text": {"a": 1}}, "text was expected, not dict"),
        ({"id": "1", "text": float("nan")}, "the text is missing"),
        ({"id": float("nan"), "text": "a"}, "the id is missing"),
        ({"id": True, "text": "a"}, "a text or a number was expected"),
        ({"id": [1], "text": "a"}, "a text or a number was expected"),
        ({"text": "a"}, "the id is missing"),
        ({"id": " ", "text": "a"}, "the id is missing"),
        ({"id": "1", "text": "a", "split": "trian"}, "expected one of train"),
    ],
)
def test_a_row_without_usable_text_id_or_split(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    whole: dict[str, Any] = {"id": "0", "text": "z", "topic": "health"}
    (bad,) = load(tmp_path, write_rows(tmp_path, [whole, row]), max_bad_rows=1).quarantine
    assert bad.line == 2
    assert bad.reason.startswith(reason)


def test_the_first_of_two_rows_with_one_id_stays(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": 7, "text": "a"}, {"id": " 7 ", "text": "b"}]
    corpus = load(tmp_path, write_rows(tmp_path, rows), max_bad_rows=1)
    assert corpus.table["text"].to_pylist() == ["a"]
    assert corpus.quarantine[0].reason == f"this id stands already in {tmp_path / 'a.jsonl'}: line 1"


def test_rows_are_numbered_where_there_is_no_id(tmp_path: Path) -> None:
    name = write(tmp_path, 'text,topic\n"a\nb",art\nc,art\n')
    corpus = load(tmp_path, FileConfig(path=name, split="test"), columns=ColumnsConfig(id=None), topic=TOPIC)
    assert corpus.table["id"].to_pylist() == ["test/a.csv:2", "test/a.csv:4"]
    assert corpus.table["split"].to_pylist() == ["test", "test"]


def test_made_ids_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    for place in ("x", "y"):
        write(tmp_path, f"text,topic\n{place},art\n", f"{place}/a.csv")
    for pattern in ("*/a.csv", str(tmp_path / "*" / "a.csv")):
        corpus = load(
            tmp_path if pattern == "*/a.csv" else Path(), pattern, columns=ColumnsConfig(id=None), topic=TOPIC
        )
        assert corpus.table["id"].to_pylist() == ["x/a.csv:2", "y/a.csv:2"]


def test_made_ids_tell_files_of_a_folder_apart_and_do_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    ids = []
    for place in ("here", "there/deeper"):
        for label in ("art", "sport"):
            write(tmp_path, label, f"{place}/{label}/1.txt")
        topic = LabelsConfig(columns=["class"], labels=["art", "sport"])
        corpus = load(Path(), str(tmp_path / place), columns=ColumnsConfig(id=None), topic=topic)
        ids.append(corpus.table["id"].to_pylist())
    assert ids == [["art/1.txt:1", "sport/1.txt:1"]] * 2


@pytest.mark.parametrize("written", ["dev", "Valid", "validation"])
def test_names_of_splits_are_folded(tmp_path: Path, written: str) -> None:
    corpus = load(tmp_path, write_rows(tmp_path, [{"id": "1", "text": "a", "split": written}]))
    assert corpus.table["split"].to_pylist() == ["validation"]


# columns


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    name = write(tmp_path, "id,body,topic\n1,a,art\n")
    with pytest.raises(CorpusError, match=r"no column 'text' \(text\); it has 'id', 'body', 'topic'"):
        load(tmp_path, name, topic=TOPIC)


def test_a_missing_id_column_comes_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no column 'id' \(id\).*; set corpus\.columns\.id=null"):
        load(tmp_path, write(tmp_path, "text,topic\na,art\n"), topic=TOPIC)


def test_a_missing_text_column_comes_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no column 'text' \(text\).*; set corpus\.columns\.text=…"):
        load(tmp_path, write(tmp_path, "id,body,topic\n1,a,art\n"), topic=TOPIC)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_wrong_separator_comes_with_the_argument_that_names_the_right_one(tmp_path: Path, separator: str) -> None:
    name = write(tmp_path, "id,text,topic\n1,a,art\n".replace(",", separator))
    with pytest.raises(CorpusError, match="name the separator, as in") as caught:
        load(tmp_path, name, topic=TOPIC)
    advice = str(caught.value).split("name the separator, as in ")[1].removesuffix(" in place of corpus.path")
    argument = subprocess.run(["bash", "-c", f"printf %s {advice}"], capture_output=True, text=True, check=True).stdout
    override = OverridesParser.create().parse_override(argument)
    assert override.key_or_group == "corpus.files"
    assert override.value() == [{"path": name, "separator": separator}]


@pytest.mark.parametrize(
    ("keys", "column"),
    [
        ({"topic": LabelsConfig(columns=["section"], labels=["art", "sport"])}, "section"),
        ({"columns": ColumnsConfig(source="outlet")}, "outlet"),
        ({"columns": ColumnsConfig(split="fold")}, "fold"),
        ({"stance": LabelsConfig(columns=["topic"], target="whom", labels=["art", "sport"])}, "whom"),
        ({"stance": LabelsConfig(nested="targets", columns=["polarity"], target="whom")}, "targets"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_column_that_the_configuration_asks_for_must_be_there(
    tmp_path: Path, name: str, keys: dict[str, Any], column: str
) -> None:
    if name == "a.csv":
        write(tmp_path, "id,text,topic\n1,a,art\n", name)
    else:
        write_rows(tmp_path, [{"id": "1", "text": "a", "topic": "art"}], name)
    with pytest.raises(CorpusError, match=f"no column '{column}'"):
        load(tmp_path, name, **({"topic": TOPIC} | keys))


def test_every_file_of_a_glob_must_have_the_columns(tmp_path: Path) -> None:
    write(tmp_path, "id,text,topic\n1,a,art\n", "a.csv")
    write(tmp_path, "id,text,topics\n2,b,art\n", "b.csv")
    with pytest.raises(CorpusError, match=r"b\.csv has no column 'topic'"):
        load(tmp_path, "*.csv", topic=TOPIC)


def test_a_key_may_be_absent_in_some_jsonl_rows(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a"}, {"id": "2", "text": "b", "topic": "art"}]
    assert load(tmp_path, write_rows(tmp_path, rows), topic=TOPIC).table["topic"].to_pylist() == [None, ["art"]]


def test_a_label_column_that_is_empty_in_all_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="the topic column 'topic' is empty in all 2 rows"):
        load(tmp_path, write(tmp_path, "id,text,topic\n1,a,\n2,b,\n"), topic=TOPIC)


def test_a_span_that_is_no_number_is_one_bad_row(tmp_path: Path) -> None:
    stance = LabelsConfig(columns=["stance"], target="target", start="start", end="end")
    name = write(tmp_path, "id,text,target,stance,start,end\n1,Ann,Ann,favor,0,3\n2,Bo,Bo,favor,x,3\n")
    corpus = load(tmp_path, name, stance=stance, max_bad_rows=1)
    assert corpus.table["stance"].to_pylist() == [[{"target": "Ann", "stance": "favor", "start": 0, "end": 3}]]
    assert [(bad.line, bad.field) for bad in corpus.quarantine] == [(3, "start")]


# joins, merged rows, repeats


PAIRS = LabelsConfig(columns=["stance"], target="headline")


def joined(root: Path, **keys: Any) -> Corpus:
    write(root, "body,headline,stance\n1,H1,favor\n2,H2,against\n1,H3,neutral\n", "stances.csv")
    columns = ColumnsConfig(id="body", text="article")
    return load(root, "stances.csv", joins=[JoinConfig(path="bodies*.csv", on=["body"])], columns=columns, stance=PAIRS,
                merge_rows=True, **keys)  # fmt: skip


def test_a_join_adds_columns_and_merged_rows_are_one_article(tmp_path: Path) -> None:
    write(tmp_path, "body,article\n2,two\n1,one\n", "bodies.csv")
    corpus = joined(tmp_path)
    assert [
        (row["id"], row["text"], [(s["target"], s["stance"]) for s in row["stance"]])
        for row in corpus.table.to_pylist()
    ] == [("1", "one", [("H1", "favor"), ("H3", "neutral")]), ("2", "two", [("H2", "against")])]
    assert adds_up(corpus)
    assert corpus.counts() == "tiny: 3 rows = 2 articles + 1 merged into them + 0 unusable"


@pytest.mark.parametrize("lonely", ["1", "2"])
def test_a_row_without_a_match_in_the_joined_table_is_a_bad_row(tmp_path: Path, lonely: str) -> None:
    write(tmp_path, f"body,article\n{3 - int(lonely)},text\n", "bodies.csv")
    corpus = joined(tmp_path, max_bad_rows=2)
    assert {(bad.field, bad.reason) for bad in corpus.quarantine} == {("article", "the text is missing")}
    assert adds_up(corpus)


def test_a_joined_table_must_be_whole(tmp_path: Path) -> None:
    write(tmp_path, "body,article\n1,one\n2\n", "bodies.csv")
    with pytest.raises(BadRowsError, match=r"bodies\.csv: line 3: 1 fields where 2 were expected"):
        joined(tmp_path, max_bad_rows=9)


def test_a_joined_table_with_two_texts_for_one_key_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "body,article\n1,one\n2,two\n", "bodies1.csv")
    write(tmp_path, "body,article\n1,one\n2,other\n", "bodies2.csv")
    with pytest.raises(BadRowsError, match=r"bodies2\.csv: line 3, field 'body': stands twice"):
        joined(tmp_path)


def test_a_join_on_several_columns_that_the_tables_call_by_other_names(tmp_path: Path) -> None:
    write(tmp_path, "id,day,no,topic\n1,mon,1,art\n2,mon,2,art\n3,tue,1,art\n", "a.csv")
    write_rows(tmp_path, [{"d": d, "n": n, "text": f"{d}{n}"} for d in ("mon", "tue") for n in (1.0, 2.0)], "b.jsonl")
    join = JoinConfig(path="b.jsonl", on=["day", "no"], key=["d", "n"])
    corpus = load(tmp_path, "a.csv", joins=[join], topic=TOPIC)
    assert corpus.table["text"].to_pylist() == ["mon1.0", "mon2.0", "tue1.0"]


def test_a_missing_key_matches_nothing(tmp_path: Path) -> None:
    write(tmp_path, "body,article\n1,one\n", "bodies.csv")
    write(tmp_path, "id,body,topic\n1,1,art\n2,,art\n")
    keys: dict[str, Any] = {"columns": ColumnsConfig(text="article"), "topic": TOPIC, "max_bad_rows": 1}
    corpus = load(tmp_path, "a.csv", joins=[JoinConfig(path="bodies.csv", on=["body"])], **keys)
    assert [(bad.line, bad.reason) for bad in corpus.quarantine] == [(3, "the text is missing")]
    write(tmp_path, "body,article\n1,one\n,two\n", "bodies.csv")
    with pytest.raises(BadRowsError, match="line 3, field 'body': the key to join on is missing"):
        load(tmp_path, "a.csv", joins=[JoinConfig(path="bodies.csv", on=["body"])], **keys)


@pytest.mark.parametrize("keys", [{}, {"on": ["a", "b"], "key": ["a"]}])
def test_a_join_that_cannot_work(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"corpus\.joins"):
        JoinConfig(path="a.csv", **keys)


@pytest.mark.parametrize("header", ["key,article", "body,texts"])
def test_a_join_that_lacks_its_column_is_refused(tmp_path: Path, header: str) -> None:
    write(tmp_path, f"{header}\n1,one\n2,two\n", "bodies.csv")
    with pytest.raises(CorpusError, match=r"no column '(body|article)'"):
        joined(tmp_path)


def test_rows_of_one_id_with_another_text_or_split_are_not_merged(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "text": "a", "split": "train"},
        {"id": "1", "text": "b", "split": "train"},
        {"id": "1", "text": "a", "split": "test"},
        {"id": "1", "text": "a", "split": "train"},
    ]
    corpus = load(tmp_path, write_rows(tmp_path, rows), merge_rows=True, max_bad_rows=2)
    assert [bad.line for bad in corpus.quarantine] == [2, 3]
    assert corpus.merged == 1
    assert adds_up(corpus)


def test_labels_of_merged_rows_are_joined_in_the_order_of_the_task(tmp_path: Path) -> None:
    framing = LabelsConfig(columns=["frame"], labels=["x", "y", "z"])
    prints = set()
    for rows in (["1,a,z", "1,a,x", "1,a,", "2,b,y"], ["2,b,y", "1,a,", "1,a,x", "1,a,z"]):
        name = write(tmp_path, "\n".join(["id,text,frame", *rows]))
        corpus = load(tmp_path, name, framing=framing, merge_rows=True)
        assert {r["id"]: r["framing"] for r in corpus.table.to_pylist()} == {"1": ["x", "z"], "2": ["y"]}
        assert adds_up(corpus)
        prints.add(corpus.fingerprint)
    assert len(prints) == 1


def test_merged_rows_that_contradict_each_other_are_bad_rows(tmp_path: Path) -> None:
    name = write(tmp_path, "id,text,topic\n1,a,art\n1,a,\n1,a,sport\n")
    corpus = load(tmp_path, name, topic=TOPIC, merge_rows=True, max_bad_rows=1)
    assert corpus.table["topic"].to_pylist() == [["art"]]
    assert [(bad.line, bad.reason.split(" stands")[0]) for bad in corpus.quarantine] == [
        (4, "another topic label under this id")
    ]
    assert adds_up(corpus)


def test_drop_repeats_keeps_the_first_and_counts_the_others(tmp_path: Path) -> None:
    rows = [{"id": i, "text": text} for i, text in zip("1234", ["A b.", "a, B!", "ab", "A-b"], strict=True)]
    corpus = load(tmp_path, write_rows(tmp_path, rows), drop_repeats=True)
    assert corpus.table["id"].to_pylist() == ["1", "3"]
    assert [(bad.line, bad.value, bad.expected_drop) for bad in corpus.quarantine] == [(2, "2", True), (4, "4", True)]
    assert corpus.counts() == "tiny: 4 rows = 2 articles + 2 set aside by configuration + 0 unusable"
    assert len(load(tmp_path, "a.jsonl")) == 4


def test_folding_keeps_letters_and_digits_of_any_script() -> None:
    assert fold_text("Ärger—in  “Köln”, 2-mal; Привет!") == "ärger in köln 2 mal привет"


# text repair and fingerprint


def test_encoding_is_repaired_only_where_asked(tmp_path: Path) -> None:
    broken = "“Café – news".encode().decode("cp1252")
    name = write_rows(tmp_path, [{"id": "1", "text": broken, "title": broken}])
    (kept,), (mended,) = load(tmp_path, name).articles(), load(tmp_path, name, fix_encoding=True).articles()
    assert (kept.text, kept.title) == (broken, broken)
    assert (mended.text, mended.title) == ("“Café – news", "“Café – news")


def test_the_fingerprint_does_not_depend_on_the_order_of_the_rows(
    tmp_path: Path, tiny_rows: list[dict[str, Any]]
) -> None:
    shuffled = random.Random(0).sample(tiny_rows, len(tiny_rows))
    first, second = (load(tmp_path, write_rows(tmp_path, rows)) for rows in (tiny_rows, shuffled))
    assert first.table["id"].to_pylist() != second.table["id"].to_pylist()
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_merged_rows(tmp_path: Path) -> None:
    rows = ["1,a,H1,favor", "2,b,H2,against", "1,a,H3,neutral"]
    prints = set()
    for order in (rows, rows[::-1]):
        name = write(tmp_path, "\n".join(["id,text,headline,stance", *order]))
        prints.add(load(tmp_path, name, stance=PAIRS, merge_rows=True).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize(
    "change", [{"text": "other"}, {"topic": "sport"}, {"source": "x"}, {"id": "b"}, {"split": "test"}]
)
def test_the_fingerprint_tells_articles_apart(tmp_path: Path, change: dict[str, str]) -> None:
    row = {"id": "a", "text": "text", "topic": "health"}
    prints = {load(tmp_path, write_rows(tmp_path, [each])).fingerprint for each in (row, row | change)}
    assert len(prints) == 2


def test_the_fingerprint_tells_label_sets_apart(tmp_path: Path) -> None:
    name = write(tmp_path, "id,text,topic\n1,a,art\n")
    sets = (["art", "sport"], ["sport", "art"])
    assert len({load(tmp_path, name, topic=LabelsConfig(columns=["topic"], labels=s)).fingerprint for s in sets}) == 2


# rows set aside, splits by another name


def test_where_and_where_not_set_rows_aside_and_count_them(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "text": "a", "part": "A", "flag": 1},
        {"id": "2", "text": "b", "part": "B", "flag": 1.0},
        {"id": "3", "text": "", "part": "C", "flag": "1"},
        {"id": "4", "text": "d", "part": "A", "flag": 0},
        {"id": "5", "text": "e", "part": "A"},
        {"id": "6", "text": "f", "part": ["B", "A"], "flag": [2, 1]},
    ]
    keys = {"where": {"part": ["A", "B"], "flag": ["1"]}, "where_not": {"part": ["B"]}}
    corpus = load(tmp_path, write_rows(tmp_path, rows), **keys)
    assert corpus.table["id"].to_pylist() == ["1"]
    assert [(bad.line, bad.field, bad.value) for bad in corpus.quarantine] == [
        (2, "part", "B"),
        (3, "part", "C"),
        (4, "flag", 0),
        (5, "flag", None),
        (6, "part", ["B", "A"]),
    ]
    assert all(bad.expected_drop for bad in corpus.quarantine)
    assert adds_up(corpus)


def test_where_may_ask_for_an_empty_cell_and_for_a_joined_column(tmp_path: Path) -> None:
    write(tmp_path, "body,article,kind\n1,one,\n2,two,ad\n", "bodies.csv")
    assert joined(tmp_path, where={"kind": [""]}).table["id"].to_pylist() == ["1"]


@pytest.mark.parametrize("key", ["where", "where_not"])
def test_a_column_to_select_by_must_be_there(tmp_path: Path, key: str) -> None:
    with pytest.raises(CorpusError, match=r"no column 'part' \(where part\)"):
        load(tmp_path, write(tmp_path, "id,text,topic\n1,a,art\n"), topic=TOPIC, **{key: {"part": ["A"]}})


def test_splits_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": "a", "fold": fold} for i, fold in enumerate([True, False, 2, 2.0, "", "test"])]
    splits = {"True": "test", "False": "train", "2": "validation"}
    corpus = load(tmp_path, write_rows(tmp_path, rows), columns=ColumnsConfig(split="fold"), splits=splits)
    assert corpus.table["split"].to_pylist() == ["test", "train", "validation", "validation", None, "test"]


def test_a_split_that_is_given_another_name_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match=r"corpus\.splits gives \['held out'\]"):
        CorpusConfig(path="a.csv", splits={"1": "held out"})


# texts from several columns


def test_a_text_is_put_together_from_its_columns(tmp_path: Path) -> None:
    name = write(tmp_path, "id,head,lead,body,raw\n1,A,b,c,x\n2,A,, ,x\n3,, ,,x\n4,,b,c,\n")
    columns = ColumnsConfig(text="head", append=["lead", "body"], fallback="raw")
    assert load(tmp_path, name, columns=columns).table["text"].to_pylist() == ["A\n\nb\n\nc", "A", "x", "b\n\nc"]


def test_a_list_of_texts_is_one_text(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": ["One", None, " ", "two"], "topic": "health"}]
    assert load(tmp_path, write_rows(tmp_path, rows)).table["text"].to_pylist() == ["One\n\ntwo"]
    columns = ColumnsConfig(between=" ")
    assert load(tmp_path, write_rows(tmp_path, rows), columns=columns).table["text"].to_pylist() == ["One two"]


def test_rows_without_text_may_be_set_aside(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a"}, {"id": "2", "text": " "}, {"id": "3", "text": None}, {"id": "4", "text": 4}]
    corpus = load(tmp_path, write_rows(tmp_path, rows), drop_empty_text=True, max_bad_rows=1)
    assert [(bad.line, bad.expected_drop) for bad in corpus.quarantine] == [(2, True), (3, True), (4, False)]


@pytest.mark.parametrize("keys", [{"append": ["lead"]}, {"fallback": "lead"}])
def test_a_column_of_further_text_must_be_there(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match="no column 'lead'"):
        load(tmp_path, write(tmp_path, "id,text,topic\n1,a,art\n"), topic=TOPIC, columns=ColumnsConfig(**keys))


def test_a_key_inside_an_object_is_a_column(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a", "source": {"name": "BBC", "place": {"city": "London"}}, "authors": ["Ann", "Bo"]}]
    columns = ColumnsConfig(source="source.name", group="source.place.city", author="authors")
    (row,) = load(tmp_path, write_rows(tmp_path, rows), columns=columns).table.to_pylist()
    assert (row["source"], row["group"], row["author"]) == ("BBC", "London", "Ann, Bo")


# annotators


@pytest.mark.parametrize(
    ("written", "value", "date"),
    [
        ("%d.%m.%Y", "31.12.2020", "2020-12-31"),
        ("%d-%b-%Y %H:%M", "1-Feb-1987 15:01", "1987-02-01T15:01:00"),
        ("unix", 1583020800, "2020-03-01T00:00:00+00:00"),
    ],
)
def test_dates_may_be_written_in_any_form(tmp_path: Path, written: str, value: Any, date: str) -> None:
    rows = [{"id": str(i), "text": "a", "topic": "health", "day": day} for i, day in enumerate([value, None, "soon"])]
    columns = ColumnsConfig(published="day", date_format=written)
    corpus = load(tmp_path, write_rows(tmp_path, rows), columns=columns, max_bad_rows=1)
    assert corpus.table["published"].to_pylist() == [date, None]
    assert (corpus.quarantine[0].field, corpus.quarantine[0].value) == ("day", "soon")


def test_items_of_a_list_are_articles_with_ids_of_their_own(tmp_path: Path) -> None:
    rows = [{"d": 1, "s": [{"t": "a", "y": "art"}, {"t": "b", "y": "sport"}]}, {"d": 2, "s": [{"t": "c", "y": "art"}]}]
    file = FileConfig(path=write_rows(tmp_path, rows), explode="s")
    columns = ColumnsConfig(id=None, text="s.t", group="d")
    topic = LabelsConfig(columns=["s.y"], labels=["art", "sport"])
    table = load(tmp_path, file, columns=columns, topic=topic).table
    assert table.select(["id", "text", "group"]).to_pylist() == [
        {"id": "a.jsonl:1.1", "text": "a", "group": "1"},
        {"id": "a.jsonl:1.2", "text": "b", "group": "1"},
        {"id": "a.jsonl:2.1", "text": "c", "group": "2"},
    ]


def test_keys_of_a_list_of_objects_are_lists(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a", "by": [{"who": "x", "frames": ["eco"]}, {"who": "y", "frames": ["eco", "pol"]}]}]
    framing = LabelsConfig(annotators=["by.frames"], labels=["eco", "pol"])
    assert load(tmp_path, write_rows(tmp_path, rows), framing=framing).table["framing"].to_pylist() == [["eco"]]


def test_the_columns_of_a_wide_table_are_not_all_listed(tmp_path: Path) -> None:
    wide = write(tmp_path, ",".join(f"c{i}" for i in range(200)) + "\n" + "," * 199 + "\n")
    with pytest.raises(CorpusError, match=r"'c39' … \(200 columns\)"):
        load(tmp_path, wide)


def test_rows_of_a_compressed_file_need_not_have_the_same_keys(tmp_path: Path) -> None:
    lines = [{"id": "1", "text": "a"}, {"id": "2", "text": "b", "topic": "art"}]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in lines).encode()))
    assert len(load(tmp_path, "a.jsonl.gz", topic=TOPIC)) == 2


def test_the_agreement_of_annotators_is_carried_with_the_ties_in_it(tmp_path: Path) -> None:
    rows = ["1,a,art,art,art", "2,b,sport,sport,", "3,c,art,sport,", "4,d,sport,,"]
    name = write(tmp_path, "\n".join(["id,text,a1,a2,a3", *rows]))
    topic = LabelsConfig(annotators=["a1", "a2", "a3"], labels=["art", "sport"])
    corpus = load(tmp_path, name, topic=topic)
    assert corpus.table["topic"].to_pylist() == [["art"], ["sport"], ["sport"]]
    assert [(bad.line, bad.reason, bad.expected_drop) for bad in corpus.quarantine] == [
        (4, "a tie between art and sport", True)
    ]
    # by hand: 7 labels, 4 art and 3 sport; one unit of two differs: 1 - 6 * 2 / (49 - 16 - 9)
    assert corpus.agreement == {"topic": {"alpha": pytest.approx(0.5), "annotators": 3, "items": 3}}


# annotators in rows of their own


VOTES = "id,text,who,vote\n1,a,x,art\n2,b,x,art\n1,a,y,sport\n2,b,y,sport\n1,a,z,art\n3,c,x,oops\n3,c,y,art\n"


def test_annotators_in_rows_of_their_own_give_the_majoritys_label(tmp_path: Path) -> None:
    topic = LabelsConfig(annotators=["vote"], labels=["art", "sport"], soft=True)
    corpus = load(tmp_path, write(tmp_path, VOTES), topic=topic, merge_rows=True, max_bad_rows=1)
    assert corpus.table.select(["id", "topic", "topic_shares"]).to_pylist() == [
        {"id": "1", "topic": ["art"], "topic_shares": [pytest.approx([2 / 3, 1 / 3])]},
        {"id": "3", "topic": ["art"], "topic_shares": [[1.0, 0.0]]},
    ]
    assert adds_up(corpus)
    assert [(bad.line, bad.expected_drop) for bad in corpus.quarantine] == [(7, False), (3, True), (5, True)]
    assert corpus.agreement["topic"]["items"] == 2  # the tie included


def test_annotators_in_rows_of_their_own_may_judge_several_targets(tmp_path: Path) -> None:
    rows = [("tax", "favor"), ("bridge", "against"), ("tax", "favor"), ("tax", "against"), ("bridge", "")]
    text = "id,text,to,vote\n" + "".join(f"1,a,{target},{vote}\n" for target, vote in rows)
    stance = LabelsConfig(annotators=["vote"], target="to")
    corpus = load(tmp_path, write(tmp_path, text), stance=stance, merge_rows=True)
    (stances,) = corpus.table["stance"].to_pylist()
    assert [(s["target"], s["stance"]) for s in stances] == [("tax", "favor"), ("bridge", "against")]
    assert adds_up(corpus)


def test_shares_of_merged_stances_stay_with_them(tmp_path: Path) -> None:
    stance = LabelsConfig(columns=["pro", "con"], largest=True, soft=True, target="to",
                          map={"pro": "favor", "con": "against"})  # fmt: skip
    text = "id,text,to,pro,con\n1,a,tax,3,1\n1,a,bridge,0,2\n2,b,tax,,\n"
    table = load(tmp_path, write(tmp_path, text), stance=stance, merge_rows=True).table
    assert table["stance_shares"].to_pylist() == [[[0.75, 0.25, 0.0], [0.0, 1.0, 0.0]], None]


def test_the_fingerprint_tells_shares_apart(tmp_path: Path) -> None:
    def fingerprint(pro: int) -> str:
        topic = LabelsConfig(columns=["art", "sport"], largest=True, soft=True, labels=["art", "sport"])
        return load(tmp_path, write(tmp_path, f"id,text,art,sport\n1,a,{pro},1\n"), topic=topic).fingerprint

    assert fingerprint(2) != fingerprint(3)


def test_a_corpus_without_annotators_has_no_agreement(tmp_path: Path, tiny_rows: list[dict[str, Any]]) -> None:
    assert load(tmp_path, write_rows(tmp_path, tiny_rows)).agreement == {}


def test_a_column_of_an_annotator_must_be_there(tmp_path: Path) -> None:
    topic = LabelsConfig(annotators=["topic", "a2"], labels=["art", "sport"])
    with pytest.raises(CorpusError, match="no column 'a2'"):
        load(tmp_path, write(tmp_path, "id,text,topic\n1,a,art\n"), topic=topic)


# HTML pages

PAGE = """<!doctype html>
<html><head><title>Ferry sails again | Example Gazette</title><meta name="author" content="Ann Example">
<meta property="article:published_time" content="2023-05-04T08:00:00Z"><script>var visits = 7;</script></head>
<body><nav><a href="/">Home</a> <a href="/sport">Sport</a> <a href="/shop">Shop</a></nav>
<article><h1>Ferry sails again</h1>
<p>The ferry to the island sails again from Monday, the harbour office said after three weeks of repairs.</p>
<p>Two boats will cross each hour &amp; tickets cost what they did before the storm in April.</p></article>
<footer>Copyright Example Gazette. Subscribe to our newsletter.</footer></body></html>"""


def test_of_an_html_page_the_text_the_title_the_author_and_the_date_are_read(tmp_path: Path) -> None:
    (row,) = load(
        tmp_path, write_rows(tmp_path, [{"id": "1", "text": PAGE, "topic": "health"}]), html=True
    ).table.to_pylist()
    assert "from Monday, the harbour office said" in row["text"]
    assert "each hour & tickets" in row["text"]
    assert not re.search(r"<|visits|Shop|newsletter", row["text"])
    assert (row["title"], row["author"], row["published"]) == ("Ferry sails again", "Ann Example", "2023-05-04")


def test_what_the_row_says_goes_before_what_the_html_page_says(tmp_path: Path) -> None:
    said = {"title": "Ferry", "author": "Bo", "published": "2023-05-05"}
    rows = [{"id": "1", "text": PAGE, "topic": "health", **said}]
    (row,) = load(tmp_path, write_rows(tmp_path, rows), html=True).table.to_pylist()
    assert {name: row[name] for name in said} == said


def test_a_page_is_plain_text_unless_the_configuration_says_html(tmp_path: Path) -> None:
    (row,) = load(tmp_path, write_rows(tmp_path, [{"id": "1", "text": PAGE, "topic": "health"}])).table.to_pylist()
    assert row["text"] == PAGE
    assert row["title"] is None


@pytest.mark.parametrize("page", ["<html><body><nav></nav></body></html>", "no page at all", "<" * 99])
def test_a_page_without_a_main_text_is_a_bad_row(tmp_path: Path, page: str) -> None:
    rows = [{"id": "1", "text": page, "topic": "health"}, {"id": "2", "text": PAGE, "topic": "health"}]
    corpus = load(tmp_path, write_rows(tmp_path, rows), html=True, max_bad_rows=1)
    (bad,) = corpus.quarantine
    assert (bad.line, bad.field, bad.value) == (1, "text", page)
    assert bad.reason == "no main text was found in this HTML page"
    assert adds_up(corpus)


# other formats


def test_an_index_joined_with_one_json_file_an_article(tmp_path: Path) -> None:
    for id_, text in (("x1", "one"), ("x2", "two"), ("x3", "not in the index")):
        write(tmp_path, json.dumps({"ID": id_, "text": text, "bias": 9}), f"json/{id_}.json")
    write(tmp_path, "ID\ttopic\nx2\tart\nx1\tsport\n", "index.tsv")
    index, join = FileConfig(path="index.tsv", split="test"), JoinConfig(path="json/*.json", on=["ID"])
    corpus = load(tmp_path, index, joins=[join], columns=ColumnsConfig(id="ID"), topic=TOPIC)
    assert [(r["id"], r["text"], r["topic"], r["split"]) for r in corpus.table.to_pylist()] == [
        ("x2", "two", ["art"], "test"),
        ("x1", "one", ["sport"], "test"),
    ]


def test_an_index_joined_with_text_files_by_their_names(tmp_path: Path) -> None:
    for id_ in ("x1", "x2"):
        write(tmp_path, f"text of {id_}", f"texts/{id_}.txt")
    write(tmp_path, "ID,topic\nx2,art\n", "index.csv")
    join = JoinConfig(path="texts", from_path=r"(?P<ID>[^/]+)\.txt$", on=["ID"])
    corpus = load(tmp_path, "index.csv", joins=[join], columns=ColumnsConfig(id="ID"), topic=TOPIC)
    assert corpus.table["text"].to_pylist() == ["text of x2"]


def test_rows_of_one_json_list_need_not_have_the_same_keys(tmp_path: Path) -> None:
    name = write(tmp_path, '[{"id": 1, "text": "a"}, {"id": 2, "text": "b", "topic": "art"}]', "a.json")
    assert load(tmp_path, name, topic=TOPIC).table["topic"].to_pylist() == [None, ["art"]]


# configuration


def test_path_is_a_shorthand_for_one_file(tmp_path: Path) -> None:
    name = write_rows(tmp_path, [{"id": "1", "text": "a"}])
    assert len(load_corpus(CorpusConfig(root=str(tmp_path), path=name))) == 1


@pytest.mark.parametrize("keys", [{}, {"path": "a.csv", "max_bad_rows": -1}])
def test_a_corpus_configuration_that_cannot_work(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CorpusConfig(**keys)


def test_a_folder_of_classes_is_a_corpus(tmp_path: Path) -> None:
    for number, label in enumerate(("art", "art", "sport")):
        write(tmp_path, f"text {number}", f"c/{label}/{number}.txt")
    topic = LabelsConfig(columns=["class"], labels=["art", "sport"])
    corpus = load(tmp_path, FileConfig(path="c", format=Format.folder), columns=ColumnsConfig(id="path"), topic=topic)
    assert corpus.table["id"].to_pylist() == ["art/0.txt", "art/1.txt", "sport/2.txt"]
    assert corpus.table["topic"].to_pylist() == [["art"], ["art"], ["sport"]]


# documentation


GUIDE = (Path(__file__).parents[2] / "docs" / "own-corpus.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", [FileConfig, JoinConfig, ColumnsConfig, LabelsConfig, CorpusConfig])
def test_every_key_is_in_the_guide(config: type[Any]) -> None:
    files = {"files", "columns", "name", "topic", "framing", "stance"}  # its sections, and the joins' own
    assert [f.name for f in fields(config) if f"`{f.name}`" not in GUIDE and f.name not in files | {"on", "key"}] == []


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL))
def test_the_guides_examples_are_configurations(example: str) -> None:
    keys = OmegaConf.create(example)
    keys.pop("defaults", None)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CorpusConfig), keys))
    assert isinstance(config, CorpusConfig)
    for name, labels in label_configs(config).items():
        LabelReader(make_task(name, labels), labels)
