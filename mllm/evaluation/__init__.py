"""Scores: each benchmark is one module."""
