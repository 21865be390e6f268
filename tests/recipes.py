"""Small recipes of every training, and what they train on: for tests, `tests.fuzz` and `scripts/soak_training.sh`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests import tiny

TRAINER = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 2}
CLIP: dict[str, Any] = {
    "output": "out",
    "data": [{"captioned": "synthetic:train:20:size=40", "weight": 2}, {"labeled": "synthetic:train:6:size=40"}],
    "model": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 48, "width": 16, "layers": 1, "heads": 2},
    },
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "zero_shot": ["synthetic:validation:16"],
    "retrieval": ["synthetic:validation:12:size=40"],
    "trainer": TRAINER,
}
LANGUAGE_MODEL: dict[str, Any] = {
    "output": "out",
    "model": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "tokenizer": {"vocab_size": 500, "documents": 200},
    "max_length": 32,
    "held_out_documents": 8,
    "trainer": TRAINER,
}
BOOTSTRAP: dict[str, Any] = {
    "output": "out",
    "held_out": "synthetic:validation:8:size=32",
    "held_out_images": 5,
    "student": {"num_tokens": 5, "early_channels": 8, "mixing_hidden_size": 8},
    "stages": [
        {"name": "focusing", "steps": 3, "learning_rates": {"focusing": 1e-2}},
        {"name": "early", "steps": 3, "learning_rates": {"focusing": 1e-2, "early": 1e-3}},
    ],
    "trainer": dict(per_device_train_batch_size=4, logging_steps=1, save_steps=1, lr_scheduler_type="constant"),
}


def write(folder: Path, recipe: dict[str, Any], name: str = "recipe", /, **values: Any) -> Path:
    """A recipe's file, with some values changed."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe | values))
    return path


def bootstrap(folder: Path, teacher: Path | str, name: str = "recipe", /, **values: Any) -> Path:
    """A recipe of bootstrapping from 12 images and a broken one into ``student``."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for index in range(12):
        tiny.image(index).save(images / f"{index}.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = {"output": str(folder / "student"), "teacher": str(teacher), "images": [str(images)]}
    return write(folder, BOOTSTRAP, name, **{**given, "zero_shot": ["synthetic:test:64"], **values})


def conversations(folder: Path, order: str = "ptppttpp") -> str:
    """A file of conversations; ``order``: p for one with an image, t for one of text alone, b for a broken image."""
    samples = []
    for index, kind in enumerate(order):
        asked = "Is it large?" if kind == "t" else "<image>\nIs it red?"
        answered = "Yes." if index % 2 else "No, two squares."
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
        sample: dict[str, Any] = {"id": f"s{index}", "conversations": turns}
        if kind != "t":
            sample["image"] = f"{index}.png"
            tiny.image(index).save(folder / sample["image"])
        if kind == "b":
            (folder / sample["image"]).write_bytes(b"nothing")
        samples.append(sample)
    (folder / "data.json").write_text(json.dumps(samples))
    return str(folder / "data.json")


def logged(output: Path) -> list[dict[str, Any]]:
    """What a run has logged, in order."""
    return json.loads((output / "metrics.json").read_text())["log"]
