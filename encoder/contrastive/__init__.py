"""Contrastive training: a CLIP of captioned images, from nothing or from weights, and its image tower distilled."""
