"""What trains a CLIP: its loss as a module, its texts, the rates of its layers, and the Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.loss import gather_features
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import group_parameters
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from encoder.teachers import Teacher
from encoder.training.averaging import AveragedTrainer
from encoder.training.rates import optimizer_by_rates

MAX_LOGIT_SCALE = math.log(100)  # CLIP's own bound (arXiv 2103.00020, section 2.5)
# Layers of open_clip's ViT, as timm says it of its models.
_OPEN_CLIP_LAYERS = {
    "stem": r"^class_embedding|^positional_embedding|^conv1|^ln_pre",
    "blocks": [(r"^transformer\.resblocks\.(\d+)", None), (r"^ln_post|^attn_pool|^proj", (99999,))],
}


class FrozenTexts:
    """The forward of a frozen text tower of transformers that embeds each text once, without needless padding.

    Args:
        forward: open_clip's own, token ids (B, T) -> embeddings (B, E).
        padding: the id of what is not looked at.
        most: texts that are kept.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], padding: int, most: int = 2**17) -> None:
        self.forward, self.padding, self.most = forward, padding, most
        self.kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        keys = [row.tobytes() for row in ids.cpu().numpy()]
        new = {key: place for place, key in enumerate(keys) if key not in self.kept}
        if new:
            asked = ids[list(new.values())]
            length = int((asked != self.padding).any(dim=0).nonzero().max()) + 1
            with torch.autocast(ids.device.type, enabled=False):
                self.kept.update(zip(new, self.forward(asked[:, :length]).float().cpu(), strict=True))
        found = torch.stack([self.kept[key] for key in keys]).to(ids.device)
        if len(self.kept) > self.most:
            self.kept.clear()
        return found


class ContrastiveModel(nn.Module):
    """A CLIP whose forward is its loss, as the Trainer wants it.

    Captions of equal keys are right for each other's images, and share their probability (arXiv 2204.03610).

    Args:
        bank: how many texts of the batches before are compared with images, too, as (texts, width of an embedding).
        freeze_norm_statistics: batch norms stay in evaluation mode.
    """

    bank: Tensor
    bank_numbers: Tensor  # keys and texts
    bank_end: Tensor

    def __init__(
        self,
        clip: Any,
        rank: int = 0,
        world_size: int = 1,
        bank: tuple[int, int] = (0, 1),
        freeze_norm_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.clip, self.rank, self.world_size = clip, rank, world_size
        norms = [module for module in clip.visual.modules() if isinstance(module, nn.BatchNorm2d)]
        self.frozen = norms if freeze_norm_statistics else []
        # a CNN computes nearly twice as fast where the channels of a pixel lie together
        self.layout = torch.channels_last if norms else torch.contiguous_format
        self.register_buffer("bank", torch.zeros(bank))
        self.register_buffer("bank_numbers", torch.zeros(bank[0], 2, dtype=torch.int64))
        self.register_buffer("bank_end", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> ContrastiveModel:
        super().train(mode)
        for norm in self.frozen:
            norm.eval()
        return self

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        keys: Tensor | None = None,
        texts: Tensor | None = None,
        target: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Computes the loss of a batch.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (B, T), of captions.
            keys, texts: (B,), equal where images belong together, and where captions are the same.
            target: (B, E), a teacher's embeddings, which are learned in place of all this.

        Returns: {"loss": scalar}
        """
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        images = self.clip.encode_image(pixel_values.contiguous(memory_format=self.layout), normalize=True).float()
        if target is not None:
            return {"loss": 1 - F.cosine_similarity(images, target.float(), dim=-1).mean()}
        assert keys is not None
        assert texts is not None
        words = self.clip.encode_text(input_ids, normalize=True).float()
        all_images, all_words, all_keys = images, words, keys
        if self.world_size > 1:  # every process compares its own images with the texts of all
            all_images, all_words = gather_features(images, words, True, True, self.rank, self.world_size)
            parts = [torch.empty_like(keys) for _ in range(self.world_size)]
            torch.distributed.all_gather(parts, keys)
            all_keys = torch.cat(parts)
        scale = self.clip.logit_scale.exp()
        candidates, candidate_keys = all_words, all_keys
        if len(self.bank):
            filled = torch.arange(len(self.bank), device=texts.device) < self.bank_end
            past = filled & ~torch.isin(self.bank_numbers[:, 1], texts)
            candidates = torch.cat([candidates, self.bank[past]])
            candidate_keys = torch.cat([candidate_keys, self.bank_numbers[past, 0]])
        of_images = _cross_entropy(scale * images @ candidates.T, keys, candidate_keys)
        of_texts = _cross_entropy(scale * words @ all_images.T, keys, all_keys)
        if self.training and len(self.bank):
            self._remember(words.detach(), keys, texts)
        return {"loss": (of_images + of_texts) / 2}

    def _remember(self, words: Tensor, keys: Tensor, texts: Tensor) -> None:
        """Puts texts that are new into the bank, in the places of the oldest."""
        new = ~torch.isin(texts, self.bank_numbers[:, 1])
        count = min(int(new.sum()), len(self.bank))
        places = (int(self.bank_end) + torch.arange(count, device=texts.device)) % len(self.bank)
        self.bank[places] = words[new][:count]
        self.bank_numbers[places] = torch.stack([keys, texts], dim=1)[new][:count]
        self.bank_end += count


def _cross_entropy(logits: Tensor, keys: Tensor, others: Tensor) -> Tensor:
    """Of rows whose probability is shared by the columns of equal keys."""
    right = (keys[:, None] == others).to(logits.dtype)
    return F.cross_entropy(logits, right / right.sum(dim=1, keepdim=True))


def layers(visual: nn.Module) -> dict[str, int]:
    """The layer of each parameter of an image tower, counted from the images, as far as its library tells them."""
    if isinstance(visual, TimmModel):
        trunk: Any = visual.trunk
        groups = group_parameters(trunk, trunk.group_matcher(), reverse=True)
        return {f"trunk.{name}": int(layer) for name, layer in groups.items()}
    if isinstance(visual, VisionTransformer):
        groups = group_parameters(visual, _OPEN_CLIP_LAYERS, reverse=True)
        return {name: int(layer) for name, layer in groups.items()}
    return {}


class ContrastiveTrainer(AveragedTrainer):
    """The Trainer with rates by layer, and CLIP's rule for weight decay: matrices only, no gains, biases, scales.

    Args:
        layer_decay, head_rate, ema: as of `TrainClipRecipe`.
        teacher: moved to the training device; sees "pixel_values", the CLIP "student_pixel_values" if there are any.
    """

    def __init__(
        self,
        *args: Any,
        layer_decay: float = 1.0,
        head_rate: float = 1.0,
        teacher: Teacher | None = None,
        ema: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layer_decay, self.head_rate = layer_decay, head_rate
        self.teacher = None if teacher is None else teacher.to(self.args.device)
        self.keep_average(self.clip.visual, ema)

    @property
    def clip(self) -> Any:
        """The CLIP as it trains."""
        return cast(ContrastiveModel, self.model).clip

    @contextmanager
    def in_evaluation(self) -> Iterator[Any]:
        """The CLIP in evaluation mode, with the averaged image tower if one is kept."""
        clip, trained = self.clip, self.clip.visual
        if self.average is not None:
            clip.visual = self.average.model
        clip.eval()
        try:
            yield clip
        finally:
            clip.visual = trained
            cast(ContrastiveModel, self.model).train()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by rate and by weight decay."""
        if self.optimizer is None:
            depths = {f"clip.visual.{name}": layer for name, layer in layers(self.clip.visual).items()}
            last = max(depths.values(), default=0)
            heads = ("clip.visual.proj", "clip.visual.head.", "clip.logit_scale")
            self.optimizer = optimizer_by_rates(
                self,
                lambda name: (
                    self.head_rate if name.startswith(heads) else self.layer_decay ** (last - depths.get(name, last))
                ),
            )
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.teacher is None:
            outputs = model(**inputs)
        else:
            pixels = inputs["pixel_values"]
            dtype = torch.bfloat16 if self.args.bf16 else torch.float16
            with torch.autocast(self.args.device.type, dtype, enabled=self.args.bf16 or self.args.fp16):
                target = self.teacher(pixels)
            outputs = model(inputs.get("student_pixel_values", pixels), target=target)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]


class EvaluateSometimes(TrainerCallback):
    """Every so many steps something is measured on the CLIP, and logged."""

    def __init__(self, trainer: ContrastiveTrainer, every: int, measure: Callable[[Any], Any]) -> None:
        self.trainer, self.every, self.measure = trainer, every, measure

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every or state.global_step == state.max_steps or not state.is_world_process_zero:
            return
        with self.trainer.in_evaluation() as clip:
            found = [(source, each) for task in self.measure(clip).values() for source, each in task.items()]
        wanted = control.should_log  # which this log would be taken for
        self.trainer.log({f"{source} {name}": value for source, each in found for name, value in each.items()})
        control.should_log = wanted
