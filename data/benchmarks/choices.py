"""Short answers: which option one names, and what is compared of one in words."""

from __future__ import annotations

import re

_STATED = re.compile(r"The answer is ([A-Z])\.")


def normalize(text: str) -> str:
    """Lower case, single blanks, no full stop or quotation marks around: what is compared."""
    return re.sub(r"\s+", " ", text).strip().strip("\"'").rstrip(".").strip().casefold()


def option_letter(text: str, letters: str) -> str | None:
    """The option that an answer names, None if it names none, or none that exists.

    Accepted are the letter alone, ``A. ...``, and exactly one ``The answer is X.``, as LLaVA's evaluation does.

    Args:
        letters: of the options that the question has, e.g. ``"ABC"``.
    """
    text = text.strip()
    stated = _STATED.findall(text)
    if len(text) == 1 or text[1:3] == ". ":
        letter = text[0]
    elif len(stated) == 1:
        letter = stated[0]
    else:
        return None
    return letter if letter in letters else None
