"""Registers the corpus, cleaning and split schemas with Hydra, so that a wrong key or type fails at once."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from data.config import CleaningConfig, CorpusConfig, SplitConfig


def register() -> None:
    store = ConfigStore.instance()
    store.store(group="corpus", name="corpus_schema", node=CorpusConfig)
    store.store(group="cleaning", name="cleaning_schema", node=CleaningConfig)
    store.store(group="split", name="split_schema", node=SplitConfig)
