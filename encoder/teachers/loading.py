"""Teachers by name: `open_clip:NAME`, `timm:NAME`, `transformers:DIR_OR_NAME`, `material:NAME`, or a directory.

A directory may also be a SparseFormer's, with a text tower or without.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn

from data.errors import InputError, shorten, translated
from data.materials import SCHEME, model_path
from encoder.clip import CONFIG_FILE
from encoder.configuration import SparseFormerConfig
from encoder.errors import TeacherError
from encoder.image_processing import check_image_processor
from encoder.teachers.teacher import LIBRARIES, LoadedTeacher, Teacher, TeacherRequest
from encoder.weights import weights_file

logger = logging.getLogger(__name__)


class _FromLibrary(TeacherError):
    """What a library raised, not yet with the model's name."""


def load_teacher(
    source: str,
    pretrained: str | None = None,
    image_size: int | None = None,
    random: bool = False,
    tokenizer: str | None = None,
    text: bool = True,
) -> LoadedTeacher:
    """Load a pre-trained tower.

    Args:
        source: ``open_clip:NAME``, ``timm:NAME[.TAG]``, ``transformers:NAME`` or ``transformers:DIRECTORY``; a
            directory that one of the three wrote, or of a SparseFormer; ``material:NAME`` of what `mllm fetch` has
            fetched; or the bare name of one of open_clip's models.
        pretrained: weights of a named model of open_clip or timm: a tag or a local file in a format of that library.
            For open_clip ``TAG=FILE`` takes the weights from FILE, and the activation and the preprocessing from TAG.
        image_size: side of its images in pixels, if not the published one: position embeddings are interpolated by
            its library, and what it resizes images to changes alike.
        random: leave the weights at their random start; no file of weights is looked for. For a dry run.
        tokenizer: directory of the tokenizer of a named model of open_clip whose own is not on this machine.
        text: whether to read the text side as well, where there is one.

    Raises:
        TeacherError: it cannot be found or loaded; one line that says why. Also a tower that makes no one embedding
            of a square image. That a tower has no blocks to inherit is no error here: see `Teacher.unsupported`.
    """
    if source.startswith(SCHEME):
        source = str(model_path(source))
    library, _, name = source.partition(":")
    if Path(source).is_dir():
        library, name = "", source  # its files say which
    elif library not in LIBRARIES:
        library, name = "open_clip", source
    directory = Path(name).is_dir()
    if pretrained and (directory or library == "transformers"):
        raise TeacherError(f"{source} brings its own weights; leave pretrained out")
    if tokenizer is not None and (directory or library != "open_clip"):
        raise TeacherError(f"tokenizer={tokenizer}: is for a name of open_clip's; leave it out")
    try:
        if directory:
            _check_files(Path(name))
            library = library or _library_of(Path(name))
        with translated(library, error=_FromLibrary), _quiet_hub():
            loaded = LIBRARIES[library](
                TeacherRequest(name, pretrained, directory, image_size, random, tokenizer, text)
            )
            check_image_processor(name, loaded.teacher.image_processor)
    except InputError as error:
        if isinstance(error, _FromLibrary) and any(isinstance(each, _UNREACHABLE) for each in _chain(error)):
            raise TeacherError(
                f"{source} is not on this machine, and the hub that has it cannot be reached; "
                f"fetch it where there is a network, and {_WAYS.get(library, 'give its files')}"
            ) from error
        raise TeacherError(shorten(f"{source} cannot be loaded: {error}")) from error
    if image_size is not None:
        _warn_of_a_rim(source, loaded.teacher, image_size)
    return loaded


def _warn_of_a_rim(source: str, teacher: Teacher, size: int) -> None:
    """A line in the log if patches do not cover images of this size: the rest is not seen."""
    first = next((each for each in teacher.modules() if isinstance(each, nn.Conv2d)), None)
    if first is not None and first.kernel_size == first.stride and (rest := size % first.stride[0]):
        logger.warning(
            "%s: image size %d is no multiple of its patches' side, %d: the last %d pixels are not seen; take %d or %d",
            *(source, size, first.stride[0], rest, size - rest, size - rest + first.stride[0]),
        )


# Of the hub's client, and of downloads without it.
_UNREACHABLE = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError, URLError)
_WAYS = {
    "open_clip": "give the file of weights as pretrained (TAG=FILE), or a directory that open_clip wrote",
    "timm": "give the file of weights as pretrained, or a directory that timm wrote",
    "transformers": "give its directory: transformers:DIRECTORY",
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's client warns of each of its tries, of which there are a dozen; what came of them is said once."""
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(before)


def _check_files(directory: Path) -> None:
    """Raise TeacherError for what no library should open: a pipe or a device, a pointer of Git LFS as weights."""
    for file in directory.iterdir():
        if file.suffix in (".safetensors", ".bin", ".pth", ".pt", ".npz"):
            weights_file(file)
        elif not file.is_file() and not file.is_dir():
            raise TeacherError(f"{file}: is no regular file; delete it, or give another directory")


def _library_of(directory: Path) -> str:
    """Which library wrote this directory, by its configuration file."""
    path = directory / "config.json"
    if (directory / CONFIG_FILE).is_file() and not path.is_file():
        return "open_clip"
    with translated(f"{directory} is not the directory of a model: {CONFIG_FILE} and {path}", error=TeacherError):
        config = json.loads(path.read_text(encoding="utf-8"))
        if "model_type" in config and config["model_type"] == SparseFormerConfig.model_type:
            return "sparseformer"
        if (directory / CONFIG_FILE).is_file():
            return "open_clip"
        if "architecture" in config:
            return "timm"
        if "architectures" in config:
            return "transformers"
    raise TeacherError(f"{path} names no architecture, as timm's, or architectures, as transformers', does")
