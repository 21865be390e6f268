"""What README and guides name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOG = ROOT / "docs" / "log.md"  # history: what it names may be gone
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*(ROOT / "docs").glob("*.md")} - {LOG})]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_exist(page):
    text = page.read_text()
    files = re.findall(r"(?:scripts|tests|docs|examples)/[\w/-]+\.(?:sh|json|yaml|py|md|png)", text)
    assert [name for name in files if not (ROOT / name).is_file()] == []
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []
