"""An answer's text while its tokens come."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_PLACE = re.compile(r"\[[\d, ]*$")  # the beginning of a place
_BROKEN = "\ufffd"  # a character of which not all bytes are there yet


class TextStream:
    """Turns tokens into pieces of text that are final.

    What might still change is held back: characters that are not whole, blanks at the end, places that are not
    finished, and what may be the beginning of a stop text.

    Args:
        tokenizer: decodes; it must belong to the thread alone.
        stops: texts that end the answer; they are no part of it.
        change: is given each piece; a place is never torn.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), change: Callable[[str], str] = str) -> None:
        self.tokenizer, self.stops, self.change = tokenizer, stops, change
        self.tokens: list[int] = []
        self.start = self.end = 0  # tokens[start:end] are the context in which the next ones are decoded
        self.held = ""
        self.begun = self.stopped = False

    def push(self, token: int) -> str:
        """Takes the next token, and returns the text that is final with it. `stopped` says that the answer ends."""
        self.tokens.append(token)
        text = self._decode(self.start, len(self.tokens))
        if text.endswith(_BROKEN):
            return ""
        new = text[len(self._decode(self.start, self.end)) :]
        self.start, self.end = self.end, len(self.tokens)
        return self._release(new)

    def finish(self) -> str:
        """Returns what was held back."""
        if self.stopped:
            return ""
        new = self._decode(self.start, len(self.tokens))[len(self._decode(self.start, self.end)) :]
        text = self._release(new)
        return text if self.stopped else text + self.change(self.held.rstrip())

    def piece(self, token: int) -> str:
        """Returns the text of a token, were it the last one."""
        before = self.tokens[-2:-1]
        return self._text([*before, token])[len(self._text(before)) :]

    def _release(self, new: str) -> str:
        text = self.held + (new if self.begun else new.lstrip())  # many tokenizers put a blank before the first word
        self.begun = self.begun or bool(text)
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self.held = True, ""
            return self.change(text[: min(found)].rstrip())
        cut = len(text.rstrip())
        if place := _PLACE.search(text):
            cut = min(cut, place.start())
        for stop in self.stops:
            begun = (size for size in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:size]))
            cut = min(cut, len(text) - next(begun, 0))
        text, self.held = text[:cut], text[cut:]
        return self.change(text)

    def _decode(self, start: int, end: int) -> str:
        return self._text(self.tokens[start:end])

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text
