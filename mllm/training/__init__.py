"""Training: one module per stage, all through transformers' Trainer."""
