"""The text side of a teacher's CLIP, which its student keeps; how it is read from transformers' whole models."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from encoder.clip import TRANSFORMERS_TEXT, Clip, text_model
from encoder.teachers.base import Teacher, TeacherError
from encoder.transformers_text import TransformersTokenizer, check_tokenizer

logger = logging.getLogger(__name__)


@dataclass
class TextSide:
    """What makes a CLIP of an image tower: text tower and logit scale, tokenizer, configuration in open_clip's format.

    ``clip`` is a whole open_clip model, the teacher's image tower included.
    """

    clip: Clip
    tokenizer: Any
    model_config: dict[str, Any]


# The class that saved a model with a text tower.
WHOLE: dict[str, Any] = {"CLIPModel": transformers.CLIPModel, "SiglipModel": transformers.SiglipModel}


def transformers_text_side(name: str, config: Any, teacher: Teacher) -> TextSide | None:
    """The text side of a CLIP or SigLIP of transformers; None, and a line in the log, if a student could not keep it.

    Args:
        name: of the hub, or its directory.
        config: the whole model's, whose text_config also has the width of the projection.
        teacher: its image tower.

    Raises:
        TeacherError: weights, tokenizer and towers do not fit each other.
    """
    if not get_tokenizer_config(name):
        logger.warning("%s has no tokenizer_config.json, so its text tower is left out", name)
        return None
    try:
        teacher.image_processor.to_open_clip()  # as a directory with a text tower has it
    except ValueError as error:
        logger.warning("%s: %s, so its text tower is left out", name, error)
        return None
    whole = read_strictly(WHOLE[config.architectures[0]], name, config)
    bias = getattr(whole, "logit_bias", None)
    model_config: dict[str, Any] = {
        "embed_dim": teacher.embed_dim,
        "text_cfg": {TRANSFORMERS_TEXT: json.loads(whole.text_model.config.to_json_string(use_diff=False))},
    }
    if bias is not None:
        model_config["init_logit_bias"] = 0.0  # its value comes with the weights
    clip: Any = text_model(model_config)
    clip.text.model.load_state_dict(whole.text_model.state_dict())
    if clip.text.projection is not None:
        clip.text.projection.load_state_dict(whole.text_projection.state_dict())
    with torch.no_grad():
        clip.logit_scale.copy_(whole.logit_scale.squeeze())
        if bias is not None:
            clip.logit_bias.copy_(bias.squeeze())
    clip.visual = teacher
    tokenizer = TransformersTokenizer(transformers.AutoTokenizer.from_pretrained(name), clip.text)
    check_tokenizer(tokenizer)
    ids = tokenizer(["an image"])
    if int(ids.max()) >= clip.vocab_size:
        raise TeacherError(f"its tokenizer has the id {int(ids.max())}, its text tower {clip.vocab_size} embeddings")
    clip.eval()
    with torch.no_grad():
        width = clip.encode_text(ids).shape[1]
    if width != teacher.embed_dim:
        raise TeacherError(f"its texts are {width} numbers wide, its images {teacher.embed_dim}")
    return TextSide(clip, tokenizer, model_config)


def read_strictly(kind: Any, name: str, config: Any, others: tuple[str, ...] = (), **options: Any) -> Any:
    """A model of transformers in float32, all of whose weights come from ``name``.

    Args:
        kind: its class.
        others: how the names of weights begin that are there for other parts.
        **options: of the class.

    Raises:
        TeacherError: weights are missing, or there are some that it has no place for.
    """
    model, report = kind.from_pretrained(name, config=config, output_loading_info=True, dtype=torch.float32, **options)
    surplus = [key for key in report["unexpected_keys"] if not key.startswith(others)]
    if report["missing_keys"] or surplus:
        raise TeacherError(f"missing weights: {sorted(report['missing_keys'])}; unexpected ones: {sorted(surplus)}")
    return model
