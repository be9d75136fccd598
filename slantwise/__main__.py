"""The `slantwise` command: a table of sub-commands, each loaded only when it is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path

# name -> (module, what it does)
COMMANDS = {
    "train": ("training.run", "train a classifier on a corpus; a tracked run comes out"),
    "sweep": ("training.sweep", "look for a classifier's best options; resumes; trains with them at the end"),
    "evaluate": ("evaluation.evaluate", "judge a model on a corpus: metrics with intervals and an HTML report"),
    "compare": ("evaluation.compare", "which of two or more models is better, by how much, and where; an HTML page"),
    "promote": ("training.promote", "a gate before a model becomes the champion of its task; and rolling back"),
    "audit": ("evaluation.audit", "what a corpus holds, what leaks, and which shortcuts it offers; an HTML data card"),
    "download": ("data.download", "fetch a public corpus from its source, with checksums; resumes"),
    "export": ("training.export", "put the heads of one or more runs into one MLflow model"),
    "score": ("slantwise.scoring", "use a model on a file of articles: one output row for each input row"),
    "explain": ("evaluation.explain", "one article as a page: the answers, and the sentences that carry them"),
    "demo": ("training.demo", "the whole path on the bundled corpus, in about a minute"),
    "publish": ("training.tracking", "complete the MLflow run of a run directory, after an outage of the server"),
    "lineage": ("training.lineage", "from a registered model back to its run, configuration, data and report"),
}

HELP = f"""slantwise: train, judge and ship classifiers of news articles (topic, framing, stance)

usage: slantwise <command> key=value ...

commands:
{chr(10).join(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())}

examples:
  slantwise train task=topic corpus=sample
  slantwise train task=stance corpus=file corpus.path=mine.jsonl
  slantwise train --multirun task=topic,framing,stance corpus=sample
  slantwise evaluate model=runs/<run>/model corpus=sample split=test
  slantwise score model=models/<model> input=articles.jsonl output=scores.jsonl

  slantwise <command> --help       the command's keys and examples
  slantwise <command> --cfg job    the configuration that would be used
"""


def set_quiet_defaults() -> None:
    """No telemetry, no download counters and no bars for files of a few kilobytes, unless the user asks for them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # a server that is away holds a finished run for seconds, not minutes; `slantwise publish` completes it later
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")


def main() -> None:
    """Entry point. Puts its own checkout first, so that `data` and the others are this project's."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        raise SystemExit(0)
    if arguments[0] in ("-V", "--version"):
        import slantwise

        print(f"slantwise {slantwise.__version__}")
        raise SystemExit(0)
    name = arguments[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: unknown command {name!r}; expected one of {', '.join(COMMANDS)}{hint}", file=sys.stderr)
        raise SystemExit(2)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    set_quiet_defaults()
    sys.argv = [f"slantwise {name}", *arguments[1:]]
    importlib.import_module(COMMANDS[name][0]).main()


if __name__ == "__main__":
    main()
