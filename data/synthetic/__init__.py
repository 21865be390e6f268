"""Generated images with ground truth: objects, mask, captions, questions and answers."""

from data.synthetic.asking import Question
from data.synthetic.captions import CLASS_NAMES, TEMPLATES, TEXT_NAMES, TEXT_TEMPLATES, caption, captions
from data.synthetic.datasets import (
    DESCRIBE,
    SceneCaptions,
    SceneConversations,
    SceneImages,
    SceneQuestions,
    SceneTexts,
    SceneTurns,
    ZeroShotScenes,
)
from data.synthetic.objects import SceneObject
from data.synthetic.questions import KINDS, blind_accuracy, make_questions, question_set
from data.synthetic.scene import Scene, SceneConfig, make_scene
from data.synthetic.sentences import scene_sentences
from data.synthetic.source import parse_size, scenes_source
from data.synthetic.vocabulary import COLOURS, SHAPES, SIZES, SPLITS, WORDS

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
    "SceneImages",
    "SceneObject",
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
