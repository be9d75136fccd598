"""Readers of corpora: files (slantwise.rows), and data sets of the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.config import FileConfig
from slantwise.errors import CorpusError
from slantwise.rows import BadRow, Format, Row, read_rows


def read_corpus_rows(config: FileConfig, root: Path) -> Iterator[Row | BadRow]:
    """All rows of the file, folder, glob or data set that `config` names, in order; raises CorpusError."""
    if config.format is Format.dataset:
        yield from _dataset_rows(config, root)
    else:
        yield from read_rows(config, root)


def _dataset_rows(config: FileConfig, root: Path) -> Iterator[Row | BadRow]:
    """A folder made by `Dataset.save_to_disk`, or a data set by its name on the hub."""
    import datasets

    try:
        if (root / config.path).is_dir():
            loaded = datasets.load_from_disk(str(root / config.path))
        else:
            loaded = datasets.load_dataset(config.path, config.subset, revision=config.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"data set {config.path!r} cannot be loaded: {error}") from error
    parts = loaded if isinstance(loaded, dict) else {config.dataset_split or config.split or "": loaded}
    if config.dataset_split:
        if config.dataset_split not in parts:
            raise CorpusError(f"data set {config.path!r} has no split {config.dataset_split!r}; it has {list(parts)}")
        parts = {config.dataset_split: parts[config.dataset_split]}
    for split, part in parts.items():
        names = {name: names for name, feature in part.features.items() if (names := _class_names(feature))}
        for number, values in enumerate(part, start=1):
            named = {k: _named(v, names[k]) if k in names else v for k, v in values.items()}
            yield Row(f"{config.path}[{split}]", number, {"split": split or None, **named})


def _class_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel or of a list of them."""
    return getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)


def _named(value: Any, names: list[str]) -> Any:
    """Codes -> names; a negative code (the hub's "hidden label") stays what it is."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and value >= 0 else value
