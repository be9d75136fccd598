"""Readers of corpora: files (slantwise.rows), and data sets of the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
        names = {name: f.names for name, f in part.features.items() if isinstance(f, datasets.ClassLabel)}
        for number, values in enumerate(part, start=1):
            named = {k: names[k][v] if k in names and isinstance(v, int) and v >= 0 else v for k, v in values.items()}
            yield Row(f"{config.path}[{split}]", number, {"split": split or None, **named})
