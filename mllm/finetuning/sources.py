"""How many samples of a run's sources may be bad, and of which size their images are."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from data.bad_samples import too_many
from data.errors import InputError, shorten
from data.sources import MixedConversations

_NAMED = 20  # bad samples that are logged

logger = logging.getLogger(__name__)


def bad_limit(opened: Iterable[Sized], fraction: float) -> int:
    """How many samples may be bad: a fraction of all, rounded up."""
    return math.ceil(fraction * sum(map(len, opened)))


def check_faults(opened: Sequence[MixedConversations], fraction: float) -> None:
    """Refuse sources of which more samples than `bad_limit` were found to be bad on opening; the first are logged."""
    faults = [f"{each.name(index)}: {reason}" for each in opened for index, reason in each.faults.items()]
    limit = bad_limit(opened, fraction)
    if len(faults) > limit:
        for line in faults[:_NAMED]:
            logger.warning("a bad sample: %s", shorten(line))
        raise InputError(too_many(len(faults), limit, "`mllm check-data` lists all"))


def image_size(image_processor: Any) -> tuple[int, int]:
    """Height and width of the images that a model with this image processor sees."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])
