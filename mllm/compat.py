"""What depends on internals of libraries, each with its reason and the version that it was seen with.

`tests/test_compat.py` shows what the library does without our help, and fails once that is no longer needed.
"""

from __future__ import annotations

from transformers.models.llava.modeling_llava import LlavaModelOutputWithPast

# transformers 5.24 renamed what a model takes and returns as the cache of earlier tokens; both names are in use.
CACHE = "cache" if "cache" in LlavaModelOutputWithPast.__dataclass_fields__ else "past_key_values"
