"""Drawings of a thousand everyday things by several artists, composed to images whose ground truth is known."""
