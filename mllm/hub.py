"""Models on the Hugging Face hub: what is pushed there, with a card that says what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, ModelCardData
from safetensors import safe_open
from transformers import PreTrainedConfig

from data.benchmarks.table import as_markdown, collect
from data.errors import InputError, translated
from data.files import read_json, write_whole
from encoder.training.metrics import METRICS
from mllm.loading import FILES, check_model_directory, check_weight_files, is_adapter, load_processor
from mllm.processing import MLLMProcessor

CARD = "README.md"

_USE = """\
```python
import mllm  # pip install sparseformer-mllm: tells transformers' Auto classes and pipelines about the model
from transformers import pipeline

pipe = pipeline("image-text-to-text", model="{name}")
image, text = {{"type": "image", "url": "a.jpg"}}, {{"type": "text", "text": "What is it?"}}
pipe(text=[{{"role": "user", "content": [image, text]}}], generate_kwargs={{"do_sample": False}})
```

or `mllm chat --model {name} --image a.jpg`, or `mllm serve --model {name}`.
"""


def model_card(
    directory: Path, name: str, license: str | None = None, results: Sequence[Path] = (), trained: Path | None = None
) -> str:
    """Writes what a model directory holds, how to use it, what it was trained on and how it scores.

    Args:
        name: under which it is going to be found.
        license: its identifier, as the hub has it.
        results: folders of `mllm eval`'s results.
        trained: the directory whose `metrics.json` tells of its training, if that is another.

    Raises:
        InputError: it is no model directory, or a file is damaged.
    """
    config, processor = check_model_directory(directory), load_processor(directory)
    tags = ["sparseformer", "llava", config.model_type]
    head = ModelCardData(library_name="transformers", pipeline_tag="image-text-to-text", tags=tags, license=license)
    sections = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name}",
        "Answers questions about images: a vision encoder whose few tokens are projected into a language model.",
        _parts(directory, config, processor),
        f"## Use\n\n{_USE.format(name=name)}",
        *_training((trained or directory) / METRICS),
    ]
    if results:
        sections.append(f"## Scores\n\n{as_markdown(collect(results))}")
    if license is None:
        sections.append("## License\n\nThose of the encoder, the language model and the data that it was made of.")
    return "\n\n".join(section.strip() for section in sections) + "\n"


def write_card(directory: Path, **options: Any) -> None:
    """Writes the card into a model directory that has none; ``options`` are those of `model_card`."""
    if not (directory / CARD).exists():
        write_whole(directory / CARD, model_card(directory, **{"name": directory.name, **options}).encode())


def push(
    directory: Path,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    results: Sequence[Path] = (),
) -> str:
    """Pushes a plain model directory to the hub, with a new card; the token is that of `hf auth login` or HF_TOKEN.

    Args:
        repo: OWNER/NAME, made if it is not there.
        revision: a branch, made if it is not there.
        license, results: for the card.

    Returns:
        the address of the commit.

    Raises:
        InputError: the directory is no whole model, or the hub refuses it.
    """
    if is_adapter(directory):
        raise InputError(f"{directory}: is an adapter, whose base would be missing there; `mllm merge` it first")
    config = check_model_directory(directory)
    reference = getattr(config, "language_model_reference", None)
    if reference is not None and (reference.startswith(".") or ":" in reference):
        raise InputError(f"{directory}: refers to its language model {reference}, which others do not have; merge it")
    check_weight_files(directory)
    card = model_card(directory, repo, license, results)
    with translated(f"{repo}: the hub does not take it", "see `hf auth whoami`"):
        hub = HfApi(library_name="sparseformer-mllm", library_version=version("sparseformer-mllm"))
        hub.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repo, branch=revision, exist_ok=True)
        write_whole(directory / CARD, card.encode())
        commit = hub.upload_folder(
            repo_id=repo,
            folder_path=directory,
            revision=revision,
            allow_patterns=list(FILES),
            commit_message=f"mllm push {directory.resolve().name}",
        )
    return str(commit.commit_url)


def _parts(directory: Path, config: PreTrainedConfig, processor: MLLMProcessor) -> str:
    """A table of what the model is made of."""
    text = config.get_text_config()
    vision: Any = getattr(config, "vision_config", None)
    fewest, most = getattr(processor, "min_image_tokens", None), getattr(processor, "num_image_tokens", None)
    weights = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            weights += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    rows = {
        "vision encoder": getattr(vision, "model_type", "?"),
        "projector": getattr(config, "projector", "?"),
        "language model": f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}",
        "tokens of an image": str(most) if fewest is None else f"{fewest} to {most}, as asked for",
        "stored weights": f"{weights:,}, {str(config.dtype).removeprefix('torch.')}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _training(file: Path) -> list[str]:
    """The recipe and what the training measured, if its `metrics.json` is there."""
    if not file.is_file():
        return []
    content = read_json(file)
    with translated(str(file), "delete it, or train again"):
        recipe = yaml.safe_dump(content["recipe"], sort_keys=False, allow_unicode=True)
        logged = content["log"][-1] if content["log"] else {}
        measured = {**logged, **content["result"], "seconds": round(content["seconds"])}
    rows = "\n".join(f"| {name} | {value} |" for name, value in measured.items() if not isinstance(value, dict | list))
    by = f"By `mllm {content['command']}` of sparseformer-mllm."
    return [f"## Training\n\n{by}\n\n```yaml\n{recipe}```\n\n| at its end | |\n|---|---|\n{rows}"]
