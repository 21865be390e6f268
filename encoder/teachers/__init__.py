"""Teachers: pre-trained towers of open_clip, timm and transformers behind one small interface."""

from encoder.teachers.base import Blocks, Teacher, TeacherError
from encoder.teachers.loading import load_teacher
from encoder.teachers.open_clip_towers import OpenClipTeacher
from encoder.teachers.text_side import TextSide
from encoder.teachers.timm_towers import TimmTeacher
from encoder.teachers.transformers_towers import TransformersTeacher
from encoder.teachers.wanted import LoadedTeacher

__all__ = [
    "Blocks",
    "LoadedTeacher",
    "OpenClipTeacher",
    "Teacher",
    "TeacherError",
    "TextSide",
    "TimmTeacher",
    "TransformersTeacher",
    "load_teacher",
]
