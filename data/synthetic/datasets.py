"""Scenes as map-style datasets: images, captions, conversations, questions, one-object classes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from data.errors import InputError
from data.limits import MAX_SAMPLES, check_range
from data.messages import Conversation, Message
from data.places import split_places
from data.samples import PLACEHOLDER
from data.synthetic.asking import SceneQuestion
from data.synthetic.captions import CLASS_NAMES, caption
from data.synthetic.lists import LIST, list_scene
from data.synthetic.questions import CATEGORIES, WAYS, balanced_question, check_categories, iterate_questions
from data.synthetic.scene import SPLITS, Scene, SceneConfig, draw_scene, make_scene
from data.synthetic.vocabulary import TEXTS, shuffled, stream

if TYPE_CHECKING:
    from torch.utils.data import Dataset
else:  # any object with a length and items does, and torch is slow to import
    Dataset = object

DESCRIBE = "Describe the picture."


class _Scenes(Dataset):
    """``count`` scenes of ``split``, from scene ``start`` on; nothing is drawn before it is asked for."""

    def __init__(self, split: str, count: int, config: SceneConfig | None = None, start: int = 0) -> None:
        if split not in SPLITS:
            raise InputError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
        check_range("count", count, 1, MAX_SAMPLES)
        check_range("start", start, 0, MAX_SAMPLES)
        self.split, self.count, self.start = split, count, start
        self.config = config or SceneConfig()

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """The ground truth of item ``index``. Raises IndexError outside of the dataset."""
        return make_scene(self.split, self.start + self._checked(index), self.config)

    def _checked(self, index: int) -> int:
        if not -self.count <= index < self.count:
            raise IndexError(f"{index} of {self.count} items")
        return index % self.count


class SceneImages(_Scenes):
    """Images without labels: ``{"image": PIL}``."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.scene(index).image()}


class SceneCaptions(_Scenes):
    """Images and captions: ``{"image": PIL, "captions": [str], "key": str}``; equal captions have equal keys."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        words = caption(scene)
        return {"image": scene.image(), "captions": [words], "key": words}


class ZeroShotScenes(_Scenes):
    """One object, no text: ``{"image": PIL, "label": int}``, the label counting ``CLASS_NAMES``; classes in turn."""

    def scene(self, index: int) -> Scene:
        index = self.start + self._checked(index)
        color, shape = CLASS_NAMES[index % len(CLASS_NAMES)].split()
        rng = stream("zero-shot", self.config.seed, self.split, index)
        return draw_scene(rng, self.split, index, self.config, looks=[(color, shape)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        return {"image": scene.image(), "label": CLASS_NAMES.index(scene.objects[0].name)}


class SceneTexts(_Scenes):
    """One word or number, no object: ``{"image": PIL, "label": int}``, the label counting ``TEXT_NAMES``; in turn."""

    def scene(self, index: int) -> Scene:
        index = self.start + self._checked(index)
        rng = stream("texts", self.config.seed, self.split, index)
        return draw_scene(rng, self.split, index, self.config, looks=[], text=TEXTS[index % len(TEXTS)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scene(index)
        return {"image": scene.image(), "label": TEXTS.index(scene.text)}


def as_messages(turns: Iterable[tuple[str, str]]) -> list[Message]:
    """Questions and answers as a conversation's messages, the places in them as parts."""
    said = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": role, "content": split_places(text)} for role, text in said]


@dataclass(frozen=True)
class SceneTurns:
    """What conversations about scenes are made of."""

    questions: int = 4  # of varied categories, 1 to 6 in one conversation
    descriptions: float = 0.15  # share of conversations whose last turn asks for a description instead
    captions: float = 0.0  # share of conversations that ask for nothing but a description
    lists: float = 0.0  # share of conversations that ask for nothing but a list of all that is there
    categories: list[str] = field(default_factory=list)  # of questions, or ways to ask them (`WAYS`); none named: all

    def __post_init__(self) -> None:
        for category in self.categories:
            if category not in (*CATEGORIES, *WAYS):
                raise InputError(f"categories: there is no {category!r}; there are {', '.join((*CATEGORIES, *WAYS))}")
        if not 1 <= self.questions <= 6:
            raise InputError(f"questions={self.questions}: choose 1 to 6 in one conversation")
        for name in ("descriptions", "captions", "lists"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name}={getattr(self, name)}: choose a fraction between 0 and 1")
        if self.captions + self.lists > 1.0:
            raise InputError(f"captions={self.captions}, lists={self.lists}: together they are more than 1")


class ConversationsAboutImages(Dataset):
    """Conversations about one generated image each, whose turns come from its ground truth.

    An item is ``{"id", "images": [PIL], "messages": [{"role", "content": [parts]}, ...]}``, the image being the first
    part of the first message.
    """

    faults: ClassVar[dict[int, str]] = {}  # there are none

    def scene(self, index: int) -> Any:
        """The ground truth of item ``index``, which has an `image()`."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What to call item ``index``."""
        raise NotImplementedError

    def _turns(self, scene: Any) -> list[tuple[str, str]]:
        raise NotImplementedError

    def turns(self, index: int) -> list[tuple[str, str]]:
        """Questions and answers of item ``index``, without its image."""
        return self._turns(self.scene(index))

    def words(self, index: int) -> list[str]:
        """The texts of item ``index``, with a placeholder for the image."""
        return [PLACEHOLDER, *itertools.chain(*self.turns(index))]

    def load(self, index: int) -> Conversation:
        """Item ``index``."""
        scene = self.scene(index)
        messages = as_messages(self._turns(scene))
        messages[0]["content"].insert(0, {"type": "image"})
        return {"id": self.name(index), "images": [scene.image()], "messages": messages}

    def __getitem__(self, index: int) -> Conversation:
        return self.load(index)


class SceneConversations(_Scenes, ConversationsAboutImages):
    """Conversations about one image, for instruction tuning.

    A description is asked for last: the other questions could be answered from it without looking.
    """

    def __init__(
        self,
        split: str,
        count: int,
        config: SceneConfig | None = None,
        start: int = 0,
        asked: SceneTurns | None = None,
    ) -> None:
        super().__init__(split, count, config, start)
        self.asked = asked or SceneTurns()

    def questions(self, index: int) -> list[SceneQuestion]:
        """The questions of item ``index``, without a request for a description."""
        scene = self.scene(index)
        return self._questions(scene, stream("turns", self.config.seed, self.split, scene.index))

    def _questions(self, scene: Scene, rng: random.Random) -> list[SceneQuestion]:
        """Questions of the wanted categories; of all categories where the scene has none of these."""
        questions = iterate_questions(scene, rng, self.asked.categories or CATEGORIES)
        chosen = list(itertools.islice(questions, self.asked.questions))
        return shuffled(rng, chosen or list(itertools.islice(iterate_questions(scene, rng), self.asked.questions)))

    def _turns(self, scene: Scene) -> list[tuple[str, str]]:
        alone = stream("lists", self.config.seed, self.split, scene.index)
        drawn = alone.random()
        if drawn < self.asked.lists:
            return [(LIST, list_scene(scene, alone))]
        if drawn < self.asked.lists + self.asked.captions:
            return [(DESCRIBE, caption(scene, rng=alone))]
        rng = stream("turns", self.config.seed, self.split, scene.index)
        turns = [(question.question, question.answer) for question in self._questions(scene, rng)]
        if rng.random() < self.asked.descriptions:
            turns[-1] = (DESCRIBE, caption(scene, rng=rng))
        return turns

    def name(self, index: int) -> str:
        """What to call item ``index``."""
        return f"scene-{self.split}-{self.start + self._checked(index)}"


class SceneQuestions(_Scenes):
    """One question an image, all categories equally often, for evaluation.

    An item is ``{"question_id", "image": PIL, "question", "answer", "category"}``. Raises `InputError` at once if
    scenes of ``config`` cannot have all categories of questions.
    """

    def __init__(
        self,
        split: str,
        count: int,
        config: SceneConfig | None = None,
        start: int = 0,
        categories: Sequence[str] = CATEGORIES,
    ) -> None:
        super().__init__(split, count, config, start)
        self.categories = categories
        check_categories(self.config, categories)

    def both(self, index: int) -> tuple[Scene, SceneQuestion]:
        """Question ``index`` and its scene."""
        return balanced_question(self.split, self.start + self._checked(index), self.config, self.categories)

    def scene(self, index: int) -> Scene:
        """The scene of question ``index``."""
        return self.both(index)[0]

    def question(self, index: int) -> SceneQuestion:
        """SceneQuestion ``index`` without its image."""
        return self.both(index)[1]

    def questions(self) -> list[SceneQuestion]:
        """All questions without their images, for `text_only_baseline`."""
        return [self.question(index) for index in range(len(self))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene, question = self.both(index)
        return {
            "question_id": f"{self.split}-{self.start + self._checked(index)}",
            "image": scene.image(),
            "question": question.question,
            "answer": question.answer,
            "category": question.category,
        }
