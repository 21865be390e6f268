"""From the directories of an encoder and of a language model to a whole model with a new projector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import nn
from transformers import (
    AddedToken,
    AutoModel,
    AutoTokenizer,
    BaseImageProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data import InputError
from data.errors import reason, translated
from data.materials import model_path
from encoder import SparseFormerConfig
from encoder.image_processing import SparseFormerImageProcessor, load_image_processor
from mllm.configuration import MLLMConfig
from mllm.modeling import MLLMForConditionalGeneration, new_projector
from mllm.parts import check_parts, load_language_model, load_part
from mllm.processing import MLLMProcessor
from mllm.projector_start import fit_ridge, fit_whitening
from mllm.prompts import answer_prefix, end_of_turn
from mllm.templates import CHAT_TEMPLATES, with_answer_prefix, with_images
from mllm.tower import end_tower
from projector import complete_options

IMAGE_TOKEN = "<image>"


def assemble(
    encoder_dir: str | Path,
    language_model_dir: str | Path,
    projector: str = "mlp2x_gelu",
    roi_embedding: bool = False,
    vision_feature_layer: int | list[int] = -2,
    chat_template: str | None = None,
    whitening_images: Sequence[Image.Image] = (),
    projector_options: dict[str, Any] | None = None,
    vision_feature_select_strategy: str = "full",
    named_images: Iterable[tuple[Image.Image, str]] | None = None,
) -> tuple[MLLMForConditionalGeneration, MLLMProcessor]:
    """Puts a model together, on the CPU and in the language model's dtype. The projector is new: seed torch for it.

    The tokenizer gets ``<image>`` and a padding token if it has none, padding on the left, and a chat template that
    takes images. Not to be called under ZeRO-3: save the model first, and load the directory there.

    Args:
        encoder_dir: a SparseFormer, or a dense tower (CLIP, SigLIP) of transformers, with its image processor.
        language_model_dir: a causal language model and its tokenizer, as transformers saves them; or a model that
            takes images too and has one inside.
        projector: name in `projector.PROJECTORS`.
        roi_embedding: add an embedding of each token's RoI.
        vision_feature_layer: index, or indices, into the encoder's ``hidden_states``. What comes behind the deepest of
            them is left out of the model, and in its configuration they are counted from the first.
        chat_template: a name in `templates.CHAT_TEMPLATES`; None: the tokenizer's own, or "plain" if it has none.
        whitening_images: level the variances of the encoder's features, as measured on these images; none: don't.
        projector_options: the projector's own options, such as a resampler's ``queries``.
        vision_feature_select_strategy: "default" leaves the encoder's class token out, "full" keeps it.
        named_images: images of one thing each and its name, to start the projector on the names' words (`fit_ridge`).

    Returns:
        the model in eval mode, and its processor.

    Raises:
        InputError: a directory that does not hold what it should, parts that do not fit together.
    """
    encoder_dir, language_model_dir = model_path(encoder_dir), model_path(language_model_dir)
    parts = check_parts(encoder_dir, language_model_dir)
    options: dict[str, Any] = {
        "projector": projector,
        "projector_options": projector_options or {},
        "roi_embedding": roi_embedding,
        "whitening": len(whitening_images) > 0,
        "vision_feature_layer": vision_feature_layer,
        "vision_feature_select_strategy": vision_feature_select_strategy,
    }
    options["vision_feature_layer"] = configure(*parts, **options).vision_feature_layer
    language_model = load_language_model(language_model_dir, parts[1])
    tower = load_part(AutoModel, encoder_dir, parts[0], language_model.dtype)
    _end_checked(tower, options["vision_feature_layer"])
    image_processor = load_image_processor(encoder_dir)
    with translated(f"{language_model_dir}: no tokenizer can be read"):
        tokenizer: Any = AutoTokenizer.from_pretrained(str(language_model_dir))  # more arguments would be saved with it
        tokenizer.tokenize(IMAGE_TOKEN)  # looks at model_max_length, as loading does not
    prepare_tokenizer(tokenizer, chat_template)
    _make_room(language_model, len(tokenizer))
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = configure(tower.config, language_model.config, image_token_index=image_token, **options)
    with torch.device("meta"):  # nothing but the projector is new; the rest is not worth its memory
        model = MLLMForConditionalGeneration(config)
    model.model.vision_tower = tower
    model.model.multi_modal_projector = new_projector(config).to(language_model.dtype)
    model.model.language_model = language_model.base_model
    model.lm_head = language_model.get_output_embeddings()
    model.eval()
    _check_language_model(model, language_model, language_model_dir)

    config.image_seq_length = _count_tokens(model, image_processor)
    if config.whitening:
        fit_whitening(model, image_processor, whitening_images)
    if named_images is not None:
        fit_ridge(model, image_processor, tokenizer, named_images)
    processor = MLLMProcessor(
        image_processor,
        tokenizer,
        config.image_seq_length,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
        min_image_tokens=_fewest_tokens(config, image_processor),
    )
    tokenizer.chat_template = with_answer_prefix(tokenizer.chat_template, answer_prefix(processor))
    processor.chat_template = tokenizer.chat_template
    # Where the template ends the assistant's turn need not be where the language model ended its texts: stop at both.
    # The language model's own sampling settings are left behind: answers are greedy unless asked otherwise.
    stops = dict.fromkeys(token for token in (end_of_turn(processor), tokenizer.eos_token_id) if token is not None)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=list(stops), pad_token_id=tokenizer.pad_token_id
    )
    return model, processor


def configure(encoder: PreTrainedConfig, language_model: PreTrainedConfig, **options: Any) -> MLLMConfig:
    """Makes the configuration of a whole model from those of its parts, and completes the projector's options.

    Args:
        options: fields of `MLLMConfig`.
    Raises:
        InputError: an option that is none, or that fits neither the others nor the parts.
    """
    try:
        config = MLLMConfig(vision_config=encoder, text_config=language_model, **options)
        config.projector_options = complete_options(config.projector, config.projector_options)
        with torch.device("meta"):
            new_projector(config)
    except (StrictDataclassError, ValueError) as problem:  # our own words, which need no more around them
        raise InputError(_one_line(problem.__cause__ or problem)) from problem
    except (RuntimeError, TypeError) as problem:
        raise InputError(f"projector: no layer between such hidden_size fields: {reason(problem)}") from problem
    return config


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> None:
    """Gives a tokenizer `<image>`, a padding token, padding on the left, and a chat template that takes images."""
    image = AddedToken(IMAGE_TOKEN, normalized=False, special=True)
    tokenizer.add_special_tokens({"extra_special_tokens": [image]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        # Which one does not matter: padding is masked in the attention and is never a target.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError("tokenizer: has neither a padding, an unknown nor an end token; set pad_token")
    tokenizer.padding_side = "left"
    if chat_template is not None:
        if chat_template not in CHAT_TEMPLATES:
            raise InputError(f"chat_template {chat_template!r} is unknown; there are: {', '.join(CHAT_TEMPLATES)}")
        template = CHAT_TEMPLATES[chat_template]
    else:
        template = tokenizer.chat_template or CHAT_TEMPLATES["plain"]
    if isinstance(template, dict):
        if "default" not in template:
            raise InputError(f"tokenizer: none of its chat templates is the default: {', '.join(template)}")
        template = template["default"]
    tokenizer.chat_template = with_images(template, IMAGE_TOKEN)


@torch.no_grad()
def _make_room(language_model: PreTrainedModel, count: int) -> None:
    """Adds rows for new tokens to both embeddings, each the mean of the old ones: the model is not drawn to say it."""
    embeddings: Any = language_model.get_input_embeddings()
    before = embeddings.num_embeddings
    if count <= before:
        return
    language_model.resize_token_embeddings(count, mean_resizing=False)
    both: tuple[Any, Any] = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
    for embedding in both:
        embedding.weight[before:] = embedding.weight[:before].mean(dim=0)


@torch.no_grad()
def _check_language_model(
    model: MLLMForConditionalGeneration, language_model: PreTrainedModel, directory: Path
) -> None:
    """Some language models do more behind their base than one Linear; the whole model would leave it out in silence."""
    ids = torch.arange(min(8, language_model.config.vocab_size))[None]
    head = language_model.get_output_embeddings()
    plain = isinstance(head, nn.Linear) and head.bias is None
    if not plain or not torch.equal(model(input_ids=ids).logits, language_model(input_ids=ids).logits):
        raise InputError(
            f"language model directory {directory}: a {language_model.config.model_type!r} has a head of its own, "
            "which is not carried over; take a model whose head is one Linear without bias, such as a LLaMA"
        )


@torch.no_grad()
def _end_checked(tower: PreTrainedModel, layers: int | list[int]) -> None:
    """`end_tower`, tried on noise: what is read must stay the same, bit for bit."""
    size = tower.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(tower.dtype)
    read = [layers] if isinstance(layers, int) else layers
    before = tower.eval()(pixels, output_hidden_states=True, return_dict=True).hidden_states
    end_tower(tower, max(read))
    output = tower(pixels, output_hidden_states=True, return_dict=True)
    after = output.hidden_states or (output.last_hidden_state,)
    if not all(torch.equal(before[layer], after[layer]) for layer in read):
        raise InputError(
            f"vision_feature_layer={layers}: a {tower.config.model_type!r} computes it from what comes behind; "
            "take a ViT of transformers or a SparseFormer"
        )


@torch.no_grad()
def _count_tokens(model: MLLMForConditionalGeneration, image_processor: BaseImageProcessor) -> int:
    """Counts the embeddings of an image: towers differ in what they make of its size."""
    pixels = image_processor([Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    return visual_tokens(model, pixels)


def _fewest_tokens(config: MLLMConfig, image_processor: BaseImageProcessor) -> int | None:
    """The fewest embeddings that an image can become; None: their number is fixed."""
    nested = config.elastic and config.vision_config.nested_tokens
    if not nested or not isinstance(image_processor, SparseFormerImageProcessor):
        return None
    with_class_token = config.vision_config.class_token and config.vision_feature_select_strategy == "full"
    return 1 + with_class_token


def visual_tokens(model: MLLMForConditionalGeneration, pixels: torch.Tensor) -> int:
    """Counts the embeddings of an image like `pixels` (1, 3, H, W), on the model's device.

    Raises:
        InputError: a class token that the encoder has not; tokens that the projector does not take.
    """
    config = model.config
    try:
        encoded = model.model.get_image_features(pixels)
    except ValueError as problem:
        raise InputError(f"projector {config.projector!r}: {_one_line(problem)}") from problem
    strategy = config.vision_feature_select_strategy
    if strategy == "default" and not _has_class_token(config.vision_config, encoded.hidden_states[-1], pixels):
        raise InputError(
            f"vision_feature_select_strategy={strategy!r} leaves the first token out, "
            "and this encoder's first is no class token: set it to 'full'"
        )
    return len(encoded.pooler_output[0])


def _has_class_token(config: PreTrainedConfig, tokens: torch.Tensor, pixels: torch.Tensor) -> bool:
    """Whether there is more among the tokens (1, N, D) than the patches, or latent tokens, of an image."""
    if isinstance(config, SparseFormerConfig):
        return config.class_token
    height, width = pixels.shape[-2:]
    return tokens.shape[1] != (height // config.patch_size) * (width // config.patch_size)


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())
