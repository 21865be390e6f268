"""Videos as images, in data and in a chat."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from PIL import Image

from data import InputError, load_conversations
from data.videos import chosen, read_frames
from mllm.cli import main

GRAYS = [0, 60, 120, 180, 240]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Five seconds, each of one gray, at four frames a second."""
    path = tmp_path_factory.mktemp("video") / "grays.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for gray in GRAYS:
            for _ in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), gray, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grays(frames: list[Image.Image]) -> list[int]:
    return [round(np.asarray(frame).mean() / 60) * 60 for frame in frames]


def test_frames_by_time(video):
    frames = read_frames(video)
    assert {frame.mode for frame in frames} == {"RGB"}
    assert frames[0].size == (32, 32)
    assert grays(frames) == GRAYS
    assert grays(read_frames(video, fps=2)) == [gray for gray in GRAYS for _ in range(2)]
    assert grays(read_frames(video, fps=4, frames=3)) == [0, 120, 240]


def test_frames_of_uneven_times():
    assert chosen([0.0, 0.1, 0.9, 1.0, 2.6], fps=1, frames=9) == [0, 3, 4]
    assert chosen([5.0], fps=1, frames=9) == [0]
    assert chosen([0.0, 1.0, 2.0, 3.0], fps=30, frames=2) == [0, 3]


@pytest.mark.parametrize("content", [b"", b"no video", b"\x00\x00\x00\x18ftypmp42" + bytes(200)])
def test_bad_videos(tmp_path, content):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.mp4"):
        read_frames(path)


@pytest.mark.parametrize("words", ["<image>\nWhat?", "<video>\nWhat?", "What?"])
def test_a_sample_of_llava_video(video, words):
    turns = [{"from": "human", "value": words}, {"from": "gpt", "value": "It gets lighter."}]
    file = video.with_name("talk.json")
    samples = [{"id": "v", "video": video.name, "conversations": turns}]
    samples.append({"id": "gone", "video": "gone.mp4", "conversations": turns})
    file.write_text(json.dumps(samples))
    conversations = load_conversations(file)
    read = conversations.load(0)
    assert grays(read["images"]) == GRAYS
    assert [part["type"] for part in read["messages"][0]["content"]] == ["image"] * 5 + ["text"]
    assert read["messages"][0]["content"][-1]["text"] == "What?"
    with pytest.raises(InputError, match=r"gone\.mp4"):
        conversations.load(1)


def test_chat(video, model_dir, capsys):
    asked = ["chat", "--model", str(model_dir), "--video", str(video), "--prompt", "What?", "--max-new-tokens", "2"]
    assert main([*asked, "--frames", "2"]) == 0
    assert capsys.readouterr().out.endswith("\n")
    assert main([*asked, "--fps", "0"]) == 2
    assert "--fps 0.0: choose more than 0" in capsys.readouterr().err
