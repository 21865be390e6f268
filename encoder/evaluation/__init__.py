"""How good an encoder is, beside its teacher or any open_clip model: zero-shot classification, retrieval, its RoIs."""
