"""The model card: Markdown for people, with the front matter that the hub reads (Mitchell et al. 2019)."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import slantwise

if TYPE_CHECKING:
    from slantwise.body import Body
    from slantwise.model import Head, Model

TOLD = ("test", "test_examples", "worst_slices", "corpus", "corpus_sha256", "cut")  # in a form of their own
USE = """\
## Intended use

Labels for many news articles at once: to sort, count and compare them, or to choose which of them a person reads. A
single label can be wrong; it is no ground to decide about a person or an outlet. The probabilities are calibrated on
validation articles, so that they can be used to leave doubtful answers to a person.

## Limits

The figures are of test articles of the training corpus. Other outlets, times, languages and kinds of text can do worse;
judge the model on a labelled sample of them with `slantwise evaluate`. A label means what the annotators of the corpus
meant by it. Where a corpus names no licence, the licence of the model is unknown, too."""


def model_card(model: Model) -> str:
    """Front matter, use and limits, and for each task its labels, data, test scores and worst slices."""
    parts = [
        f"---\n{front_matter(model)}---",
        "# slantwise model",
        f"Made by slantwise {slantwise.__version__}. Load it with `slantwise.model.load(directory)`.",
        USE,
        *(_task(name, head) for name, head in model.heads.items()),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(model: Model) -> str:
    """YAML whose values are JSON, which is YAML too: no value of a corpus can be taken for syntax."""
    facts: dict[str, Any] = {
        "license": "unknown",
        "library_name": "slantwise",
        "pipeline_tag": "text-classification",
        "tags": ["slantwise", "news", "text-classification", *model.heads],
        "model-index": [{"name": "slantwise", "results": [_result(n, h) for n, h in model.heads.items() if _test(h)]}],
    }
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in facts.items())


def _result(name: str, head: Head) -> dict[str, Any]:
    corpus = str(head.provenance.get("corpus", "unknown"))
    return {
        "task": {"type": "text-classification", "name": name},
        "dataset": {"type": corpus, "name": corpus, "split": "test"},
        "metrics": [
            {"type": metric, "name": metric, "value": round(each["value"], 4)}
            for metric, each in _test(head).items()
            if each["value"] is not None
        ],
    }


def _test(head: Head) -> Mapping[str, Mapping[str, Any]]:
    found = head.provenance.get("test")
    return found if isinstance(found, Mapping) else {}


def _task(name: str, head: Head) -> str:
    known, labels = head.provenance, ", ".join(_text(label) for label in head.task.labels)
    parts = [f"## {name}", f"{head.task.kind}, {len(head.task.labels)} labels: {labels}."]
    if "corpus" in known:
        sha = f" (sha256 `{known['corpus_sha256']}`)" if "corpus_sha256" in known else ""
        parts.append(f"Data: corpus {_text(known['corpus'])}{sha}.")
    if head.body is not None:
        parts.append(_encoder(head.body, known.get("cut")))
    if _test(head):
        n = known.get("test_examples")
        rows = [f"| {metric} | {_figure(each['value'])} | {_interval(each)} |" for metric, each in _test(head).items()]
        above = f"Test scores{f', n = {n:,} examples' if isinstance(n, int) else ''}:"
        parts += [above, "\n".join(["| metric | value | 95 % interval |", "| --- | ---: | ---: |", *rows])]
    if worst := known.get("worst_slices"):
        parts += ["Worst slices of the test examples:", "\n".join(f"- {_text(line)}" for line in worst)]
    rest = [f"- {_text(k)}: {_json(v)}" for k, v in known.items() if k not in TOLD]
    return "\n\n".join([*parts, *(["\n".join(rest)] if rest else [])])


def _encoder(body: Body, cut: object) -> str:
    """Which encoder it stands on, how much of an article that reads, and what of the training articles it did not."""
    made, windows = body.provenance, body.windowing
    pin = next((f"{name} `{_text(made[name])}`" for name in ("revision", "sha256") if made.get(name)), "not pinned")
    reads = f"{windows.max_tokens} tokens"
    if windows.long == "windows":
        reads = f"up to {windows.max_windows} windows of {reads}, {body.pooling} of them"
    lost = ""
    if isinstance(cut, Mapping):
        lost = f" Of the training examples {cut['cut_articles']:.1%} lost text, {cut['cut_tokens']:.1%} of all tokens."
    return f"Encoder: {_text(made.get('encoder', 'unknown'))} ({pin}), run by {body.runtime.kind}; reads {reads}.{lost}"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(estimate: Mapping[str, Any]) -> str:
    low, high = estimate.get("low"), estimate.get("high")
    return "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _text(value: object) -> str:
    """One line in which nothing is markup."""
    line = html.escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*[]|" else c for c in line)


def _json(value: object) -> str:
    return html.escape(json.dumps(value, ensure_ascii=False), quote=False)
