"""A directory that other libraries load: graphs, and how images and text become their inputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import check_new_folder, check_writable, read_json, whole_folder, write_json
from encoder import SparseFormerConfig
from encoder.exporting import Graph, Runner, differences, encoder_graph, write_graph
from encoder.training.arguments import tell_deepspeed
from mllm.exporting.graphs import language_graphs, parts, vision_graph
from mllm.loading import is_adapter, load_model, read_config
from mllm.templates import portable

logger = logging.getLogger(__name__)

PARTS = ("encoder", "vision", "all")
TOLERANCE = 1e-4  # of the largest value of an output, in float32


def export(
    directory: Path, out: Path, form: str, part: str = "all", int8: bool = False, num_tokens: int | None = None
) -> dict[str, Any]:
    """Writes a model's graphs and what belongs to them, once each has computed the same as the model does.

    Args:
        directory: a model, an adapter, or for ``part="encoder"`` an encoder.
        out: a directory that does not exist yet, or is empty.
        form: one of `encoder.exporting.FORMATS`; the graphs are in a folder of that name.
        part: one of PARTS.
        int8: the matmuls' weights as int8.
        num_tokens: tokens of an image; None: the model's own, and for the parts of vision an input where they vary.

    Returns:
        by the graphs' names, their bytes and how far each output is from PyTorch's, of its largest value.

    Raises:
        InputError: no such model, one that cannot be exported, or a graph that computes something else.
    """
    check_new_folder(f"--out {out}", out)
    check_writable("--out", out)
    tell_deepspeed()
    encoder = part == "encoder" and not is_adapter(directory) and _is_encoder(directory)
    if encoder:
        from transformers import AutoImageProcessor

        from encoder import SparseFormerVisionModel

        model: Any = SparseFormerVisionModel.from_pretrained(directory, local_files_only=True).float().eval()
        processor: Any = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
        graphs: Sequence[Graph] = [encoder_graph(model, num_tokens)]
    else:
        model, processor = load_model(directory, "cpu", "float32")
        if num_tokens is not None:
            processor.check_num_tokens(num_tokens, "--tokens")
        inner, config = parts(model)
        if part == "encoder":
            if not isinstance(config.vision_config, SparseFormerConfig):
                raise InputError(
                    f"{directory}: its encoder is a {config.vision_config.model_type!r}; take --part vision"
                )
            graphs = [encoder_graph(inner.vision_tower, num_tokens)]
        elif part == "vision":
            graphs = [vision_graph(model, num_tokens)]
        else:
            graphs = [vision_graph(model, num_tokens or config.image_seq_length), *language_graphs(model)]
    with whole_folder(out) as folder:
        (folder / form).mkdir()
        report = {graph.name: _write(graph, folder / form, form, int8) for graph in graphs}
        if encoder:
            model.config.save_pretrained(folder)
            processor.save_pretrained(folder)
        elif part == "all":
            write_companions(folder, model, processor, num_tokens or config.image_seq_length, int8)
        else:
            model.config.vision_config.save_pretrained(folder)
            processor.image_processor.save_pretrained(folder)
    return report


def _is_encoder(directory: Path) -> bool:
    return isinstance(read_config(directory, "encoder"), SparseFormerConfig)


def _write(graph: Graph, folder: Path, form: str, int8: bool) -> dict[str, Any]:
    before = set(folder.iterdir())
    path = write_graph(graph, folder, form, int8)
    apart = differences(graph, Runner(path))
    if not int8 and max(apart.values()) > TOLERANCE:
        raise InputError(f"{graph.name}: differs from PyTorch by {max(apart.values()):.1e}; nothing is written")
    size = sum(file.stat().st_size for file in set(folder.iterdir()) - before)
    return {"file": path.name, "bytes": size, "differences": apart}


def write_companions(folder: Path, model: Any, processor: Any, num_tokens: int, int8: bool) -> None:
    """Writes what transformers.js and optimum read beside the graphs; to them the model is a LLaVA."""
    config, images = model.config, processor.image_processor
    text = config.text_config
    content = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": config.image_token_index,
        "image_seq_length": num_tokens,
        "text_config": text.to_dict(),
        "vision_config": config.vision_config.to_dict(),
        "vocab_size": text.vocab_size,
        "transformers.js_config": {"dtype": "q8" if int8 else "fp32"},
    }
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        content[name] = getattr(model.generation_config, name, None)
    write_json(folder / "config.json", content)
    model.generation_config.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    tokenizer = folder / "tokenizer_config.json"
    write_json(tokenizer, {**read_json(tokenizer), "chat_template": portable(processor.chat_template)})
    names = {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}
    write_json(folder / "preprocessor_config.json", {**images.to_dict(), **names})
    side = images.crop_size["height"] if images.do_center_crop else images.size["height"]
    # LLaVA counts an image's tokens as patches and some more: here it is one patch, and all the others.
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": processor.image_token,
            "patch_size": side,
            "num_additional_image_tokens": num_tokens - 1,
            "vision_feature_select_strategy": "full",
        },
    )
