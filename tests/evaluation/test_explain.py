"""`slantwise explain`: the article as it was given, the model's answers, and a page that holds text alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st

from data.examples import LabelledExamples
from evaluation import explain as command
from evaluation.explain import (
    PLAIN,
    ExplainConfig,
    explain,
    find_article,
    in_words,
    pieces,
    read,
    render,
    shades,
    summary,
    title_pieces,
    write,
)
from slantwise.article import Article, Example, classifier_text, read_article
from slantwise.cleaning import Cleaner, aligned_lines, normalise
from slantwise.decision import Decision
from slantwise.errors import ScoringError
from slantwise.inputs import Columns
from slantwise.model import Head, Model
from slantwise.task import Task
from tests.evaluation.test_report import PAYLOADS
from training.linear import LinearConfig, fit

SEED = Path(__file__).parents[2] / "seeds" / "000_c69c3c6dcd667f41.txt"
PAGE = """Facebook Twitter RSS

The Mayor Opens A New Tram Line

By Ann Oak

The mayor opened a tram line on Monday. It had  cost more than was said. Critics called it a waste of money.

The old line closes in May, the town hall said on Monday. Nobody will miss it, riders told us at the stop.

Subscribe to our newsletter
"""
TOPICS = Task("topic", "multiclass", ("health", "sport", "weather"))
FRAMES = Task("framing", "multilabel", ("economic", "morality"))
STANCES = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
WORDS = ("The clinic has a vaccine.", "A goal won the league.", "A storm brought frost.")
VERBS = ("praised", "condemned", "met")


def labelled(task: Task, numbers: range) -> LabelledExamples:
    texts = [f"Story {n}. {WORDS[n % 3]} The mayor {VERBS[n // 3 % 3]} the Tram Line." for n in numbers]
    gold = {
        "topic": np.array([n % 3 for n in numbers]),
        "framing": np.array([[n % 2 == 0, n % 3 == 0] for n in numbers]),
        "stance": np.array([n // 3 % 3 for n in numbers]),
    }[task.name]
    examples = [Example(text, "Tram Line" if task.has_target else None) for text in texts]
    ids = [str(n) for n in numbers]
    return LabelledExamples(task, ids, examples, gold, ids, [None] * len(ids))


def head(task: Task, decision: Decision, cleaner: Cleaner) -> Head:
    fitted = fit(task, labelled(task, range(18)), labelled(task, range(18, 27)), LinearConfig(C=[3.0], refit=False))
    return Head(task, fitted.classifier, decision, cleaner)


@pytest.fixture(scope="module")
def model() -> Model:
    """Stance is read with another cleaning, which leaves all lines in."""
    return Model(
        {
            "topic": head(TOPICS, Decision(abstain_below=0.4), Cleaner()),
            "framing": head(FRAMES, Decision(thresholds=(0.45, 0.99)), Cleaner()),
            "stance": head(STANCES, Decision(slopes=(2.0,) * 3, intercepts=(0.0,) * 3), Cleaner(furniture=False)),
        }
    )


FACTS = {"model": "models/m", "input": "articles.jsonl"}
NEWS = Article("a1", "Note one\n\n" + " ".join(WORDS[:2] * 3) + " The mayor condemned the Tram Line. It left.", "Goal")


# --- what was read ---


@given(
    st.text(st.sampled_from([*"ab .\t\n\r", *"\x00\u00a0\u200b\u00ad\u0301é\u1100\u1161\u212b\u0344\u0958\x85\u2028"]))
)
def test_aligned_lines_are_the_lines_that_cleaning_reads_and_say_where_they_stand(text: str) -> None:
    lines = aligned_lines(text)
    assert [line.text for line in lines] == [line for line in normalise(text).split("\n") if line]
    places = [span for line in lines for span in line.spans]
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert [start for start, _ in places] == sorted(start for start, _ in places)
    for line in lines:
        for c, (start, end) in zip(line.text, line.spans, strict=True):
            assert c in normalise(f"1{text[start:end]}1")  # no accent joins a digit


@given(st.text(max_size=200), st.one_of(st.none(), st.text(min_size=1, max_size=20)))
def test_the_pieces_of_a_page_are_the_page(text: str, title: str | None) -> None:
    reading = read(Article("a", text, title), Cleaner())
    assert "".join(piece.text for piece in pieces(text, reading)) == text


@pytest.mark.parametrize("title", [None, "The Mayor Opens A New Tram Line", "Another Headline Altogether"])
def test_each_sentence_that_is_read_is_shown_where_it_stands(title: str | None) -> None:
    article = Article("a", PAGE, title)
    reading = read(article, Cleaner())
    assert reading.text == classifier_text(read_article(article, Cleaner())[0])
    shown = [*title_pieces(reading), *pieces(PAGE, reading)]
    for i, (start, end) in enumerate(reading.sentences):
        found = " ".join(piece.text.strip() for piece in shown if piece.sentence == i)
        assert " ".join(found.split()) == reading.text[start:end].strip()


def test_what_cleaning_removed_is_shown_with_the_reason() -> None:
    removed = {piece.text: piece.reason for piece in pieces(PAGE, read(Article("a", PAGE), Cleaner())) if piece.reason}
    assert removed == {
        "Facebook Twitter RSS": "share bar",
        "By Ann Oak": "byline",
        "Subscribe to our newsletter": "newsletter, membership or site notice",
    }


def test_a_title_that_is_known_already_is_greyed_on_the_page_and_shown_above_it() -> None:
    reading = read(Article("a", PAGE, "The Mayor Opens A New Tram Line"), Cleaner())
    assert [piece.text for piece in title_pieces(reading)] == ["The Mayor Opens A New Tram Line"]
    assert ("The Mayor Opens A New Tram Line", "title") in {(p.text, p.reason) for p in pieces(PAGE, reading)}


def test_characters_that_are_dropped_within_a_line_are_shown_as_removed() -> None:
    text = "One\u200b two e\u0301 three."
    found = [(p.text, p.sentence) for p in pieces(text, read(Article("a", text), Cleaner()))]
    assert found == [("One", 0), ("\u200b", None), (" two e\u0301 three.", 0)]


def test_the_seed_article_is_read_as_its_nine_paragraphs_and_its_title() -> None:
    text = SEED.read_text(encoding="utf-8")
    reading = read(Article("seed", text), Cleaner())
    kept = [piece for piece in pieces(text, reading) if piece.sentence is not None]
    assert kept[0].text == "The Battle for Aleppo: HTS Opens New Front to Draw Syria and Russia Away from Idlib"
    assert len(set(reading.text.split("\n\n"))) == 10
    assert {removed.reason for removed, _ in reading.removed} >= {"share bar", "caption or picture credit", "byline"}


# --- the answers ---


def test_probabilities_and_labels_are_those_of_scoring(model: Model) -> None:
    [scored] = model.predict([NEWS], [["Tram Line", "Mayor"]])
    topic, framing, line, mayor = explain(model, NEWS, ["Tram Line", "Mayor"], FACTS)["answers"]
    assert topic["given"] == ([scored["topic"]["label"]] if scored["topic"]["label"] else [])
    assert topic["probabilities"] == pytest.approx(scored["topic"]["probabilities"], abs=1e-6)
    assert framing["given"] == scored["framing"]["labels"]
    assert [line["given"], mayor["given"]] == [[each["label"]] for each in scored["stance"]]
    assert [line["target"], mayor["target"]] == ["Tram Line", "Mayor"]


def test_shares_of_the_sentences_add_up_to_the_log_odds_of_the_probability(model: Model) -> None:
    for answer in explain(model, NEWS, ["Tram Line"], FACTS)["answers"]:
        for view in answer["explained"]:
            assert view["method"] == "exact"
            total = sum(view["sentences"]) + view["relation"] + view["target"] + view["constant"]
            assert total == pytest.approx(view["log_odds"])
            p = view["probability"]
            assert view["log_odds"] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_the_sentence_that_training_has_with_the_label_is_the_evidence(model: Model) -> None:
    answers = explain(model, NEWS, ["Tram Line"], FACTS)
    stance = answers["answers"][-1]
    held = answers["readings"][stance["reading"]]
    first = stance["explained"][0]
    start, end = held["sentences"][first["evidence"][0]].values()
    assert (first["label"], held["text"][start:end].strip()) == ("against", "The mayor condemned the Tram Line.")
    assert first["faithfulness"]["comprehensiveness"] > first["faithfulness"]["random_mean"]


def test_abstaining_is_said_and_the_label_that_was_not_given_is_explained(model: Model) -> None:
    strict = replace(model.heads["topic"], decision=Decision(abstain_below=0.999))
    figures = explain(Model({"topic": strict}), NEWS, [], FACTS)
    [answer] = figures["answers"]
    assert answer["given"] == []
    assert len(answer["explained"]) == 1
    assert "abstains" in figures["summary"][0]
    assert "abstains below 1.00" in render(figures)


def test_no_label_over_its_threshold_is_said(model: Model) -> None:
    strict = replace(model.heads["framing"], decision=Decision(thresholds=(0.999, 0.999)))
    figures = explain(Model({"framing": strict}), NEWS, [], FACTS)
    assert figures["answers"][0]["given"] == []
    assert "none; the most probable is" in figures["summary"][0]


def test_costs_choose_the_label_that_is_explained(model: Model) -> None:
    plain = explain(Model({"topic": model.heads["topic"]}), NEWS, [], FACTS)["answers"][0]["explained"][0]["label"]
    other = next(label for label in TOPICS.labels if label != plain)
    costs = tuple(tuple(float(label != other) for label in TOPICS.labels) for _ in TOPICS.labels)
    dear = Model({"topic": replace(model.heads["topic"], decision=Decision(costs=costs))})
    answer = explain(dear, NEWS, [], FACTS)["answers"][0]
    assert [view["label"] for view in answer["explained"]] == answer["given"] == [other]


def test_of_a_long_text_sentences_are_taken_together(model: Model) -> None:
    text = " ".join(f"Sentence {i} of many." for i in range(900))
    figures = explain(model, Article("a", text), ["Tram Line"], FACTS)
    held = figures["readings"][0]["sentences"]
    assert len(held) == 300
    assert [each["start"] for each in held] == [0, *(each["end"] for each in held[:-1])]
    assert "900 sentences, taken together to 300" in figures["warnings"]


def test_readings_that_differ_are_kept_apart(model: Model) -> None:
    figures = explain(model, Article("a", PAGE), ["Tram Line"], FACTS)
    assert [answer["reading"] for answer in figures["answers"]] == [0, 0, 1]
    assert [len(reading["removed"]) for reading in figures["readings"]] == [3, 0]
    assert render(figures).count('class="reading"') == 2


@pytest.mark.parametrize("text", ["\u200b", "!", "Facebook Twitter"])
def test_a_text_with_hardly_a_word_is_explained_by_what_is_there(model: Model, text: str) -> None:
    figures = explain(model, Article("a", text), ["Tram Line"], FACTS)
    for answer in figures["answers"]:
        count = len(figures["readings"][answer["reading"]]["sentences"])
        assert count == (text != "\u200b")
        assert [len(view["sentences"]) for view in answer["explained"]] == [count] * len(answer["explained"])
    render(figures)


def test_a_text_of_one_sentence_is_explained_without_a_comparison(model: Model) -> None:
    figures = explain(model, Article("a", "The mayor condemned the Tram Line."), ["Tram Line"], FACTS)
    views = [view for answer in figures["answers"] for view in answer["explained"]]
    assert all(view["faithfulness"] is None for view in views)
    assert "nothing to hold it against" in in_words(views[-1])
    render(figures)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [([], "stance takes targets, and none was named"), (["Harbour Plan"], "Harbour Plan is not named in the text")],
)
def test_targets_that_are_missing_are_said(model: Model, targets: list[str], expected: str) -> None:
    assert expected in " ".join(explain(model, NEWS, targets, FACTS)["warnings"])


def test_targets_that_no_task_takes_are_said(model: Model) -> None:
    figures = explain(Model({"topic": model.heads["topic"]}), NEWS, ["Tram Line"], FACTS)
    assert figures["warnings"] == ["the model has no task with a target; not asked about: Tram Line"]


def view(falls: Sequence[float], comprehensiveness: float, evidence: Sequence[int] = (3, 1)) -> dict[str, Any]:
    figures = {
        "without": 0.8 - comprehensiveness, "alone": 0.7, "comprehensiveness": comprehensiveness, "draws": len(falls),
        "random_mean": float(np.mean(falls)), "random_lowest": min(falls), "random_highest": max(falls),
        "beaten": sum(fall < comprehensiveness for fall in falls),
    }  # fmt: skip
    return {"probability": 0.8, "evidence": list(evidence), "faithfulness": figures}


@pytest.mark.parametrize(
    ("falls", "fall", "expected"),
    [
        ([0.1, 0.2], 0.5, "falls by .50, from .80 to .30. Without 2 sentences drawn at random it is .65 on average "
                          "(.60 to .70, 2 draws). No draw costs as much: this is what carries the answer."),
        ([0.1, 0.6, 0.1], 0.5, "1 of 3 draws cost as much or more: others carry the answer, too."),
        ([0.1, 0.2], 0.1, "That is no more than by chance: do not take this for what carries the answer."),
        ([-0.3, -0.2, 0.1], -0.1, "rises by .10, from .80 to .90."),
    ],
)  # fmt: skip
def test_how_faithful_the_evidence_is_stands_there_in_words(falls: list[float], fall: float, expected: str) -> None:
    assert expected in in_words(view(falls, fall))


def test_shades_follow_the_weights() -> None:
    weights = [0.9, 0.4, 0.05, -0.5, -1.0, None]
    assert shades({"sentences": weights, "evidence": [0]}) == {0: "e3", 1: "p2", 3: "n2", 4: "n3"}


# --- encoders ---


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> Model:
    from tests.slantwise.test_transformer import make_body, make_model

    return make_model(make_body(tiny_encoder))


def test_an_encoder_is_explained_by_leaving_out_each_sentence(encoder: Model) -> None:
    figures = explain(encoder, NEWS, ["Tram Line"], FACTS)
    answer = figures["answers"][0]
    first, reading = answer["explained"][0], figures["readings"][answer["reading"]]
    topic, label = encoder.heads["topic"], encoder.heads["topic"].task.labels.index(first["label"])
    assert first["method"] == "occlusion"
    for i, held in enumerate(reading["sentences"][:3]):
        rest = (reading["text"][: held["start"]] + reading["text"][held["end"] :]).strip()
        p, less = topic.predict([Example(reading["text"]), Example(rest)])[:, label].astype(float)
        assert first["sentences"][i] == pytest.approx(np.log(p / (1 - p)) - np.log(less / (1 - less)), abs=1e-4)
    assert "Occlusion" in render(figures)


def test_heads_that_share_an_encoder_share_its_passes(encoder: Model) -> None:
    body = encoder.heads["topic"].body
    assert body is not None
    runtime: Any = body.runtime
    counts = []
    for names in (["topic"], ["topic", "framing"]):
        runtime.windows = 0
        explain(Model({name: encoder.heads[name] for name in names}), NEWS, [], FACTS)
        counts.append(runtime.windows)
    occluded = len(read(NEWS, Cleaner()).sentences) + 1
    assert counts[1] - counts[0] < occluded


def test_what_the_encoder_does_not_read_is_said(encoder: Model) -> None:
    long = Article("a", " ".join(["Storm and frost came on day one."] * 400))
    assert re.search(
        r"topic: the encoder reads [\d.]+ % of the text", " ".join(explain(encoder, long, [], FACTS)["warnings"])
    )


# --- the article that is meant ---

ROWS = [
    {"id": "a1", "text": "One. Two.", "title": " A title ", "source": "x.example", "targets": ["Tram Line"]},
    {"id": "a2", "text": "Three.", "stances": [{"target": "Mayor", "stance": "favor"}]},
    {"id": 7, "text": " "},
]


def test_an_article_of_several_is_found_by_its_id(write_jsonl: Callable[..., Path]) -> None:
    path = str(write_jsonl(ROWS))
    assert find_article(ExplainConfig(input=path, id="a1")) == (
        Article("a1", "One. Two.", "A title", source="x.example"), ["Tram Line"]
    )  # fmt: skip
    assert find_article(ExplainConfig(input=path, id="a2"))[1] == ["Mayor"]
    assert find_article(ExplainConfig(input=path, id="a2", targets=["Tram", "Tram"]))[1] == ["Tram"]


@pytest.mark.parametrize(
    ("id_", "expected"),
    [
        (None, "holds several articles; choose one with id=…: a1, a2, 7"),
        ("b", "id=b: .* has no such article; its ids are a1, a2, 7"),
        ("7", "line 3, field 'text': the text is empty"),
    ],
)
def test_an_article_that_cannot_be_had_is_named(
    write_jsonl: Callable[..., Path], id_: str | None, expected: str
) -> None:
    with pytest.raises(ScoringError, match=expected):
        find_article(ExplainConfig(input=str(write_jsonl(ROWS)), id=id_))


def test_a_column_that_is_missing_is_named(write_jsonl: Callable[..., Path]) -> None:
    path, columns = str(write_jsonl(ROWS[:1])), Columns(text="body")
    with pytest.raises(ScoringError, match="field 'body': the text is missing; its columns are id, text,"):
        find_article(ExplainConfig(input=path, columns=columns))


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{broken\n", encoding="utf-8")
    with pytest.raises(ScoringError, match="line 1: not valid JSON"):
        find_article(ExplainConfig(input=str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("ending", PLAIN)
def test_a_file_of_plain_text_is_one_article(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"story{ending}"
    path.write_text(PAGE, encoding="utf-8")
    assert find_article(ExplainConfig(input=str(path))) == (Article("story", PAGE), [])


def test_targets_of_a_table_stand_between_bars(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body,targets\n1,One.,Tram Line| Mayor\n", encoding="utf-8")
    article, targets = find_article(ExplainConfig(input=str(tmp_path / "a.csv"), columns=Columns(text="body")))
    assert (article.id, targets) == ("1", ["Tram Line", "Mayor"])


# --- the page ---

ELEMENTS = set(
    "html head meta title style body main header section h1 h2 h3 p a ul ol li dl dt dd div span b i u bdi wbr del "
    "table caption tr th td details summary label input".split()
)


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(model: Model) -> dict[str, Any]:
    """What is said of an article all of whose texts are payloads, by a model whose labels are payloads, too."""
    everything = " ".join(PAYLOADS)
    labels = {"topic": PAYLOADS[:3], "framing": PAYLOADS[:2], "stance": PAYLOADS[:3]}
    heads = {}
    for name, each in model.heads.items():
        task = replace(each.task, labels=labels[name])
        heads[name] = replace(each, task=task)
    text = "\n\n".join(
        [f"{everything}.", f"The Tram Line is {everything} today, and so is the storm. {WORDS[0]}", WORDS[1]]
    )
    article = Article(everything, text, everything, source=everything)
    facts = {"model": everything, "input": everything}
    return explain(Model(heads), article, [everything, "Tram Line"], facts)


def test_a_page_of_payloads_holds_no_element_of_theirs(model: Model) -> None:
    page = Parsed(render(hostile(model)))
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    attributes = [(name, value) for _, held in page.elements for name, value in held.items()]
    assert [name for name, _ in attributes if name.startswith("on") or name in ("src", "srcset", "action")] == []
    assert all((value or "").startswith("#") for name, value in attributes if name == "href")
    assert [text for text in PAYLOADS if text not in page.text] == []


def test_ids_of_a_page_are_unique_and_its_links_lead_somewhere(model: Model) -> None:
    for figures in (hostile(model), explain(model, Article("a", PAGE), ["Tram Line"], FACTS)):
        page = Parsed(render(figures))
        ids = [held["id"] for _, held in page.elements if "id" in held]
        assert len(ids) == len(set(ids))
        assert {f"#{each}" for each in ids} >= {held["href"] for tag, held in page.elements if tag == "a"}


def test_a_policy_in_the_page_forbids_scripts_and_the_network(model: Model) -> None:
    page = Parsed(render(explain(model, NEWS, [], FACTS)))
    policies = [held["content"] for tag, held in page.elements if tag == "meta" and "http-equiv" in held]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_characters_that_turn_the_direction_of_the_page_are_written_out(model: Model) -> None:
    page = render(explain(model, Article("a", "A \u202e word. Another \x00 one.", "T\u2066itle"), ["\u202eX"], FACTS))
    assert not {"\u202e", "\x00", "\u2066"} & set(page)
    assert "[U+202E]" in page


def test_the_figures_stand_beside_the_page(model: Model, tmp_path: Path) -> None:
    figures = hostile(model)
    write(figures, tmp_path / "new" / "page.html")
    assert json.loads((tmp_path / "new" / "page.json").read_text(encoding="utf-8")) == json.loads(json.dumps(figures))
    assert summary(figures["answers"]) == figures["summary"]


# --- the command ---


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["slantwise explain", *arguments])
    try:
        command.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_takes_a_run_directory_and_a_text_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "run" / "model")
    output = tmp_path / "seed.html"
    arguments = (f"model={tmp_path / 'run'}", f"input={SEED}", "targets=[Turkey]", f"output={output}")
    assert run(monkeypatch, *arguments) == 0
    told = capsys.readouterr().err
    assert f"page: {output}" in told.replace("\n", "")
    figures = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert (figures["author"], figures["source"]) == ("Khaled Iskef", "21st Century Wire")
    assert "".join(piece["text"] for piece in figures["readings"][0]["page"]) == SEED.read_text(encoding="utf-8")
    assert run(monkeypatch, *arguments) == 2
    assert "exists; remove it or choose another name" in capsys.readouterr().err


def test_an_output_that_is_no_page_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "model=none", "input=none", f"output={tmp_path / 'page.pdf'}") == 2
    assert "expected a name that ends in .html" in capsys.readouterr().err
