"""Images as bootstrapping takes them: each with its index, by which views are drawn and a teacher's cache is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Indexed(Dataset):
    """A map-style dataset whose samples also tell their index."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "index": index}


class EndlessStream(IterableDataset):
    """A stream that goes on with its next epoch, whose samples also tell the place where they come in the run.

    The Trainer takes a stream of unknown length for one epoch of all steps. With this it is: no batch is cut short
    where an epoch ends, and a resumed run, which skips as many batches as were seen, is in the same place.
    """

    def __init__(self, stream: Any):  # a data.streams.ImageStream, whose file takes long to import
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        places = itertools.count(start, stride)
        stream = self.stream.with_own_epoch()
        for epoch in itertools.count():
            stream.set_epoch(epoch)
            empty = True
            for sample in stream:
                empty = False
                yield {**sample, "index": next(places)}
            if empty:  # more workers than files, or no good image
                return
