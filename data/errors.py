"""The error that a user can fix, and the one place that makes it of what libraries raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 300  # characters of a line that a person still reads


class InputError(ValueError):
    """Bad input from outside: a path, a file, a field of a recipe, a flag.

    The message is one line that names the file or field and the fix. The command line prints it and exits with code 2.
    """


@contextmanager
def translated(what: str, fix: str = "", error: type[InputError] = InputError) -> Iterator[None]:
    """Makes one line of whatever a library raises while it reads something that a user gave.

    Put it around the single call that hands a user's file or value to a library (a tokenizer, a pickle, a table, a
    template), however that library fails. Interruptions pass, as do errors of our own, which name their fix already.

    Args:
        what: the file or field, with which the line begins.
        fix: what to do about it, with which the line ends.
        error: the kind of InputError to raise.

    Raises:
        InputError: "WHAT: the library's first line; FIX".
    """
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        raise error(f"{what}: {reason(problem)}{'; ' if fix else ''}{fix}") from problem


def reason(problem: BaseException) -> str:
    """The first line of what an error says, or the name of its class where it says nothing; at most 200 characters.

    A line that ends with a colon, as torch's on weights that do not fit, says nothing without the next.
    """
    from huggingface_hub.errors import StrictDataclassError

    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, StrictDataclassError) and problem.__cause__:  # what is around the cause says nothing
        problem = problem.__cause__
    if isinstance(problem, KeyError) and problem.args:
        return f"{problem} is missing"
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    if not lines:
        return type(problem).__name__
    return shorten(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0], 200)


def shorten(text: str, longest: int = LONGEST) -> str:
    """A text on one line, its middle left out where it is longer: names stand at its beginning, fixes at its end."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    end = longest // 3
    return f"{line[: longest - end - 3]} … {line[-end:]}"
