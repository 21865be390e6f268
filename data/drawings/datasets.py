"""Composed drawings as map-style datasets: images, captions, single things with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.drawings.captions import caption
from data.drawings.scene import Scene, SceneConfig, make_scene, stock
from data.limits import MAX_SAMPLES, check_range

if TYPE_CHECKING:
    from torch.utils.data import Dataset
else:  # any object with a length and items does, and torch is slow to import
    Dataset = object


class DrawnScenes(Dataset):
    """``count`` scenes of a split, nothing of which is drawn before it is asked for; 0 for as many as drawings."""

    def __init__(self, split: str, count: int = 0, config: SceneConfig | None = None) -> None:
        self.split, self.config = split, config or SceneConfig()
        every = len(stock(split, self.config.names).order)
        self.count = count or every
        check_range("count", count, 0, MAX_SAMPLES)

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """The ground truth of item ``index``. Raises IndexError outside of the dataset."""
        if not -self.count <= index < self.count:
            raise IndexError(f"{index} of {self.count} items")
        return make_scene(self.split, index % self.count, self.config)


class DrawnImages(DrawnScenes):
    """Images without labels: ``{"image": PIL}``."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.scene(index).image()}


class DrawnCaptions(DrawnScenes):
    """Images and captions: ``{"image": PIL, "captions": [str], "key": str}``; equal captions, and images
    of one and the same thing, have equal keys."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        words = caption(scene)
        one = len(scene.things) == 1 and scene.text is None
        return {"image": scene.image(), "captions": [words], "key": scene.things[0].name.text if one else words}


class LabeledDrawings(DrawnScenes):
    """One thing, no text: ``{"image": PIL, "label": int}``, the number of its name; every drawing has its turn."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        return {"image": scene.image(), "label": scene.things[0].name.number}
