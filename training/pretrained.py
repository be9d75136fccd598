"""Pretrained encoders, from a folder or from the hub: weights in safetensors, a fast tokenizer, no code of theirs."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RevisionResolutionError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer

from slantwise.errors import ConfigurationError
from slantwise.network import WEIGHTS, choose_device, drop_pooler
from training.encoder_config import EncoderOptions

NAMED = 3  # of the weights that are missing, so many by name


def check_place(config: EncoderOptions) -> None:
    """Before anything is read: the device is there, and so is the encoder. Raises ConfigurationError."""
    choose_device(config.device)
    _place(config)


def load_encoder(config: EncoderOptions) -> tuple[Any, Tokenizer, int, dict[str, Any]]:
    """The encoder, its tokenizer, the padding id, and where it all comes from; no code of the hub's is run.

    `config` names encoder (a hub name or a folder), revision and max_tokens. Raises ConfigurationError.
    """
    name, commit = _place(config)
    folder = Path(name) if commit is None else None
    where = {"local_files_only": commit is None, "revision": commit, "trust_remote_code": False}
    try:
        shape = AutoConfig.from_pretrained(name, **where)
        _check_shape(config, shape)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **where)
        encoder, told = AutoModel.from_pretrained(
            name, config=shape, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **where
        )
    except (OSError, ValueError, ImportError) as error:
        raise _mistake(config, f"cannot be loaded ({_first_line(error)}); {_expected(folder, error)}") from error
    missing = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    if missing:
        named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        raise _mistake(config, f"{len(missing)} of its weights are missing ({named}): they would be random numbers")
    _check_tokenizer(config, tokenizer, encoder)
    drop_pooler(encoder)
    _check_length(config, tokenizer, encoder)
    if hasattr(encoder.config, "auto_map"):
        del encoder.config.auto_map  # where its own code would be found, which is not used; the model must not name it
    checksum = None if folder is None else _weights_checksum(folder)
    provenance = {"encoder": config.encoder, "revision": commit, "sha256": checksum}
    return encoder, Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), tokenizer.pad_token_id or 0, provenance


def takes_segments(encoder: Any) -> bool:
    """Whether the encoder tells the first text of a pair from the second by token types."""
    return int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1


def _place(config: EncoderOptions) -> tuple[str, str | None]:
    """A folder and None, or a name on the hub and the commit there, or in the hub's cache where there is no network."""
    folder = Path(config.encoder).expanduser()
    if folder.is_dir():
        return str(folder), None
    if config.encoder.startswith((".", "~", "/")) or config.encoder.count("/") > 1:
        raise _mistake(config, "there is no such folder")
    try:
        return config.encoder, str(HfApi().resolve_revision(config.encoder, revision=config.revision).resolved)
    except RevisionResolutionError as error:
        raise _mistake(
            config,
            "no such folder, and neither does the hub answer nor is the encoder in its cache; expected a folder, or "
            f"`hf download {config.encoder}` where there is a network",
        ) from error
    except (OSError, ValueError) as error:
        raise _mistake(config, f"no such folder, and the hub says: {_first_line(error)}") from error


def _check_shape(config: EncoderOptions, shape: Any) -> None:
    if shape.is_encoder_decoder:
        raise _mistake(config, "it is an encoder and a decoder; expected an encoder")
    if "/" in str(getattr(shape, "_attn_implementation", None)):
        raise _mistake(config, "its config.json has attention computed by code of the hub, which is never run")


def _check_tokenizer(config: EncoderOptions, tokenizer: Any, encoder: Any) -> None:
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise _mistake(config, "it has no fast tokenizer (tokenizer.json)")
    known, read = len(tokenizer), encoder.get_input_embeddings().num_embeddings
    if 2 * known < read:  # the library makes up a tokenizer of a few special tokens where none is there
        raise _mistake(
            config, f"its tokenizer knows {known:,} tokens, the encoder reads {read:,}; expected its own tokenizer.json"
        )


def _check_length(config: EncoderOptions, tokenizer: Any, encoder: Any) -> None:
    positions = getattr(encoder.config, "max_position_embeddings", None) or math.inf
    # RoBERTa and its like count positions from the padding's on
    first = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
    most = min(tokenizer.model_max_length, positions if first is None else positions - first - 1)
    if config.max_tokens > most:
        raise ConfigurationError(
            f"classifier.max_tokens={config.max_tokens}: {config.encoder} reads {int(most)} tokens at most"
        )


def _expected(folder: Path | None, error: Exception) -> str:
    if "custom code" in str(error):
        return "an encoder's own code is never run; expected one that transformers knows"
    if folder is not None and not list(folder.glob("*.safetensors")) and list(folder.glob("*.bin")):
        return "its weights are a pickle, which is never loaded; expected them as model.safetensors"
    return "expected config.json, model.safetensors and a tokenizer, in a folder or under a name of the hub"


def _mistake(config: EncoderOptions, what: str) -> ConfigurationError:
    return ConfigurationError(f"classifier.encoder={config.encoder}: {what}")


def _weights_checksum(folder: Path) -> str:
    """SHA-256 of the weights, of large models one part after the other."""
    paths = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("model-*.safetensors"))
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
