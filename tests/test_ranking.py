"""Ranks of right answers by hand: ties, several right answers, none, what is no number."""

from __future__ import annotations

import pytest
import torch

from encoder.evaluation import ranking
from encoder.evaluation.ranking import fraction_within, right_ranks


def ranks(similarity: list[list[float]], query_keys: list[int], gallery_keys: list[int]) -> list[int]:
    """With a unit gallery, the queries' vectors are their similarities."""
    queries = torch.tensor(similarity)
    return right_ranks(
        queries, torch.eye(queries.shape[1]), torch.tensor(query_keys), torch.tensor(gallery_keys)
    ).tolist()


def test_ranks_by_hand():
    classes = [0, 1, 2, 3]
    assert ranks([[0.1, 0.9, 0.3, 0.2]] * 4, classes, classes) == [3, 0, 1, 2]
    # several right answers: the first of them counts, at index 3 or behind the wrong one
    assert ranks([[0.4, 0.3, 0.5, 0.9], [0.4, 0.3, 0.5, 0.9]], [7, 8], [7, 8, 7, 8]) == [1, 0]
    # of equal ones the earlier comes first, so that answers all alike score chance
    assert ranks([[0.5] * 4] * 4, classes, classes) == [0, 1, 2, 3]
    assert ranks([[0.5, 0.5, 0.5, 0.6]], [2], [1, 2, 2, 0]) == [2]
    # what is no number comes last, and nothing right is never found
    nan = float("nan")
    found = right_ranks(torch.tensor([[nan]]), torch.tensor([[1.0], [2.0]]), torch.tensor([1]), torch.tensor([0, 1]))
    assert found.tolist() == [1]
    assert ranks([[0.1, 0.2]], [9], [0, 1]) == [2]


def test_in_parts_as_at_once(monkeypatch):
    torch.manual_seed(0)
    queries, gallery, keys = torch.randn(7, 4), torch.randn(5, 4), torch.arange(7) % 5
    whole = right_ranks(queries, gallery, keys, torch.arange(5))
    monkeypatch.setattr(ranking, "_QUERIES_AT_ONCE", 3)
    assert torch.equal(right_ranks(queries, gallery, keys, torch.arange(5)), whole)
    assert len(set(whole.tolist())) > 1


def test_fraction_within():
    found = torch.tensor([0, 1, 4, 5, 9])
    assert [fraction_within(found, k) for k in (1, 5, 10)] == [pytest.approx(s) for s in (0.2, 0.6, 1.0)]
