"""The encoder as a torch module: windows in, one vector for each window out. Training and torch prediction share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from slantwise.errors import ConfigurationError, ModelError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Padded tokens of one batch. On a CPU small batches stay in the cache; a GPU wants to be filled.
BUDGET = {"cpu": 2048, "cuda": 65536}


def quiet() -> None:
    """No progress bars and no advice of the library in our output."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: the GPU where there is one. Raises ConfigurationError where a device is asked for that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"device={name}: this machine has no GPU that torch can use; expected auto or cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in BUDGET:
        raise ConfigurationError(f"device={name}; expected auto, cpu, cuda or cuda:<number>")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware itself multiplies bfloat16; on a CPU: AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class WindowEncoder(nn.Module):
    """An encoder of the transformers library and the pooling of a window's tokens: their mean, or the first (`cls`)."""

    def __init__(self, encoder: nn.Module, token_pooling: str, token_types: bool) -> None:
        super().__init__()
        self.encoder, self.token_pooling, self.token_types = encoder, token_pooling, token_types

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """(n, length) each -> (n, hidden)."""
        more = {"token_type_ids": segments} if self.token_types else {}
        states = self.encoder(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        if self.token_pooling == "cls":
            return states[:, 0]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def build_encoder(folder: Path) -> nn.Module:
    """The encoder of an exported body: its shape from config.json, its weights from the safetensors file beside it."""
    quiet()
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        # the config may name the type in which the hub keeps the weights
        encoder = drop_pooler(AutoModel.from_config(config, dtype=torch.float32))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG}: cannot be read ({str(error).splitlines()[0]})") from error
    try:
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS}: cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    return encoder


def drop_pooler(encoder: nn.Module) -> nn.Module:
    """Without the layer that some encoders put on the first token: its output is not used."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder


class TorchRuntime:
    """Runs a WindowEncoder; bf16 on a GPU that has it, unless `full` asks for float32 wherever it runs."""

    kind = "torch"
    parallel = 1  # torch has threads of its own

    def __init__(self, module: WindowEncoder, device: torch.device, full: bool = False) -> None:
        self.module, self.device, self.full = module.to(device).eval(), device, full
        self.budget = BUDGET[device.type]
        self.half = device.type == "cuda" and has_bfloat16(device) and not full

    def vectors(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], segments: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """(n, length) each -> float32 (n, hidden)."""
        inputs = [torch.from_numpy(array).to(self.device) for array in (ids, mask, segments)]
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            found: npt.NDArray[np.float32] = self.module(*inputs).float().cpu().numpy()
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        encoder: Any = self.module.encoder
        encoder.config.save_pretrained(str(folder))
        # Encoders may tie tensors; each is written for itself.
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        return {
            "token_pooling": self.module.token_pooling,
            "token_types": self.module.token_types,
            "float32": self.full,
        }

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any], device: str) -> TorchRuntime:
        module = WindowEncoder(build_encoder(folder), state["token_pooling"], bool(state["token_types"]))
        return cls(module, choose_device(device), bool(state.get("float32")))
