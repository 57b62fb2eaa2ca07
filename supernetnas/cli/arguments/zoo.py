"""The arguments of ``supernetnas zoo`` and the commands below it."""

from __future__ import annotations

import argparse
from typing import Any

from .pretrain import add_pretrain
from .shared import add_command

__all__ = ["add_zoo_commands"]

_ZOO = """\
Look at zoos, check them, make your own, and share them.

A zoo is a folder of pretrained supernets, or a repository of them on the
Hugging Face Hub: org/name, or org/name@revision. A folder of that name comes
first; hf://org/name always is the repository. "builtin" is the zoo that comes
with the package.
"""

_LIST_EPILOG = """\
examples:
  supernetnas zoo list
  supernetnas zoo list my-zoo
"""

_SHOW_EPILOG = """\
One name alone is a zoo if it is "builtin" or a folder, and else a source of the
builtin zoo.

examples:
  supernetnas zoo show cifar10
  supernetnas zoo show builtin
  supernetnas zoo show my-zoo my-flowers
"""

_VERIFY_EPILOG = """\
Exit status: 0 if every file is as the zoo's index says, else 1.

examples:
  supernetnas zoo verify
  supernetnas zoo verify my-zoo
"""

_PULL = """\
Fetch a zoo from the Hugging Face Hub: its index and the signatures of its
sources into the cache that all commands use, and the supernets of the SOURCEs
or, with --all, of every source.

With --out they are also written to a folder, a zoo that needs neither cache nor
network: carry it wherever there is none. Interrupt it whenever you like; the
same command goes on where it stopped.

HF_HUB_OFFLINE=1 makes every command use the cache alone. HF_TOKEN or `hf auth
login` gives access to private zoos, HF_ENDPOINT names another Hub or a mirror.
"""

_PULL_EPILOG = """\
examples:
  supernetnas zoo pull org/zoo                       # enough to list and rank
  supernetnas zoo pull org/zoo@v1 flowers            # and one supernet
  supernetnas zoo pull org/zoo --all --out zoo       # a folder for anywhere
"""

_PUSH = """\
Add the sources of a zoo to one on the Hugging Face Hub, in one commit. The
repository is made if need be; what others have put there stays. Files are
checked first. If the upload breaks off, the same command goes on.

It needs a token that may write: HF_TOKEN, or `hf auth login`.
"""

_PUSH_EPILOG = """\
examples:
  supernetnas zoo push my-zoo org/zoo
  supernetnas zoo push my-zoo org/zoo --create-pr    # somebody else's zoo
  supernetnas zoo push my-zoo org/zoo --overwrite --prune   # make it the same
"""

_VECTORS = """\
Give every source of a zoo a short vector, which finds the nearest among many
sources in milliseconds. Sources that are added later get theirs at once.
"""

_VECTORS_EPILOG = """\
examples:
  supernetnas zoo vectors my-zoo
"""


def add_zoo_commands(commands: Any) -> None:
    """Add the command and those below it."""
    zoo = add_command(
        commands,
        "zoo",
        "list, show, verify, share and make pretrained supernets",
        None,
        description=_ZOO,
    ).add_subparsers(title="commands", metavar="COMMAND")
    _add_zoo(
        add_command(zoo, "list", "list the sources of a zoo", "zoos:list_", epilog=_LIST_EPILOG)
    )
    _add_show(
        add_command(
            zoo, "show", "show what is known about a source", "zoos:show", epilog=_SHOW_EPILOG
        )
    )
    _add_pull(
        add_command(
            zoo,
            "pull",
            "fetch a zoo from the Hugging Face Hub",
            "zoos:pull",
            description=_PULL,
            epilog=_PULL_EPILOG,
        )
    )
    _add_push(
        add_command(
            zoo,
            "push",
            "publish a zoo on the Hugging Face Hub",
            "zoos:push",
            description=_PUSH,
            epilog=_PUSH_EPILOG,
        )
    )
    _add_zoo(
        add_command(
            zoo, "verify", "check every file of a zoo", "zoos:verify", epilog=_VERIFY_EPILOG
        )
    )
    _add_vectors(
        add_command(
            zoo,
            "vectors",
            "give the sources of a zoo vectors to search",
            "zoos:vectors",
            description=_VECTORS,
            epilog=_VECTORS_EPILOG,
        )
    )
    add_pretrain(zoo)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "zoo", metavar="ZOO", help='folder of a zoo, org/name, "builtin", or SOURCE alone'
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="name of a source of the zoo")


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("zoo", metavar="ZOO", help="folder of a zoo")


def _add_zoo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "zoo",
        metavar="ZOO",
        nargs="?",
        default="builtin",
        help='folder of a zoo, or org/name on the Hub (default: "%(default)s")',
    )


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("zoo", metavar="ORG/ZOO", help="repository, perhaps with @revision")
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="whose supernets to fetch")
    parser.add_argument("--all", action="store_true", help="fetch all supernets")
    parser.add_argument("--out", metavar="FOLDER", help="write what was fetched to a folder, too")
    parser.set_defaults(interrupted="run the same command again to go on.")


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("zoo", metavar="ZOO", help="folder of a zoo")
    parser.add_argument("repository", metavar="ORG/NAME", help="where to")
    parser.add_argument("--revision", metavar="BRANCH", help='by default "main"')
    parser.add_argument("--create-pr", action="store_true", help="propose it in a pull request")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace sources of the same name that differ"
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove the sources there that ZOO has not"
    )
    parser.add_argument(
        "--private", action="store_true", help="keep a repository that is made now private"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.set_defaults(interrupted="nothing was changed; run the same command again to go on.")
