"""The fedsdn command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from importlib import import_module

import typer

from fedsdn.errors import FedsdnError

_GROUPS = ("topology", "federation", "policy", "lab", "site", "identity", "proxy", "flows", "bench")
_MODULES = dict(zip(_GROUPS, _GROUPS, strict=True)) | {
    "verify": "verify",
    "demo": "demo",
    "uplinks": "uplinks",
    "connections": "connections",
    "datagrams": "datagrams",
    "trace": "trace",
    "status": "status",
    "support-bundle": "status",
}
"""The module of each command, in the order of the help text."""

_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_NO_OUTPUT = 2
"""Exit status where what is printed could not be written: 1 is an answer of some commands."""


def _application(names: Iterable[str]) -> typer.Typer:
    """Return the application with some of its commands."""
    app = typer.Typer(
        name="fedsdn",
        help="Joins private clouds over several uplinks with Multipath TCP.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(lambda: None)  # or else one command alone would go without its name
    for name in names:
        module = import_module(f"fedsdn.cli.{_MODULES[name]}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name.replace("-", "_")))
    return app


def main() -> None:
    """Run the command line; an error a user can mend is one line and exit status 1."""
    # Else a third of the time of most commands goes into importing what others need.
    named = [word for word in sys.argv[1:2] if word in _MODULES]
    try:
        try:
            _application(named or _MODULES)()
        finally:
            if sys.stdout is not None:  # it is closed
                sys.stdout.flush()
    except FedsdnError as error:
        print(f"fedsdn: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.EPIPE, *_NOT_WRITTEN):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it is tried once more
        if error.errno == errno.EPIPE:  # nobody reads any more; click ends likewise
            sys.exit(1)
        print(f"fedsdn: the output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(_NO_OUTPUT)


if __name__ == "__main__":
    main()
