"""The command ``supernetnas``.

`main` parses the arguments and turns whatever happens into an exit status and at most one line on
the standard error: 0 for success, 2 for wrong usage or input, 130 for an interruption, 1 for
anything else. Results go to the standard output, progress and messages to the standard error.

A command's module is imported when the command runs, so that ``--help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from ..storage.foreign_text import printable
from .parser import build_parser
from .printing import HarmlessFormatter
from .words import in_options, options_of

__all__ = ["main"]

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_BAD_INPUT = (
    ValueError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    SystemExit
        After ``--help`` and ``--version``, and with status 2 for arguments that do not parse.
    """
    args = build_parser().parse_args(arguments)
    if args.handler is None:
        args.parser.print_help(sys.stderr)
        return BAD_INPUT
    module, _, function = args.handler.partition(":")
    try:
        with _messages(args.verbose, options_of(args.parser)):
            run = getattr(importlib.import_module(f".{module}", __name__), function)
            status = run(args) or OK
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # as in `supernetnas zoo list | head -1`
        # Python flushes at its exit once more, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        if args.debug:
            raise
        resumable = getattr(args, "checkpoint_dir", None)
        then = "run the same command again to go on." if resumable else args.interrupted
        print(f"\nsupernetnas: interrupted; {then}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        return _report(error, options_of(args.parser))


def _report(error: Exception, options: Mapping[str, str]) -> int:
    """Say on the standard error what went wrong; returns the exit status."""
    # The package's own OSErrors (a damaged zoo, a foreign file) have a message but no errno.
    bad_input = isinstance(error, _BAD_INPUT) or (
        isinstance(error, OSError) and error.errno is None
    )
    message = in_options(str(error), options) or type(error).__name__
    if not bad_input and not isinstance(error, OSError | ImportError):
        message = f"{type(error).__name__}: {message} (--debug shows where)"
    print(f"supernetnas: error: {printable(message)}", file=sys.stderr)
    return BAD_INPUT if bad_input else FAILED


@contextmanager
def _messages(verbose: int, options: Mapping[str, str]) -> Iterator[None]:
    """Send warnings and, if asked for, the log to the standard error, a line each."""
    logger = logging.getLogger("supernetnas")
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessFormatter("supernetnas: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, options)
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _show_warning(options, message, category, filename, lineno, file=None, line=None) -> None:
    text = in_options(str(message), options)
    print(f"supernetnas: warning: {printable(text)}", file=sys.stderr)
