"""Pretrained encoders, from a folder or from the hub: weights in safetensors, a fast tokenizer, no code of theirs."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from slantwise.errors import ConfigurationError
from slantwise.network import WEIGHTS, drop_pooler
from training.encoder_config import EncoderOptions


def load_encoder(config: EncoderOptions) -> tuple[Any, Tokenizer, int, dict[str, Any]]:
    """The encoder, its tokenizer, the padding id, and where it all comes from; no code of the hub's is run.

    `config` names encoder (a hub name or a folder), revision and max_tokens. Raises ConfigurationError.
    """
    where = {"revision": config.revision, "trust_remote_code": False}
    if Path(config.encoder).expanduser().is_dir():
        name, where = str(Path(config.encoder).expanduser()), {"local_files_only": True, "trust_remote_code": False}
    else:
        name = config.encoder
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **where)
        encoder = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **where)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(
            f"classifier.encoder={config.encoder}: cannot be loaded ({_first_line(error)}); expected a folder with "
            "config.json, model.safetensors and a tokenizer, or the name of such an encoder on the hub"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ConfigurationError(f"classifier.encoder={config.encoder}: it has no fast tokenizer (tokenizer.json)")
    drop_pooler(encoder)
    positions = getattr(encoder.config, "max_position_embeddings", None) or math.inf
    # RoBERTa and its like count positions from the padding's on
    first = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
    limits = [tokenizer.model_max_length, positions if first is None else positions - first - 1]
    if config.max_tokens > min(limits):
        raise ConfigurationError(
            f"classifier.max_tokens={config.max_tokens}: {config.encoder} reads {int(min(limits))} tokens at most"
        )
    provenance = {
        "encoder": config.encoder,
        "revision": getattr(encoder.config, "_commit_hash", None) or config.revision,
        "sha256": _weights_checksum(Path(name)) if Path(name).is_dir() else None,
    }
    return encoder, Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), tokenizer.pad_token_id or 0, provenance


def takes_segments(encoder: Any) -> bool:
    """Whether the encoder tells the first text of a pair from the second by token types."""
    return int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1


def _weights_checksum(folder: Path) -> str | None:
    path = folder / WEIGHTS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
