"""The page of what budgets give, from figures by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm.lab import budget


def report(tokens: int, size: int, accuracy: float, *groups: str) -> dict:
    names = [*(groups or ("exists", "count")), "overall"]
    return {
        "tokens_per_image": tokens,
        "image_size": size,
        "count": 100,
        "groups": {name: {"n": 50, "accuracy": accuracy, "text-only baseline": 40.0} for name in names},
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    def write(name: str, *reports: dict) -> None:
        content = {"budgets": reports} if len(reports) > 1 else reports[0]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    write("tokens", *(report(tokens, 224, 50.0 + tokens) for tokens in (4, 8, 16)))
    write("single-8", report(8, 224, 59.5))
    for side in (448, 112):
        write(f"size-{side}", *(report(tokens, side, side / 10, "0.05 to 0.10") for tokens in (4, 16)))
    write("dense-224", report(196, 224, 33.0, "0.05 to 0.10"))
    return tmp_path


def test_the_page(folder):
    pytest.importorskip("matplotlib")
    budget.main([str(folder / "budget.md"), str(folder)])
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in (folder / "budget.md").read_text().splitlines()
    ]
    assert ["8", "58.0", "59.5", "-1.5", "58", "58"] in lines
    assert ["4", "54.0", "", "", "54", "54"] in lines
    assert ["no image", "40.0", "", "", "40", "40"] in lines
    assert [line for line in lines if line[1:2] == ["112"] or line[1:2] == ["448"]] == [
        [tokens, side, accuracy, str(round(float(accuracy)))]
        for tokens in ("4", "16")
        for side, accuracy in (("112", "11.2"), ("448", "44.8"))
    ]
    assert ["all 196 patches", "224", "33.0", "33"] in lines
    assert "<svg" in (folder / "budget.svg").read_text()
