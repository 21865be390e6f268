"""Asking a model many questions. What is asked, and how it is scored, is in `data.benchmarks`."""
