"""The fedsdn command."""

from __future__ import annotations

import sys

import typer

from fedsdn.errors import FedsdnError

app = typer.Typer(
    name="fedsdn",
    help="Joins private clouds over several uplinks with Multipath TCP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error a user can mend is one line and exit status 1."""
    try:
        app()
    except FedsdnError as error:
        print(f"fedsdn: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
