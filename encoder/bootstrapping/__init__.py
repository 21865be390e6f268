"""Bootstrapping: build a student of a teacher, train it stage by stage to give the teacher's representation."""

from encoder.bootstrapping.stages import PARTS, Stage, apply_stage, parts_of
from encoder.bootstrapping.student import StudentOptions, build_student, student_config
from encoder.bootstrapping.trainer import BootstrapTrainer, cosine_distance, held_out_cosine

__all__ = [
    "PARTS",
    "BootstrapTrainer",
    "Stage",
    "StudentOptions",
    "apply_stage",
    "build_student",
    "cosine_distance",
    "held_out_cosine",
    "parts_of",
    "student_config",
]
