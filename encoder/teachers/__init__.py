"""Teachers: pre-trained towers of open_clip, timm and transformers, and SparseFormers, behind one small interface."""

from encoder.errors import TeacherError
from encoder.teachers.blocks import Blocks
from encoder.teachers.from_open_clip import open_clip_teacher
from encoder.teachers.from_sparseformer import sparseformer_teacher
from encoder.teachers.from_timm import timm_teacher
from encoder.teachers.from_transformers import transformers_teacher
from encoder.teachers.loading import load_teacher
from encoder.teachers.teacher import LoadedTeacher, Teacher, TeacherRequest, TextSide, make_teacher, register_teacher

__all__ = [
    "Blocks",
    "LoadedTeacher",
    "Teacher",
    "TeacherError",
    "TeacherRequest",
    "TextSide",
    "load_teacher",
    "make_teacher",
    "open_clip_teacher",
    "register_teacher",
    "sparseformer_teacher",
    "timm_teacher",
    "transformers_teacher",
]
