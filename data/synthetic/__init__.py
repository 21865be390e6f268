"""Generated images with ground truth: objects, mask, captions, questions and answers."""

from data.synthetic.asking import SceneQuestion
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
from data.synthetic.questions import CATEGORIES, make_questions, question_set, text_only_baseline
from data.synthetic.scene import Scene, SceneConfig, make_scene, parse_size
from data.synthetic.sentences import scene_sentences
from data.synthetic.vocabulary import COLORS, SHAPES, SIZES, SPLITS, WORDS

__all__ = [
    "CATEGORIES",
    "CLASS_NAMES",
    "COLORS",
    "DESCRIBE",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TEMPLATES",
    "TEXT_NAMES",
    "TEXT_TEMPLATES",
    "WORDS",
    "Scene",
    "SceneCaptions",
    "SceneConfig",
    "SceneConversations",
    "SceneImages",
    "SceneObject",
    "SceneQuestion",
    "SceneQuestions",
    "SceneTexts",
    "SceneTurns",
    "ZeroShotScenes",
    "caption",
    "captions",
    "make_questions",
    "make_scene",
    "parse_size",
    "question_set",
    "scene_sentences",
    "text_only_baseline",
]
