"""Tiny model directories, built once a session. Tests must not write into them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="datasets-")  # goes when the tests have ended
os.environ["HF_DATASETS_CACHE"] = _CACHE.name  # `datasets` reads it when it is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu run where there is one: `scripts/gpu_check.sh`."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            items[:] = [item for item in items if item not in marked]


# tiny is imported by the fixtures, so that tests that need no model do not wait for transformers.


def seed() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """What tests share is drawn alike, whichever asks for it first."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    seed()


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory) -> Path:
    """A SparseFormer of width 32 with 4 latent tokens and a class token."""
    from tests import tiny

    return tiny.sparseformer(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="session")
def language_model_dir(tmp_path_factory) -> Path:
    """A LLaMA of width 32 with a SentencePiece tokenizer."""
    from tests import tiny

    return tiny.language_model(tmp_path_factory.mktemp("tiny") / "lm")


@pytest.fixture(scope="session")
def bpe_language_model_dir(tmp_path_factory) -> Path:
    """The same with a byte-level BPE tokenizer and tied embeddings."""
    from tests import tiny

    return tiny.language_model(tmp_path_factory.mktemp("tiny") / "lm", kind="bpe", tie=True)


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory) -> Path:
    """A whole transformers CLIP."""
    from tests import tiny

    return tiny.clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture(scope="session")
def siglip_dir(tmp_path_factory) -> Path:
    """A transformers SigLIP vision tower."""
    from tests import tiny

    return tiny.siglip(tmp_path_factory.mktemp("tiny") / "siglip")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, encoder_dir, language_model_dir) -> Path:
    """SparseFormer, two-layer projector with RoI embedding, LLaMA."""
    from tests import tiny

    return tiny.model(tmp_path_factory.mktemp("tiny") / "model", encoder_dir, language_model_dir, roi_embedding=True)


@pytest.fixture(scope="session")
def elastic_dir(tmp_path_factory, language_model_dir) -> Path:
    """The same with nested tokens: an image becomes 2 to 9."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny")
    encoder = tiny.sparseformer(folder / "encoder", nested_tokens=True, num_latent_tokens=8)
    return tiny.model(folder / "elastic", encoder, language_model_dir, roi_embedding=True)


@pytest.fixture(scope="session")
def open_clip_dir(tmp_path_factory) -> Path:
    """A CLIP in open_clip's format: six blocks of width 32, images of 32 pixels, 17 tokens."""
    from tests import tiny

    return tiny.open_clip_model(tmp_path_factory.mktemp("tiny") / "open_clip")


@pytest.fixture(scope="session")
def tokenizer_dirs(tmp_path_factory) -> Path:
    """A folder of tokenizers: `sentencepiece`, `bpe`."""
    from tests import tiny

    directory = tmp_path_factory.mktemp("tokenizers")
    tiny.sentencepiece_tokenizer(directory / "sentencepiece")
    tiny.bpe_tokenizer(directory / "bpe")
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """A file of conversations: five with an image, three of text alone."""
    from tests import recipes

    return recipes.conversations(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=["sentencepiece", "bpe"])
def kind(request) -> str:
    """Of tokenizers."""
    return request.param


OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,900")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A real one, without a window and with a made-up camera."""
    from selenium import webdriver

    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.fail("Chromium is missing: apt-get install chromium chromium-driver, or -m 'not browser'", pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for option in (*OPTIONS, *CAMERA):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()
