"""The laboratory: a small CLIP and a small language model made from nothing, and benchmarks of speed.

Nothing but the command line imports it.
"""
