"""Tiny corpora for the tests: invented articles whose words give their labels away, made anew from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from data.config import CorpusConfig
from data.corpus import Corpus, load_corpus

Row = dict[str, Any]
WriteJsonl = Callable[..., Path]


def _words(text: str) -> list[str]:
    return text.split()


WORDS = {
    "health": _words("clinic nurse vaccine ward surgeon fever patient doctor hospital remedy"),
    "sport": _words("goal referee striker stadium league sprint medal coach penalty keeper"),
    "weather": _words("storm drizzle frost gale forecast sunshine thunder blizzard humidity breeze"),
}
FRAMES = {"economic": _words("cost budget price"), "morality": _words("duty conscience virtue")}
STANCES = {"favor": _words("praised welcomed"), "against": _words("condemned rejected"), "neutral": _words("met saw")}
FILLER = _words("the a town people yesterday morning street report said early late north south bridge market")
TARGETS = ("City Mayor", "Harbour Plan")
OUTLETS = ("north.example", "south.example", "west.example")


def tiny_article(number: int, seed: int = 0) -> Row:
    """Canonical row `number`: topics, frames, stances, targets and outlets take turns; no two share a sentence."""
    draw = random.Random(f"{seed}:{number}")
    topic = list(WORDS)[number % 3]
    frames = [frame for i, frame in enumerate(FRAMES) if (number // 3) >> i & 1]
    stance, target = list(STANCES)[(number // 2) % 3], TARGETS[number % 2]
    words = draw.choices(WORDS[topic], k=20) + draw.choices(FILLER, k=20)
    words += [word for frame in frames for word in FRAMES[frame]]
    draw.shuffle(words)
    return {
        "id": f"a{number:03}",
        "text": f"Officials {draw.choice(STANCES[stance])} {target} on day {number}. " + " ".join(words) + ".",
        "title": f"{draw.choice(WORDS[topic]).title()} {draw.choice(FILLER)} {number}",
        "source": OUTLETS[number % len(OUTLETS)],
        "published": f"2024-{1 + number // 28 % 12:02}-{1 + number % 28:02}",
        "language": "en",
        "topic": topic,
        "frames": frames,
        "stances": [{"target": target, "stance": stance}],
    }


@pytest.fixture
def tiny_rows() -> list[Row]:
    """72 canonical rows, labelled for all three tasks: three topics, two frames, three stances, two targets."""
    return [tiny_article(number) for number in range(72)]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """write_jsonl(rows, name="rows.jsonl") -> the path of the new file in tmp_path."""

    def write(rows: Iterable[Mapping[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tiny_path(tiny_rows: list[Row], write_jsonl: WriteJsonl) -> Path:
    """`tiny_rows` as a JSONL file."""
    return write_jsonl(tiny_rows, "tiny.jsonl")


@pytest.fixture
def tiny_corpus(tiny_path: Path) -> Corpus:
    """`tiny_rows` as a Corpus."""
    return load_corpus(CorpusConfig(name="tiny", path=str(tiny_path)))


def tiny_vocabulary() -> dict[str, int]:
    """The words of `tiny_article`, and single characters for all others."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    groups = (*WORDS.values(), *FRAMES.values(), *STANCES.values(), FILLER, [t.lower() for t in TARGETS])
    words = [word for group in groups for phrase in group for word in phrase.split()]
    characters = list("abcdefghijklmnopqrstuvwxyz0123456789.,'-")
    pieces = [*specials, *words, "officials", "on", "day", *characters, *(f"##{c}" for c in characters)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has them: an untrained BERT of 2 layers and 32 dimensions, the same in every session."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = tiny_vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-encoder")
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=256, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes the store that a test chose into the environment, from where the next test's processes take it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of the test session's own: tracking_servers.Postgres."""
    import tempfile

    from tracking_servers import Postgres, find_postgres

    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or below /usr/lib/postgresql")
    with tempfile.TemporaryDirectory(prefix="slantwise-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder), programs)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def tracking_server(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`mlflow server` on that PostgreSQL: tracking_servers.TrackingServer."""
    from tracking_servers import TrackingServer

    folder = tmp_path_factory.mktemp("mlflow")
    server = TrackingServer(postgres.create("mlflow"), folder / "artifacts")
    yield server
    server.kill()


def during_training(monkeypatch: pytest.MonkeyPatch, what: Callable[[Any], None]) -> None:
    """Calls `what` with the workspace before each fit of the linear classifier."""
    import training.linear

    original = training.linear.fit_all

    def fit_all(parts: Any, config: Any, workspace: Any) -> Any:
        what(workspace)
        return original(parts, config, workspace)

    monkeypatch.setattr(training.linear, "fit_all", fit_all)
