"""A conversation about images: turns in, words out as they come."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from PIL.Image import Resampling
from transformers import TextStreamer

from data import InputError
from data.errors import shorten
from data.files import write_json
from data.limits import check_range
from data.messages import Conversation, Message, Part
from data.places import find_places, split_places, to_view
from data.references import locate, open_reference, why_missing
from data.samples import PLACEHOLDER, to_record
from encoder.visualize import PANEL, draw_places, save_png, stack
from mllm.explanation import draw, explain
from mllm.generation import PrefixCache, answer, in_image, user_turn
from mllm.processing import focus_rois

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor

HELP = """\
/image FILE   show an image; it belongs to your next question
/tokens N     look at all images with N tokens from now on; /tokens N I: at the Ith image alone
/focus BOX    put more tokens on a part of the last image: x1,y1,x2,y2 in fractions of it; /focus: no more
/clear        forget the conversation and its images
/show FILE    draw where the model looked for its last answer, and the answer's boxes, as a PNG file
/save FILE    write the conversation as a LLaVA JSON file, which `mllm finetune` can read
/help         this list
/exit         leave (so does the end of the input)"""


_UNFINISHED = re.compile(r"\[[\d, ]*$")  # the beginning of a place


class Words(TextStreamer):
    """Hands words, or finished pieces of them, to a function instead of printing them; a place is one piece."""

    def __init__(self, tokenizer: Any, write: Callable[[str], Any], change: Callable[[str], str] = str) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write, self.change = write, change
        self.begun = False
        self.held = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = self.held + text
        unfinished = None if stream_end else _UNFINISHED.search(text)
        cut = unfinished.start() if unfinished else len(text)
        text, self.held = text[:cut], text[cut:]
        text = text if self.begun else text.lstrip()  # many tokenizers put a blank before the first word
        if text:
            self.begun = True
            self.write(self.change(text))


class Chat:
    """Holds the state of one conversation.

    `images` are its images in order, `files` where they came from, `tokens` and `focus` how each is looked at, and
    `pending` how many of the images wait for the next question. `prefix_cache` spares the earlier turns and their
    images a second pass through the model. `saved` are the files that this session has written, and may write again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: MLLMProcessor,
        max_new_tokens: int = 128,
        text_only: bool = False,
        num_tokens: int | None = None,
        image_size: int | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.text_only = text_only
        self.saved: set[Path] = set()
        self.num_tokens = processor.num_image_tokens if num_tokens is None else num_tokens
        processor.check_num_tokens(self.num_tokens)
        processor.check_image_size(image_size)
        self.image_size = image_size
        self.clear()

    def clear(self) -> None:
        """Forgets everything said and shown."""
        self.messages: list[Message] = []
        self.images: list[Any] = []
        self.files: list[str] = []
        self.tokens: list[int] = []
        self.focus: list[list[list[float]]] = []
        self.pending = 0
        self.prefix_cache = PrefixCache()

    def show(self, file: str) -> None:
        """Adds an image to the next question.

        Args:
            file: its path, a ``file:`` address, or a data URL.
        Raises:
            InputError: it is missing, broken or no image; nothing has changed then.
        """
        self.images.append(open_reference(file, Path()))
        place = locate(file, Path())
        self.files.append(file if isinstance(place, bytes) else os.path.abspath(place))
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
        """Asks, and keeps question and answer for the turns that follow.

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
        streamer = Words(self.processor.tokenizer, write, change) if write else None
        said = answer(self.model, self.processor, [conversation], self.max_new_tokens, streamer, self.prefix_cache)[0]
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        self.pending = 0
        return said

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
        if not self.messages:
            raise InputError("there is nothing to save yet")
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
        if not self.messages:
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


def converse(chat: Chat, lines: TextIO = sys.stdin, out: TextIO = sys.stdout) -> None:
    """Reads questions and commands until the input ends; answers go to `out`, everything else to stderr."""
    terminal = lines.isatty() and out.isatty()
    if terminal:
        with contextlib.suppress(ImportError):  # Windows has none
            importlib.import_module("readline")  # gives input() a line editor and a history
        tell("Ask about an image: /image FILE, then a question. /help lists the commands.")
    while True:
        try:
            line = f"{input('> ')}\n" if terminal else lines.readline()
            if not line or not obey(chat, line.removeprefix("\ufeff").strip(), out):
                return
        except EOFError:
            return
        except InputError as problem:
            tell(f"error: {problem}")
        except KeyboardInterrupt:
            tell("\nstopped; /exit leaves")


def obey(chat: Chat, line: str, out: TextIO) -> bool:
    """Carries out one line of the session.

    Returns:
        False to leave.

    Raises:
        InputError: what the line asks for cannot be done; the session goes on.
    """
    if not line:
        return True
    command, *words = line.split(maxsplit=1)
    rest = "".join(words)
    if command == "/exit":
        return False
    if command == "/help":
        tell(HELP)
    elif command == "/clear":
        chat.clear()
        tell("forgotten")
    elif command == "/tokens":
        if not 1 <= len(numbers := rest.split()) <= 2 or not all(number.isdecimal() for number in numbers):
            raise InputError("/tokens needs a number, and may have an image's number behind it")
        chat.set_tokens(*map(int, numbers))
        tell(f"tokens: {rest}")
    elif command == "/focus":
        chat.set_focus(read_box(rest) if rest else None)
        tell(f"focus: {rest or 'none'}")
    elif command in ("/image", "/save", "/show"):
        if not rest:
            raise InputError(f"{command} needs a file name")
        if command == "/image":
            chat.show(pasted(rest))
        elif command == "/save":
            chat.save(rest)
        else:
            chat.draw(rest)
        tell(f"{'shown' if command == '/image' else 'saved'}: {rest}")
    elif command.startswith("/"):
        raise InputError(f"unknown command {command}; /help lists them")
    elif not chat.images and not chat.text_only:
        raise InputError("no image yet: /image FILE first, or start with --text-only")
    else:
        chat.ask(line, lambda word: (out.write(word), out.flush()))
        out.write("\n")
        out.flush()
    return True


def read_box(text: str) -> list[float]:
    """Reads "x1,y1,x2,y2", fractions of an image. Raises InputError for anything else."""
    try:
        x1, y1, x2, y2 = map(float, text.split(","))
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise InputError(f"focus {shorten(text)}: give x1,y1,x2,y2 in fractions of the image, such as 0.5,0,1,0.5")
    return [x1, y1, x2, y2]


def pasted(text: str) -> str:
    """Reads the name of a file from a line, perhaps quoted or escaped as terminals do when one is dropped there."""
    names = [text]
    with contextlib.suppress(ValueError):  # no closing quotation: then it is a part of the name
        words = shlex.split(text)
        names += words if len(words) == 1 else []
    names = [os.path.expanduser(name) for name in names]
    return next((name for name in names if why_missing(name, Path()) is None), names[0])


def tell(text: str) -> None:
    """Writes a line for the person, not part of the results."""
    sys.stderr.write(f"{text}\n")
