"""A conversation at a terminal, or down a pipe: lines in, answers out."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from data.errors import InputError, shorten
from data.places import find_places
from data.references import why_missing
from encoder.visualize import save_png
from mllm.serving.chat import Chat, is_address
from mllm.serving.inline import find_way

if TYPE_CHECKING:
    from PIL import Image
    from prompt_toolkit import PromptSession

HELP = """\
/image FILE   show an image, which may have an address; it belongs to your next question
/tokens N     look at all images with N tokens from now on; /tokens N I: at the Ith image alone
/focus BOX    put more tokens on a part of the last image: x1,y1,x2,y2 in fractions of it; /focus: no more
/clear        forget the conversation and its images
/show FILE    draw where the model looked for its last answer, and the answer's boxes, as a PNG file; /show: here
/save FILE    write the conversation as a LLaVA JSON file, which `mllm finetune` can read
/help         this list
/exit         leave (so does the end of the input)"""
KEYS = "Alt-Enter begins a line, Tab completes commands and files, Ctrl-C stops an answer."
HISTORY = Path("~/.cache/sparseformer-mllm/history")
COMMANDS = [line.split()[0] for line in HELP.splitlines()]
_WITH_FILE = ("/image ", "/show ", "/save ")


def converse(
    chat: Chat, lines: TextIO = sys.stdin, out: TextIO = sys.stdout, *, as_json: bool = False, stats: bool = False
) -> None:
    """Reads questions and commands until the input ends; answers go to `out`, everything else to stderr.

    Args:
        as_json: answers are objects of JSON, one a line.
        stats: what each answer took is told.
    """
    reading: Callable[[], str] = lines.readline
    if lines.isatty() and out.isatty():
        prompt = prompt_session()
        reading = lambda: f"{prompt.prompt('> ')}\n"  # noqa: E731
        tell(f"Ask about an image: /image FILE, then a question. /help lists the commands. {KEYS}")
    while True:
        try:
            line = reading()
            if not line or not obey(chat, line.removeprefix("\ufeff").strip(), out, as_json=as_json, stats=stats):
                return
        except EOFError:
            return
        except InputError as problem:
            tell(f"error: {problem}")
        except KeyboardInterrupt:
            tell("\nstopped; /exit leaves")


def prompt_session() -> PromptSession[str]:
    """Makes an editor of lines, with a history in a file, completion, and pasted lines kept together."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.shortcuts import CompleteStyle

    class Names(Completer):
        """Commands, and files behind those that take one."""

        files = PathCompleter(expanduser=True)

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            if text.startswith(_WITH_FILE):
                yield from self.files.get_completions(Document(text.partition(" ")[2]), event)
            elif text.startswith("/"):
                yield from (Completion(name, -len(text)) for name in COMMANDS if name.startswith(text))

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    file = HISTORY.expanduser()
    history: Any = InMemoryHistory()
    with contextlib.suppress(OSError):  # a home that cannot be written to
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND, 0o600))
        history = FileHistory(str(file))
    return PromptSession(
        history=history,
        completer=Names(),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        key_bindings=keys,
    )


def obey(chat: Chat, line: str, out: TextIO, *, as_json: bool = False, stats: bool = False) -> bool:
    """Carries out one line of the session, or what was typed or pasted as one.

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
    elif command == "/show" and not rest:
        show(chat.drawing())
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
    elif command.startswith("/") and "\n" not in line:
        raise InputError(f"unknown command {command}; /help lists them")
    elif not chat.images and not chat.text_only:
        raise InputError("no image yet: /image FILE first, or start with --text-only")
    else:
        ask(chat, line, out, as_json=as_json, stats=stats)
    return True


def ask(chat: Chat, text: str, out: TextIO, *, stream: bool = True, as_json: bool = False, stats: bool = False) -> None:
    """Asks, and writes the answer, word by word or whole. Arguments and errors are as for `converse` and `Chat.ask`."""
    if strange := unknown_letters(chat.processor.tokenizer, text):
        tell(f"note: the model's tokenizer does not know {strange}; it was hardly made for this language")
    streamed = stream and not as_json
    said = chat.ask(text, (lambda word: (out.write(word), out.flush())) if streamed else None)
    if as_json:
        places = [list(place) for place in find_places(said)]
        record = {"question": text, "answer": said, "places": places, "stats": asdict(chat.stats)}
        said = json.dumps(record, ensure_ascii=False)
    out.write("\n" if streamed else f"{said}\n")
    out.flush()
    if stats and not as_json:
        tell(str(chat.stats))


def unknown_letters(tokenizer: Any, text: str) -> str:
    """The letters of a text that a tokenizer spells in bytes, or cannot write, if they are most of its letters."""
    letters = [letter for letter in text if letter.isalpha()]
    known = {
        letter: len(tokenizer.tokenize(letter * 3)) - len(tokenizer.tokenize(letter)) <= 2
        and tokenizer.unk_token not in tokenizer.tokenize(letter)
        for letter in set(letters) - set(map(chr, range(128)))
    }
    strange = [letter for letter in letters if not known.get(letter, True)]
    return shorten("".join(dict.fromkeys(strange)), 40) if 2 * len(strange) > len(letters) else ""


def show(drawing: Image.Image) -> None:
    """Draws in the terminal, or into a file where it cannot."""
    way = find_way()
    if way:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), way(drawing))
        return
    file = next(file for number in range(1, 10**6) if not (file := Path(f"looked-{number}.png")).exists())
    save_png(drawing, file)
    tell(f"saved: {file}, since this terminal draws no images")


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
    return next((name for name in names if is_address(name) or why_missing(name, Path()) is None), names[0])


def tell(text: str) -> None:
    """Writes a line for the person, not part of the results."""
    sys.stderr.write(f"{text}\n")
