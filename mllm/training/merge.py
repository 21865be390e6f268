"""A LoRA adapter and its base become one plain model directory."""

from __future__ import annotations

import logging
from pathlib import Path

from data import InputError
from data.files import check_writable
from mllm.loading import is_adapter, load_mllm
from mllm.training.arguments import cache_again, save_atomically
from mllm.training.output import PARTIAL

logger = logging.getLogger(__name__)


def merge(adapter: str | Path, out: str | Path, base: str | Path | None = None) -> Path:
    """Write the model that the adapter makes of its base as a plain directory, processor included.

    LoRA adds `alpha / rank * B @ A` to a weight (arXiv 2106.09685); the sum is the merged weight, in the base's dtype.
    The trained projector replaces the base's.

    Args:
        adapter: directory written by stage lora of `mllm train`.
        out: a directory that does not exist yet, or is empty.
        base: the base model, if it is no longer where the adapter says.
    Raises:
        InputError: no adapter there, its base is missing, or `out` is taken.
    """
    adapter, out = Path(adapter), Path(out)
    if not is_adapter(adapter):
        raise InputError(f"{adapter}: is no adapter directory (no adapter_config.json); stage lora writes one")
    if out.exists() and (not out.is_dir() or any(place.name != PARTIAL for place in out.iterdir())):
        raise InputError(f"--out {out}: exists already; choose another or remove it")
    check_writable("--out", out)
    model, processor = load_mllm(adapter, device="cpu", base=base)
    cache_again(model)  # also a published language model may have been saved after training

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    save_atomically(out, write)
    logger.info("merged %s into %s", adapter, out)
    return out
