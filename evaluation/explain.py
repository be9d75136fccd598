"""`slantwise explain`: one article as a page: what was read of it, the model's answers, and the sentences that carry
them; and how far these can be believed."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from evaluation.contributions import contributions
from evaluation.evidence import Doubles, Faithfulness, choose_evidence, faithfulness, occlusion
from evaluation.pages import template
from evaluation.report import breakable, number, share, signed
from slantwise.article import Article, Example, classifier_text, read_article
from slantwise.cleaning import Cleaner, Removed, Span, aligned_lines
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, ScoringError
from slantwise.inputs import Columns, InputOptions, Rejection, Request, parse
from slantwise.linear import LinearClassifier
from slantwise.locate import locate_model
from slantwise.mentions import Range, find_mentions, sentences
from slantwise.model import Model, load
from slantwise.rows import BadRow, Format, Layout, Row, plain_ending, read_rows

FORMAT = 1
PLAIN = ("", ".txt", ".text", ".md")  # endings of a file that is one text
MOST_SENTENCES = 400  # of a longer text several sentences are taken together: a book is no article
SHOWN_LABELS = 6
NAMED_IDS = 5
LEAST_SHADE = 0.1  # of the strongest sentence's weight; below it a sentence stays unmarked
UNPRINTABLE = "character that is not printable"
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass
class ExplainConfig:
    """`slantwise explain`."""

    model: str = MISSING
    input: str = MISSING
    id: str | None = None  # which article of a file of several
    targets: list[str] = field(default_factory=list)  # in place of those that the article names itself
    format: Format = Format.auto
    encoding: str = "utf-8"
    separator: str | None = None
    columns: Columns = field(default_factory=Columns)
    device: str = "auto"  # where encoders run
    output: str = MISSING  # a new .html file; the same as .json beside it


def main() -> None:
    ConfigStore.instance().store(name="explain_schema", node=ExplainConfig)
    run("explain", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, ExplainConfig)
    page = Path(chosen.output)
    check_output(page)
    progress = Progress()
    article, targets = find_article(chosen)
    with progress.step("load the model"):
        model = load(locate_model(chosen.model), chosen.device)
    with progress.step("explain"):
        facts = {"model": chosen.model, "input": chosen.input}
        figures = explain(model, article, targets, facts, progress.update)
    write(figures, page)
    for warning in figures["warnings"]:
        progress.warn(warning)
    for line in terminal_lines(figures):
        progress.say(line)
    progress.say(f"page: {page}\nfigures: {page.with_suffix('.json')}")


def check_output(page: Path) -> None:
    """Raises ConfigurationError where the page has no .html at its end, or it or its figures exist."""
    if page.suffix != ".html":
        raise ConfigurationError(f"output={page}; expected a name that ends in .html")
    for path in (page, page.with_suffix(".json")):
        if path.exists():
            raise ConfigurationError(f"output={page}: {path} exists; remove it or choose another name")


# --- the article ------------------------------------------------------------------------------------------------------


def find_article(chosen: ExplainConfig) -> tuple[Article, list[str]]:
    """The article that `input` and `id` name, read as `slantwise score` reads it, and the targets that are asked about.

    Raises ScoringError where there is no such article, where a file of several needs an `id`, or where the row cannot
    be used.
    """
    row, found = _find_row(chosen)
    if isinstance(found, Rejection):
        hint = (
            "" if chosen.columns.text in row.values else f"; its columns are {', '.join(row.values)} (columns.text=…)"
        )
        raise ScoringError(f"{row.file}: line {row.line}, field {found.field!r}: {found.reason}{hint}")
    return found.article, list(dict.fromkeys(chosen.targets or found.targets))


def _find_row(chosen: ExplainConfig) -> tuple[Row, Request | Rejection]:
    path, layout = Path(chosen.input), Layout(chosen.input, chosen.format, chosen.encoding, None, chosen.separator)
    if layout.format is Format.auto and plain_ending(path) in PLAIN and path.is_file():
        layout.format = Format.text
    options, ids = InputOptions(chosen.columns), list[str]()
    last: BadRow | tuple[Row, Request | Rejection] | None = None
    for rank, row in enumerate(read_rows(layout, Path()), start=1):
        last = row if isinstance(row, BadRow) else (row, parse(_with_path(row.values), rank, options))
        if isinstance(last, tuple):
            ids.append(str(last[1].id))
            if ids[-1] == chosen.id:
                return last
        if chosen.id is None and rank > NAMED_IDS:
            break
    named = f"{', '.join(ids[:NAMED_IDS])}{', …' if len(ids) > NAMED_IDS else ''}" or "none"
    if chosen.id is not None:
        raise ScoringError(f"id={chosen.id}: {chosen.input} has no such article; its ids are {named}")
    if len(ids) > 1:
        raise ScoringError(f"{chosen.input} holds several articles; choose one with id=…: {named}")
    if not isinstance(last, tuple):
        raise ScoringError(f"{chosen.input} holds no article" if last is None else str(last))
    return last


def _with_path(values: dict[str, Any]) -> dict[str, Any]:
    """A file of text goes by its name without the ending."""
    return {"path": Path(str(values["file"])).stem, **values} if "file" in values else values


@dataclass(frozen=True)
class Reading:
    """What a head reads of an article, and where on the page it stands.

    text       what the classifier sees: title and body
    sentences  character ranges of `text`; of a text of more than MOST_SENTENCES, of runs of them
    spans      for each character of `text` the range of the page that it stands for; None for a title from elsewhere
    removed    the lines of the page that are not read, each with its range of the page
    """

    text: str
    sentences: tuple[Range, ...]
    spans: tuple[Span | None, ...]
    removed: tuple[tuple[Removed, Span], ...]
    title: str | None
    author: str | None
    source: str | None


def read(article: Article, cleaner: Cleaner) -> Reading:
    found, page = read_article(article, cleaner)
    text = classifier_text(found)
    lines = {line.number: line for line in aligned_lines(article.text)}
    gone = {removed.line: removed for removed in page.removed}
    spans: list[Span | None] = []
    if ahead := len(text) - len(found.text):
        title = next((n for n, r in gone.items() if r.text == found.title and not article.title), None)
        spans += [None] * ahead if title is None else [*lines[title].spans, None, None]
        gone.pop(title or 0, None)
    body = [line for number, line in lines.items() if number not in {r.line for r in page.removed}]
    for i, line in enumerate(body):
        spans += [*([None, None] if i else []), *line.spans]
    assert len(spans) == len(text), (len(spans), len(text))
    removed = tuple((line, lines[number].page) for number, line in gone.items())
    held, size = sentences(text), max(1, math.ceil(len(sentences(text)) / MOST_SENTENCES))
    runs = tuple((held[i][0], held[min(i + size, len(held)) - 1][1]) for i in range(0, len(held), size))
    return Reading(text, runs, tuple(spans), removed, found.title, found.author, found.source)


@dataclass(frozen=True)
class Piece:
    """A stretch of the page: of a sentence that is read, of what cleaning removed (with its reason), or neither."""

    text: str
    sentence: int | None = None
    reason: str | None = None


def pieces(page: str, reading: Reading) -> list[Piece]:
    """The whole page, in order, as it was given."""
    owners: list[tuple[int | None, str | None]]
    owners = [(None, None) if c.isspace() else (None, UNPRINTABLE) for c in page]
    for removed, (start, end) in reading.removed:
        owners[start:end] = [(None, removed.reason)] * (end - start)
    for sentence, (start, end) in enumerate(reading.sentences):
        for first, last in filter(None, reading.spans[start:end]):
            owners[first:last] = [(sentence, None)] * (last - first)
    for i in range(1, len(page) - 1):  # blanks within a sentence of which one alone is read
        if owners[i] == (None, None) and owners[i - 1][0] is not None and page[i] not in "\r\n":
            owners[i] = owners[i - 1]
    starts = [i for i in range(len(page)) if not i or owners[i] != owners[i - 1]]
    return [Piece(page[i:end], *owners[i]) for i, end in pairwise([*starts, len(page)])]


def title_pieces(reading: Reading) -> list[Piece]:
    """The title in sentences, where it is read but stands nowhere on the page."""
    if not reading.spans or reading.spans[0] is not None:
        return []
    end = len(reading.title or "")
    return [Piece(reading.text[a : min(b, end)], i) for i, (a, b) in enumerate(reading.sentences) if a < end]


# --- the answers ------------------------------------------------------------------------------------------------------


class Asked:
    """Calibrated probabilities of a model's heads, each text asked about once; heads that share an encoder together."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.known: dict[str, dict[int, Floats]] = {name: {} for name in model.heads}  # by the example's hash

    def raw(self, name: str, examples: Sequence[Example]) -> Floats:
        """(n, n_labels), before calibration."""
        asked = self.model.heads[name]
        together = [
            other for other, head in self.model.heads.items()
            if other == name or (head.body is asked.body is not None and head.task.has_target == asked.task.has_target)
        ]  # fmt: skip
        new = [example for example in dict.fromkeys(examples) if hash(example) not in self.known[name]]
        if new:
            for other, rows in self.model.probabilities(dict.fromkeys(together, new)).items():
                self.known[other].update(zip(map(hash, new), rows, strict=True))
        return np.stack([self.known[name][hash(example)] for example in examples])

    def calibrated(self, name: str, examples: Sequence[Example]) -> Floats:
        head = self.model.heads[name]
        return head.decision.calibrate(self.raw(name, examples), head.task)

    def log_odds(self, name: str, examples: Sequence[Example], label: int) -> Doubles:
        """(n,), of calibrated probabilities; before calibration where that is isotonic, see `contributions`."""
        isotonic = self.model.heads[name].decision.curves is not None
        p = (self.raw if isotonic else self.calibrated)(name, examples)[:, label].astype(np.float64)
        p = np.clip(p, 1e-7, 1 - 1e-7)  # what a float32 can tell from 1
        return np.log(p) - np.log1p(-p)


def explain(
    model: Model, article: Article, targets: Sequence[str], facts: Mapping[str, str],
    tell: Callable[[str], None] = lambda task: None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that the page says, as JSON-ready values; docs/explain.md describes the keys.

    `facts` says where model and article come from; `tell` is called with what is explained next.
    """
    asked, readings, answers = Asked(model), list[Reading](), list[dict[str, Any]]()
    for name, head in model.heads.items():
        reading = read(article, head.cleaner)
        if reading not in readings:
            readings.append(reading)
        for target in targets if head.task.has_target else [None]:
            example = Example(reading.text, target)
            tell(about(name, target))
            answers.append({**_answer(asked, name, example, reading), "reading": readings.index(reading)})
    figures = {
        "format": FORMAT,
        **facts,
        "id": article.id,
        **{key: getattr(readings[0], key) for key in ("title", "author", "source")},
        "readings": [_reading_figures(article, reading) for reading in readings],
        "answers": answers,
        "warnings": _warnings(model, readings, answers, targets),
    }
    return {**figures, "summary": summary(answers)}


def _reading_figures(article: Article, reading: Reading) -> dict[str, Any]:
    return {
        "text": reading.text,
        "sentences": [{"start": start, "end": end} for start, end in reading.sentences],
        "title": [asdict(piece) for piece in title_pieces(reading)],
        "page": [asdict(piece) for piece in pieces(article.text, reading)],
        "removed": [asdict(removed) for removed, _ in reading.removed],
    }


def _answer(asked: Asked, name: str, example: Example, reading: Reading) -> dict[str, Any]:
    """One head's answer about one example; for each label that it gives, what carries it."""
    head = asked.model.heads[name]
    task, decision = head.task, head.decision
    calibrated = asked.calibrated(name, [example])
    decided, best = decision.decide(calibrated, task)[0], int(calibrated[0].argmax())
    thresholds = None
    if task.kind == "multilabel":
        given = np.flatnonzero(decided).tolist()
        thresholds = dict(zip(task.labels, decision.thresholds or [0.5] * len(task.labels), strict=True))
    else:
        best = int(decision.best(calibrated)[0])
        given = [best] if decided >= 0 else []
    labels = sorted(given, key=lambda i: -calibrated[0, i]) or [best]
    return {
        "task": name,
        "kind": task.kind,
        "classifier": head.kind,
        "target": example.target,
        "mentions": None if example.target is None else find_mentions(example.text, example.target).kind,
        "given": [task.labels[i] for i in labels if i in given],
        "probabilities": dict(zip(task.labels, calibrated[0].tolist(), strict=True)),
        "thresholds": thresholds,
        "abstain_below": decision.abstain_below,
        "calibration": decision.calibration,
        "explained": _explained(asked, name, example, reading.sentences, labels),
    }


def _explained(
    asked: Asked, name: str, example: Example, held: Sequence[Range], labels: Sequence[int]
) -> list[dict[str, Any]]:
    head = asked.model.heads[name]
    exact = None
    if isinstance(head.classifier, LinearClassifier):
        exact = contributions(head, head.classifier, example, held, labels)
    found = []
    for place, label in enumerate(labels):

        def log_odds(examples: Sequence[Example], label: int = label) -> Doubles:
            return asked.log_odds(name, examples, label)

        def probability(examples: Sequence[Example], label: int = label) -> Doubles:
            return asked.calibrated(name, examples)[:, label].astype(np.float64)

        shares = None if exact is None else exact[place]
        weights = occlusion(log_odds, example, held) if shares is None else shares.sentences
        evidence = choose_evidence(weights)
        found.append(
            {
                "label": head.task.labels[label],
                "probability": float(probability([example])[0]),
                "method": "occlusion" if shares is None else "exact",
                "calibrated": head.decision.curves is None,
                "log_odds": float(log_odds([example])[0]) if shares is None else shares.log_odds,
                "relation": None if shares is None else shares.relation,
                "target": None if shares is None else shares.target,
                "constant": None if shares is None else shares.constant,
                "sentences": [None if np.isnan(weight) else float(weight) for weight in weights],
                "evidence": evidence,
                "faithfulness": _faithfulness_figures(faithfulness(probability, example, held, evidence)),
            }
        )
    return found


def _faithfulness_figures(found: Faithfulness | None) -> dict[str, Any] | None:
    if found is None:
        return None
    falls = found.random_falls
    return {
        "without": found.without,
        "alone": found.alone,
        "comprehensiveness": found.comprehensiveness,
        "sufficiency": found.sufficiency,
        "draws": len(falls),
        "random_mean": float(np.mean(falls)),
        "random_lowest": min(falls),
        "random_highest": max(falls),
        "beaten": found.beaten,
    }


def about(task: str, target: str | None) -> str:
    return task + (f" towards {target}" if target else "")


def _warnings(
    model: Model, readings: Sequence[Reading], answers: Sequence[Mapping[str, Any]], targets: Sequence[str]
) -> list[str]:
    asking = [name for name, head in model.heads.items() if head.task.has_target]
    found = [f"{name} takes targets, and none was named: targets=[…]" for name in asking if not targets]
    if targets and not asking:
        found.append(f"the model has no task with a target; not asked about: {', '.join(targets)}")
    for each in readings:
        if len(whole := sentences(each.text)) > len(each.sentences):
            found.append(f"{len(whole):,} sentences, taken together to {len(each.sentences):,}")
    absent = [answer["target"] for answer in answers if answer["mentions"] == "none"]
    found += [f"{target} is not named in the text" for target in dict.fromkeys(absent)]
    for answer in answers:
        body = model.heads[answer["task"]].body
        if body is not None:
            encoded = body.encode([Example(readings[answer["reading"]].text, answer["target"])])
            if encoded.cut_tokens:
                seen = share(1 - encoded.cut_tokens / encoded.tokens)
                found.append(f"{about(answer['task'], answer['target'])}: the encoder reads {seen} of the text")
    return found


# --- in words ---------------------------------------------------------------------------------------------------------


def summary(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each answer."""
    found = []
    for answer in answers:
        what = about(answer["task"], answer["target"])
        labels = [f"{each['label']} ({number(each['probability'], 2)})" for each in answer["explained"]]
        if answer["given"]:
            found.append(f"{what}: {', '.join(labels)}")
        elif answer["kind"] == "multilabel":
            found.append(f"{what}: none; the most probable is {labels[0]}")
        else:
            below = number(answer["abstain_below"], 2)
            found.append(f"{what}: the model abstains; {labels[0]} is below {below}")
    return found


def in_words(view: Mapping[str, Any]) -> str:
    """How faithful the evidence of a label is."""
    n, figures = len(view["evidence"]), view["faithfulness"]
    if not n:
        return "No sentence speaks for it."
    if figures is None:
        return "The evidence is the whole text, so there is nothing to hold it against."
    these = f"these {n} sentences" if n > 1 else "this sentence"
    at_random = f"{n} sentence{'s' * (n > 1)} drawn at random"
    p, fall = view["probability"], figures["comprehensiveness"]
    moves = f"{'falls' if fall >= 0 else 'rises'} by {number(abs(fall), 2)}, from {number(p, 2)} to"
    drawn = [number(p - figures[key], 2) for key in ("random_mean", "random_highest", "random_lowest")]
    draws, beaten = figures["draws"], figures["beaten"]
    told = (
        f"Without {these} the probability {moves} {number(figures['without'], 2)}. Without {at_random} it is "
        f"{drawn[0]} on average ({drawn[1]} to {drawn[2]}, {draws} draw{'s' * (draws > 1)})."
    )
    if beaten == draws:
        return f"{told} No draw costs as much: this is what carries the answer."
    if fall > max(figures["random_mean"], 0):
        return f"{told} {draws - beaten} of {draws} draws cost as much or more: others carry the answer, too."
    return f"{told} That is no more than by chance: do not take this for what carries the answer."


def terminal_lines(figures: Mapping[str, Any]) -> list[str]:
    """The answers, a line each, and below them what their evidence is worth."""
    found = []
    for answer, line in zip(figures["answers"], figures["summary"], strict=True):
        found.append(line)
        for view in answer["explained"]:
            if falls := view["faithfulness"]:
                at_random = number(view["probability"] - falls["random_mean"], 2)
                n = f"{len(view['evidence'])} of {len(view['sentences'])} sentences"
                found.append(f"  {view['label']}: {number(falls['without'], 2)} without {n}, {at_random} at random")
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def write(figures: Mapping[str, Any], page: Path) -> None:
    """The page, and its figures as .json beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False)
    page.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    page.write_text(render(figures), encoding="utf-8")


def render(figures: Mapping[str, Any]) -> str:
    """The page; Jinja escapes every text."""
    page = template(
        "explain.html.j2", number=number, signed=signed, breakable=breakable, in_words=in_words, visible=visible
    )  # fmt: skip
    views = _views(figures["answers"])
    return page.render(figures, views=views, texts=_texts(figures["readings"], views), shown_labels=SHOWN_LABELS)


def visible(text: str) -> str:
    """Characters that would steer the page, such as those that turn the direction of writing, as their numbers."""
    return "".join(
        c if c in "\n\t\r" or unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp")
        else "\n" if c.isspace() else f"[U+{ord(c):04X}]"
        for c in text
    )  # fmt: skip


def _views(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What can be chosen on the page: a label of an answer."""
    found: list[dict[str, Any]] = []
    for place, answer in enumerate(answers):
        for view in answer["explained"]:
            said = about(view["label"], answer["target"])
            more = {"name": f"v{len(found)}", "answer": place, "about": said, "reading": answer["reading"]}
            found.append({**view, **more, "shades": shades(view)})
    return found


def shades(view: Mapping[str, Any]) -> dict[int, str]:
    """How each sentence that counts is marked: e1 to e3 for evidence, p1 to p3 and n1 to n3 for other sentences that
    speak for the label or against it; the digit grows with the weight."""
    weights = {i: weight for i, weight in enumerate(view["sentences"]) if weight is not None}
    most = max(map(abs, weights.values()), default=0.0)
    found = {}
    for i, weight in weights.items():
        strength = abs(weight) / most if most else 0.0
        kind = "e" if i in view["evidence"] else "p" if weight > 0 else "n"
        if kind == "e" or strength >= LEAST_SHADE:
            found[i] = f"{kind}{1 + (strength > 1 / 3) + (strength > 2 / 3)}"
    return found


def _texts(readings: Sequence[Mapping[str, Any]], views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each reading its title and its page in pieces; one that begins a sentence with its `id`, one of a sentence
    with its shade in each view (`marks`) and with what it says for and against labels (`said`, a line for each)."""
    texts = []
    for r, reading in enumerate(readings):
        begun: set[int] = set()
        text: dict[str, list[dict[str, Any]]] = {"title": [], "page": []}
        for part, held in text.items():
            for piece in reading[part]:
                sentence = piece["sentence"]
                own = [view for view in views if view["reading"] == r and sentence in view["shades"]]
                marks = {view["name"]: view["shades"][sentence] for view in own}
                said = "\n".join(visible(f"{view['about']}: {_weight(view, sentence)}") for view in own)
                held.append({**piece, "marks": marks, "said": said, "begins": sentence not in begun})
                begun.add(sentence)
        texts.append(text)
    return texts


def _weight(view: Mapping[str, Any], sentence: int) -> str:
    rank = f", evidence {view['evidence'].index(sentence) + 1}" if sentence in view["evidence"] else ""
    return signed(view["sentences"][sentence], 2) + rank


if __name__ == "__main__":
    main()
