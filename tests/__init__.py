"""Tests of what a user can do, with right values, through the public way in: a command's `main`, a class, a function.

`test_X.py` is about one idea of the packages. Models are tiny, made from nothing once a session by the fixtures of
`conftest.py` (with `tiny.py`); files of data come from `benchmark_files.py`. Nothing is downloaded, and what is drawn
is seeded, so tests hold in any order. Figures made by others' code lie in `golden`: `official` has inputs, weights and
outputs of the authors' SparseFormer, `make.py` writes our own. `test_bad_input.py` has malformed input to every command
as a table; `fuzz.py` damages good files at random (`python -m tests.fuzz`). Tests marked `launch` start deepspeed's
launcher, half a minute each; those marked `gpu` are left out without one.
"""
