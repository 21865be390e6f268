"""The error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from outside: a path, a file, a field of a recipe, a flag.

    The message is one line that names the file or field and the fix. The command line prints it and exits with code 2.
    """
