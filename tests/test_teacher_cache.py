"""A teacher's embeddings on disk: read, damaged, shared, told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data import InputError
from data.sources import open_images
from encoder.bootstrapping import EmbeddingCache
from encoder.bootstrapping.cache import CachedTeacher, open_cache
from encoder.evaluation.probing import fingerprint
from encoder.teachers import open_clip_teacher
from tests import tiny
from tests.test_bootstrapping import tiny_clip

ROWS = torch.arange(12.0).view(3, 4)


def known(cache: EmbeddingCache, count: int = 5) -> list[bool]:
    return cache.read(range(count))[1].tolist()


def test_rows_are_kept_and_shared(tmp_path):
    cache, other = (EmbeddingCache(tmp_path / "seen", 5, 4) for _ in range(2))
    assert known(cache) == [False] * 5
    cache.write([4, 0, 2], ROWS)
    for each in (cache, other, EmbeddingCache(tmp_path / "seen", 5, 4)):  # other: another process' map
        assert known(each) == [True, False, True, False, True]
        assert torch.equal(each.read([0, 4])[0], ROWS[[1, 0]])
    cache.write([1], torch.zeros(1, 4))  # as a new file holds them
    assert known(cache)[1]


def test_a_row_that_was_cut_off_is_no_row(tmp_path):
    cache = EmbeddingCache(tmp_path, 5, 4)
    cache.write([0, 1, 2], ROWS)
    cache.rows[1, 2:] = 0.0  # its second half never came to the disk
    cache.sums[2] = 0  # killed between row and checksum
    assert known(cache) == [True, False, False, False, False]


def test_the_teacher_looks_once_and_is_checked(tmp_path):
    teacher = open_clip_teacher(tiny_clip().visual)
    images = torch.randn(4, 3, 32, 32)
    expected = teacher(images)
    cached = CachedTeacher(teacher, EmbeddingCache(tmp_path, 9, 24))
    torch.testing.assert_close(cached(images[:2], [7, 3]), expected[:2])
    torch.testing.assert_close(cached(images[:3], [7, 3, 1]), expected[:3])  # two known, and checked, one new
    assert cached.checked
    known_only = cached(torch.zeros(3, 3, 32, 32), [1, 3, 7])
    torch.testing.assert_close(known_only, expected[[2, 1, 0]])
    with pytest.raises(ValueError, match="delete it"):
        CachedTeacher(teacher, cached.cache)(images[[3]], [7])


def test_fingerprints_tell_teachers_apart():
    def of(teacher, *more):
        return fingerprint(teacher.tower, teacher.image_processor, *more)

    first, again, other = (open_clip_teacher(tiny_clip().visual) for _ in range(3))
    assert of(first, "a") == of(again, "a")
    assert of(first, "a", "b") != of(first, "ab")
    with torch.no_grad():
        other.tower.ln_post.bias[0] += 1e-6
    quick = open_clip_teacher(tiny_clip(quick_gelu=True).visual)
    again.image_processor = again.image_processor.resized(48)
    assert len({of(each) for each in (first, again, other, quick)}) == 4


def test_caches_of_a_folder_of_images(tmp_path):
    teacher = open_clip_teacher(tiny_clip().visual)
    for index in range(2):
        tiny.image(index).save(tmp_path / f"{index}.png")
    training = type("Training", (), {"bf16": False, "fp16": False})

    def opened() -> EmbeddingCache:
        sources = [str(tmp_path)]
        return open_cache(tmp_path / "seen", teacher, sources, open_images(sources[0]), training)

    cache = opened()
    assert cache.rows.shape == (2, 24)
    assert opened().folder == cache.folder
    tiny.image(2).save(tmp_path / "1.png")
    assert opened().folder != cache.folder
    assert np.count_nonzero(cache.sums) == 0
    rows = tmp_path / "rows.parquet"
    import datasets

    datasets.Dataset.from_dict({"image": [str(tmp_path / "0.png")]}).cast_column("image", datasets.Image()).to_parquet(
        rows
    )
    with pytest.raises(InputError, match="is a stream"):
        open_cache(tmp_path, teacher, ["it"], open_images(f"datasets:{rows}"), training)
