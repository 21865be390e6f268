"""Generated pictures with ground truth: objects, mask, captions, questions and answers."""

from data.scenes.asking import Question
from data.scenes.captions import CLASS_NAMES, TEMPLATES, TEXT_NAMES, TEXT_TEMPLATES, caption, captions
from data.scenes.datasets import (
    DESCRIBE,
    SceneCaptions,
    SceneConversations,
    ScenePictures,
    SceneQuestions,
    SceneTexts,
    SceneTurns,
    ZeroShotScenes,
)
from data.scenes.objects import SceneObject
from data.scenes.questions import KINDS, blind_accuracy, make_questions, question_set
from data.scenes.scene import Scene, SceneConfig, make_scene
from data.scenes.sentences import scene_sentences
from data.scenes.source import parse_size, scenes_source
from data.scenes.vocabulary import COLOURS, SHAPES, SIZES, SPLITS, WORDS

__all__ = [
    "CLASS_NAMES",
    "COLOURS",
    "DESCRIBE",
    "KINDS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TEMPLATES",
    "TEXT_NAMES",
    "TEXT_TEMPLATES",
    "WORDS",
    "Question",
    "Scene",
    "SceneCaptions",
    "SceneConfig",
    "SceneConversations",
    "SceneObject",
    "ScenePictures",
    "SceneQuestions",
    "SceneTexts",
    "SceneTurns",
    "ZeroShotScenes",
    "blind_accuracy",
    "caption",
    "captions",
    "make_questions",
    "make_scene",
    "parse_size",
    "question_set",
    "scene_sentences",
    "scenes_source",
]
