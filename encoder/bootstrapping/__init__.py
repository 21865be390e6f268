"""Bootstrapping: build a student of a teacher, train it stage by stage to give the teacher's embedding."""

from encoder.bootstrapping.cache import EmbeddingCache
from encoder.bootstrapping.callbacks import DrawRois
from encoder.bootstrapping.losses import LOSSES, check_losses, cosine_distance, reads_patches
from encoder.bootstrapping.stages import PARTS, Stage, apply_stage, student_parts
from encoder.bootstrapping.student import StudentOptions, build_student, student_config
from encoder.bootstrapping.trainer import BootstrapTrainer, held_out_cosine

__all__ = [
    "LOSSES",
    "PARTS",
    "BootstrapTrainer",
    "DrawRois",
    "EmbeddingCache",
    "Stage",
    "StudentOptions",
    "apply_stage",
    "build_student",
    "check_losses",
    "cosine_distance",
    "held_out_cosine",
    "reads_patches",
    "student_config",
    "student_parts",
]
