"""Models that public packages carry, one file each, as plain directories that transformers or timm loads by itself.

A file has a function ``convert(package: Path, out: Path) -> None`` and a line in `CONVERTERS`. Only commands import
this room.
"""

from __future__ import annotations

CONVERTERS: dict[str, str] = {
    **{f"efficientnet-lite{size}": "mllm.materials.efficientnet_lite" for size in range(3)},
    "minilm": "mllm.materials.minilm",
    "smollm2": "mllm.materials.smollm2",
    "vit-s-focus": "mllm.materials.vit_focus",
}
"""A material that is a model → the module whose ``convert`` writes it as a directory."""
