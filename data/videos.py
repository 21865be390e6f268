"""Frames of a video as images, or one line that says why there are none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data.errors import InputError, translated
from data.files import check_file
from data.images import MAX_PIXELS

if TYPE_CHECKING:
    from av import VideoFrame

FRAMES = 64  # of a video at most; with 16 tokens each, 1,024
FPS = 1.0


def read_frames(path: str | os.PathLike[str], fps: float = FPS, frames: int = FRAMES) -> list[Image.Image]:
    """Decodes some frames of a video to RGB, in order, by PyAV.

    Args:
        fps: frames a second that are looked at, the first one among them.
        frames: the most; of a longer video as many, evenly spread over all of it, as LLaVA-Video takes them.

    Raises:
        InputError: there is no such file; it is broken, holds no frame, or its frames are too large; PyAV is missing.
    """
    check_file(path, "video")
    with translated(f"{path}: no video can be read", "pip install 'sparseformer-mllm[video]'; or name another file"):
        import av

        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video; name another file")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise InputError(f"{path}: has {stream.width}x{stream.height} pixels a frame; make it smaller")
            stream.thread_type = "AUTO"
            times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
            if not times:
                raise InputError(f"{path}: holds no frame; name another file")
            unit = float(stream.time_base or 1)
            kept = {times[index] for index in chosen([time * unit for time in times], fps, frames)}
            container.seek(times[0], stream=stream)
            found = [_upright(frame) for frame in container.decode(stream) if frame.pts in kept]
    if not found:
        raise InputError(f"{path}: none of its frames can be decoded; name another file")
    return found


def chosen(seconds: Sequence[float], fps: float, frames: int) -> list[int]:
    """Which of the frames that are shown at these seconds are looked at, by number."""
    start = seconds[0]
    wanted = start + np.arange(0, seconds[-1] - start + 1e-6, 1 / fps)
    indices = np.unique(np.searchsorted(seconds, wanted - 1e-6).clip(max=len(seconds) - 1))
    if len(indices) > frames:
        indices = np.unique(np.linspace(0, len(seconds) - 1, frames).round().astype(int))
    return [int(index) for index in indices]


def _upright(frame: VideoFrame) -> Image.Image:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
