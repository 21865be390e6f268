"""Makes transformers' Auto classes know the encoder."""

from __future__ import annotations

import functools


@functools.cache
def register() -> None:
    """Registers SparseFormer. `import encoder` does it as soon as transformers is imported."""
    from transformers import AutoConfig, AutoModel

    from encoder.configuration import SparseFormerConfig
    from encoder.modeling import SparseFormerVisionModel

    AutoConfig.register(SparseFormerConfig.model_type, SparseFormerConfig)
    AutoModel.register(SparseFormerConfig, SparseFormerVisionModel)
