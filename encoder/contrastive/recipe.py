"""The recipe of `mllm train-clip`: which towers, from which weights, on which images and captions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from data.errors import InputError
from data.limits import MAX_RATE, MAX_SAMPLES, MAX_SIDE, MAX_STEPS, MAX_WIDTH, check_range
from encoder.training.arguments import check_trainer
from encoder.training.recipes import check_keys


@dataclass
class ClipRecipe:
    """The ``model_cfg`` of an open_clip directory, without what image_weights, text_weights or a teacher say."""

    embed_dim: int | None = None  # E, width of the space that images and texts share
    vision_cfg: dict[str, Any] = field(default_factory=dict)  # fields of open_clip.model.CLIPVisionCfg
    text_cfg: dict[str, Any] = field(default_factory=dict)  # fields of open_clip.model.CLIPTextCfg
    quick_gelu: bool = False  # as OpenAI's weights have it
    init_logit_scale: float | None = None  # logarithm of the factor on cosines at the start; default: CLIP's, 2.66

    def __post_init__(self) -> None:
        check_keys("model.vision_cfg", self.vision_cfg, [f.name for f in fields(CLIPVisionCfg)])
        check_keys("model.text_cfg", self.text_cfg, [f.name for f in fields(CLIPTextCfg)])
        for part, cfg in (("vision_cfg", self.vision_cfg), ("text_cfg", self.text_cfg)):
            for name, value in cfg.items():
                for number in value if isinstance(value, list) else [value]:
                    if type(number) is int:
                        least, most = (1, MAX_SIDE) if name == "image_size" else (0, 2**20)
                        check_range(f"model.{part}.{name}", number, least, most)
        check_range("model.embed_dim", self.embed_dim, 1, MAX_WIDTH)

    def model_cfg(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Source:
    """Images to train on: one of the three, opened as `data.sources` says."""

    captioned: str | None = None  # images and captions, one of which is drawn
    labeled: str | None = None  # images of classes, captioned by the classes' names in the source's templates
    images: str | None = None  # images alone, which a teacher is enough for
    weight: float = 1.0  # how often images are taken from it, beside the others

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.captioned, self.labeled, self.images)) != 1:
            raise InputError("data: each source is one of captioned, labeled and images; name one of them")
        check_range("data: weight", self.weight, 0, MAX_RATE)


@dataclass
class CurriculumStage:
    """Steps of a run before its own data."""

    steps: int  # of the optimizer
    data: list[Source]  # as the recipe's own

    def __post_init__(self) -> None:
        check_range("curriculum: steps", self.steps, 1, MAX_STEPS)


@dataclass
class TrainClipRecipe:
    """What `mllm train-clip` reads."""

    output: str  # the open_clip directory to write; checkpoints of an unfinished run lie in it too
    data: list[Source]
    model: ClipRecipe = field(default_factory=ClipRecipe)
    curriculum: list[CurriculumStage] = field(default_factory=list)  # before `data`; counted in trainer.max_steps
    shuffle: bool = True  # each source; false: as it comes, for generated images
    init_from: str | None = None  # another result to start from, of the same model, perhaps on smaller images
    image_weights: str | None = None  # of an image tower to start from: timm's or DINOv2, named as a teacher
    text_weights: str | None = None  # a BERT whose mean state embeds a text: a directory, or material:NAME; frozen
    train_text: bool = False  # text_weights train, too; open_clip's own text tower always does
    teacher: str | None = None  # a CLIP whose text tower is kept, and whose image embeddings are learned by cosine
    mean: list[float] | None = None  # of the channels, in [0, 1]; default: as image_weights have it, or OpenAI
    std: list[float] | None = None
    crop_scale: float = 1.0  # random crops of at least this fraction of the area; 1: the whole image
    flip: bool = False  # mirror half of the images; not where left and right are told
    jitter: float = 0.0  # brightness, contrast and saturation times 1 ± this
    freeze_norm_statistics: bool = False  # batch norms go on with the means and variances of image_weights
    layer_decay: float = 1.0  # the rate of each layer of the image tower, by the next one's
    head_rate: float = 1.0  # times the learning rate: of what projects to the shared space, and of the logit scale
    text_bank: int = 0  # so many texts of the batches before are wrong answers, too; for a frozen text tower
    ema: float | None = None  # decay of an average of the image tower over the steps, which is then the result
    zero_shot: list[str] = field(default_factory=list)  # labeled images to classify: data.open_labeled
    retrieval: list[str] = field(default_factory=list)  # captioned images: data.open_captioned
    evaluation_steps: int = 0  # steps between two evaluations on zero_shot and retrieval; 0: at the end alone
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 3:
                raise InputError(f"{name}: expected three numbers, one per channel")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std={self.std}: channels are divided by them; choose more than 0")
        for name in ("crop_scale", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: a fraction, more than 0 and at most 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema={self.ema}: a decay, more than 0 and less than 1, such as 0.999")
        check_range("jitter", self.jitter, 0, 1)
        check_range("head_rate", self.head_rate, 0, MAX_RATE)
        check_range("text_bank", self.text_bank, 0, MAX_SAMPLES)
        check_range("evaluation_steps", self.evaluation_steps, 0, MAX_STEPS)
        check_trainer(self.trainer)
        self._check_towers()
        for sources in (*(stage.data for stage in self.curriculum), self.data):
            if not any(source.weight for source in sources):
                raise InputError("data: at least one source is needed, with a weight above 0")
            if self.teacher is None and any(source.images for source in sources):
                raise InputError("data: images without captions: name a teacher to learn from, or give captioned")
        if self.curriculum and self.trainer.get("max_steps", 0) <= sum(stage.steps for stage in self.curriculum):
            raise InputError("curriculum: trainer.max_steps, which counts their steps too, must be more than they take")

    def _check_towers(self) -> None:
        model = self.model
        for name in ("hf_model_name", "hf_tokenizer_name"):
            if name in model.text_cfg:
                raise InputError(f"model.text_cfg.{name}: is given by text_weights, the directory of the text tower")
        if self.teacher is not None:
            for name, given in (("text_weights", self.text_weights), ("model.text_cfg", model.text_cfg)):
                if given:
                    raise InputError(f"{name}: the text tower is the teacher's; leave it out")
        if self.text_weights is None and self.train_text:
            raise InputError("train_text: belongs to text_weights; open_clip's own text tower always trains")
        if self.teacher is None and self.text_weights is None and not (model.embed_dim and model.text_cfg):
            raise InputError("model: give embed_dim and text_cfg, or text_weights, or a teacher")
        if self.text_bank and (self.text_weights is None or self.train_text):
            raise InputError("text_bank: texts of earlier batches need a frozen text tower: text_weights")
        if self.image_weights is None and not model.vision_cfg:
            raise InputError("model.vision_cfg: is missing; give it, or name image_weights")
