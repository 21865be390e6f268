"""The rank of the right answer among all by similarity: the measure behind top-k accuracy and recall at k."""

from __future__ import annotations

import torch
from torch import Tensor

_QUERIES_AT_ONCE = 1000  # bounds the memory: 5,000 images times 25,000 captions would take half a GiB


def right_ranks(queries: Tensor, gallery: Tensor, query_keys: Tensor, gallery_keys: Tensor) -> Tensor:
    """Counts, for each query, the wrong items of the gallery before the first right one: 0 is a hit at 1.

    Items are ordered by their dot product with the query; of equal ones, the earlier in the gallery comes first, and
    one that is no number comes last.

    Args:
        queries: (Q, E). gallery: (G, E).
        query_keys, gallery_keys: (Q,) and (G,); items of equal keys are right for the query.

    Returns: (Q,) int64; G for a query without a right item.
    """
    found = []
    for vectors, keys in zip(queries.split(_QUERIES_AT_ONCE), query_keys.split(_QUERIES_AT_ONCE), strict=True):
        similarity = (vectors @ gallery.T).nan_to_num(nan=-torch.inf)
        order = similarity.argsort(dim=1, descending=True, stable=True)
        right = gallery_keys[order] == keys[:, None]
        found.append(torch.where(right.any(dim=1), right.int().argmax(dim=1), len(gallery)))
    return torch.cat(found)


def fraction_within(ranks: Tensor, k: int) -> float:
    """Returns the fraction of the queries whose first right item is among the first ``k``: top-k accuracy, R@k."""
    return float((ranks < k).double().mean())
