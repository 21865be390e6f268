"""Finetuning a model on conversations: recipe, data, what is frozen, the Trainer, merging an adapter."""
