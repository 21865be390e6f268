"""A conversation about images: turns in, words out as they come."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from PIL.Image import Resampling
from transformers import TextStreamer

from data import InputError
from data.files import write_json
from data.images import open_image
from data.limits import check_range
from data.messages import Conversation, Message, Part
from data.places import find_places, split_places, to_view
from data.references import locate, open_reference
from data.samples import PLACEHOLDER, to_record
from encoder.visualize import PANEL, draw_places, save_png, stack
from mllm.explanation import draw, explain
from mllm.generation import GREEDY, PrefixCache, answer, in_image, user_turn
from mllm.processing import focus_rois
from mllm.serving.fetching import fetch

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor

_UNFINISHED = re.compile(r"\[[\d, ]*$")  # the beginning of a place


class Words(TextStreamer):
    """Hands words, or finished pieces of them, to a function instead of printing them; a place is one piece.

    Attributes:
        said: all of them.
        times: when each token came.
    """

    def __init__(self, tokenizer: Any, write: Callable[[str], Any], change: Callable[[str], str] = str) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write, self.change = write, change
        self.said = self.held = ""
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        if not self.next_tokens_are_prompt:
            self.times.append(perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = self.held + text
        unfinished = None if stream_end else _UNFINISHED.search(text)
        cut = unfinished.start() if unfinished else len(text)
        text, self.held = text[:cut], text[cut:]
        text = text if self.said else text.lstrip()  # many tokenizers put a blank before the first word
        if text:
            text = self.change(text)
            self.said += text
            self.write(text)


@dataclass(frozen=True)
class Stats:
    """What an answer took; seconds."""

    image_tokens: int = 0
    tokens: int = 0
    time_to_first_token: float = 0.0
    tokens_per_second: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.image_tokens} image tokens, first token {self.time_to_first_token:.2f} s, "
            f"{self.tokens} tokens, {self.tokens_per_second:.1f} tokens/s"
        )


MOST_BYTES, SECONDS = 2**26, 20.0  # of an image that is fetched


def is_address(name: str) -> bool:
    """Whether an image is to be fetched from the network."""
    return name.lower().startswith(("http://", "https://"))


def open_shown(file: str) -> tuple[Image.Image, str]:
    """Opens what a person names as an image.

    Args:
        file: its path, an address (``file:``, ``http:``, ``https:``), a data URL, or ``-`` for the standard input.

    Returns:
        the image, and a name that other programs can open: the whole path, or a data URL.

    Raises:
        InputError: it is missing, broken or no image.
    """
    if file == "-" or is_address(file):
        content = sys.stdin.buffer.read() if file == "-" else fetch(file, MOST_BYTES, SECONDS, anywhere=True)
        image = open_image(content, name="standard input" if file == "-" else file)
        return image, f"data:;base64,{base64.b64encode(content).decode()}"
    place = locate(file, Path())
    return open_reference(file, Path()), file if isinstance(place, bytes) else os.path.abspath(place)


class Chat:
    """Holds the state of one conversation.

    `images` are its images in order, `files` where they came from, `tokens` and `focus` how each is looked at, and
    `pending` how many of the images wait for the next question. `prefix_cache` spares the earlier turns and their
    images a second pass through the model. `stats` are those of the last answer. `saved` are the files that this
    session has written, and may write again.

    Args:
        system: what the system says first, if it is to say anything.
        decoding: options of transformers' `generate`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: MLLMProcessor,
        max_new_tokens: int = 128,
        text_only: bool = False,
        num_tokens: int | None = None,
        image_size: int | None = None,
        system: str | None = None,
        decoding: Mapping[str, object] = GREEDY,
    ) -> None:
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.text_only = text_only
        self.system, self.decoding = system, decoding
        self.stats = Stats()
        self.saved: set[Path] = set()
        self.num_tokens = processor.num_image_tokens if num_tokens is None else num_tokens
        processor.check_num_tokens(self.num_tokens)
        processor.check_image_size(image_size)
        self.image_size = image_size
        self.clear()

    def clear(self) -> None:
        """Forgets everything said and shown."""
        said: list[Part] = [{"type": "text", "text": self.system}] if self.system else []
        self.messages: list[Message] = [{"role": "system", "content": said}] if said else []
        self.images: list[Any] = []
        self.files: list[str] = []
        self.tokens: list[int] = []
        self.focus: list[list[list[float]]] = []
        self.pending = 0
        self.prefix_cache = PrefixCache()

    def show(self, file: str) -> None:
        """Adds an image to the next question. Arguments and errors are those of `open_shown`."""
        self.add(*open_shown(file))

    def add(self, image: Image.Image, file: str) -> None:
        """Adds an image that is open to the next question, and the name that `save` writes; a frame has none."""
        self.images.append(image)
        self.files.append(file)
        self.tokens.append(self.num_tokens)
        self.focus.append([])
        self.pending += 1

    def set_tokens(self, num_tokens: int, number: int | None = None) -> None:
        """Looks with so many tokens from now on: at image ``number``, counted from 1, or at all, those to come too.

        Raises:
            InputError: an image of this model cannot have so many; there is no such image.
        """
        self.processor.check_num_tokens(num_tokens)
        if number is None:
            self.num_tokens = num_tokens
            self.tokens = [num_tokens] * len(self.images)
        else:
            check_range("image", number, 1, len(self.images))
            self.tokens[number - 1] = num_tokens

    def set_focus(self, box: Sequence[float] | None) -> None:
        """Puts `FOCUS_TOKENS` more tokens on a part of the last image, or takes them away again.

        Args:
            box: x1, y1, x2, y2 in fractions of the image.
        Raises:
            InputError: there is no image yet; the model cannot have more tokens; this is no part of an image.
        """
        if not self.images:
            raise InputError("no image yet: show one before its part")
        if box is None:
            self.focus[-1] = []
            return
        self.processor.check_focus()
        seen = to_view(tuple(box), self.processor.views([self.images[-1].size], self.image_size)[0])
        if seen is None:
            raise InputError("focus: the model does not see that part of the image, whose middle is cut out for it")
        self.focus[-1] = focus_rois(seen)

    def ask(self, text: str, write: Callable[[str], Any] | None = None) -> str:
        """Asks, and keeps question and answer for the turns that follow, also what there is of an interrupted answer.

        Args:
            write: is called with each finished word.
        Raises:
            InputError: no image was shown yet (unless `text_only`), or the conversation has become too long. The
                question is not kept then.
        """
        if not self.images and not self.text_only:
            raise InputError("no image yet: name one with --image FILE, or say --text-only to go without")
        messages = [*self.messages, user_turn(text, self.pending)]
        conversation = self.conversation(messages)
        change = partial(in_image, self.processor, conversation=conversation)
        words = Words(self.processor.tokenizer, write or (lambda _: None), change)
        began = perf_counter()
        try:
            said = answer(
                self.model,
                self.processor,
                [conversation],
                self.max_new_tokens,
                words,
                self.prefix_cache,
                decoding=self.decoding,
            )[0]
        except KeyboardInterrupt:
            words.end()
            if words.said:
                self._keep(messages, words.said.strip())
            raise
        first, *more = words.times or [began]
        rate = len(more) / (more[-1] - first) if more else 0.0
        self.stats = Stats(self._image_tokens(conversation), len(words.times), first - began, rate)
        self._keep(messages, said)
        return said

    def _keep(self, messages: list[Message], said: str) -> None:
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        self.pending = 0

    def _image_tokens(self, conversation: Conversation) -> int:
        return sum(self.tokens[: len(conversation["images"])]) + sum(map(len, conversation.get("focus_rois", [])))

    def conversation(self, messages: list[Message]) -> Conversation:
        """Messages with the images that they show, and how each is looked at."""
        count = sum(part["type"] == "image" for message in messages for part in message["content"])
        conversation: Conversation = {"messages": messages, "images": self.images[:count]}
        if self.processor.min_image_tokens is not None:
            conversation["num_tokens"] = self.tokens[:count]
        if any(self.focus[:count]):
            conversation["focus_rois"] = self.focus[:count]
        if self.image_size is not None:
            conversation["image_size"] = self.image_size
        return conversation

    def save(self, file: str) -> None:
        """Writes the conversation in LLaVA's format.

        Raises:
            InputError: there is nothing to write yet, or words that the format takes for an image; the file is there
                already, or cannot be written.
        """
        if not any(message["role"] == "assistant" for message in self.messages):
            raise InputError("there is nothing to save yet")
        if "" in self.files:
            raise InputError("/save: frames of a video have no names; save their conversation elsewhere")
        path = self._free("/save", file)
        messages, shown = list[Message](), 0
        for number, message in enumerate(self.messages, 1):
            if any(PLACEHOLDER in part.get("text", "") for part in message["content"]):
                raise InputError(
                    f"/save {file}: message {number} has {PLACEHOLDER} in its words, an image in such files"
                )
            content = list[Part]()
            for part in message["content"]:
                shown += part["type"] == "image"
                content += split_places(part["text"], shown - 1) if shown and "text" in part else [part]
            messages.append({"role": message["role"], "content": content})
        record = to_record(path.stem, self.files[: len(self.files) - self.pending], messages)
        self._write("/save", file, lambda path: write_json(path, [record]))

    def draw(self, file: str) -> None:
        """Draws where the model looked for its last answer.

        Raises:
            InputError: there is no answer yet, or none that can be explained; the file is there already, or cannot be
                written.
        """
        self._free("/show", file)
        drawing = self.drawing()
        self._write("/show", file, lambda path: save_png(drawing, path))

    def drawing(self) -> Image.Image:
        """Draws the boxes and points of the last answer on the last image, then where the model looked for it.

        Raises:
            InputError: there is no answer, or none that can be explained.
        """
        if not any(message["role"] == "assistant" for message in self.messages):
            raise InputError("there is no answer yet in which to show where the model looked")
        *messages, last = self.messages
        conversation = self.conversation(messages)
        images, said = conversation["images"], last["content"][0]["text"]
        looked = draw(explain(self.model, self.processor, conversation, said), images)
        if not find_places(said):
            return looked
        times = -(-PANEL // max(images[-1].size))  # small images are enlarged
        large = images[-1].resize((images[-1].width * times, images[-1].height * times), Resampling.NEAREST)
        return stack([draw_places(large, find_places(said, large.size)), looked])

    def _free(self, command: str, file: str) -> Path:
        """The place of a file that is not there yet, or that this session has written."""
        path = Path(os.path.expanduser(file))
        if path.is_dir():
            raise InputError(f"{command} {file}: Is a directory; name another file")
        if path.absolute() not in self.saved and os.path.lexists(path):
            raise InputError(f"{command} {file}: is there already; name another file")
        return path

    def _write(self, command: str, file: str, write: Callable[[Path], object]) -> None:
        path = self._free(command, file)
        try:
            write(path)
        except (OSError, ValueError) as problem:  # ValueError: no name of a file
            reason = getattr(problem, "strerror", problem)
            raise InputError(f"{command} {file}: {reason}; name another file") from problem
        self.saved.add(path.absolute())
