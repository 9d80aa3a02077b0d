"""The command line: `chroma-async`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; where its libraries are not installed, say what to install."""
    try:
        from chroma_async.cli.commands import app
    except ModuleNotFoundError as error:
        print(f"chroma-async: {error}; install the server: pip install 'chroma-async[server]'", file=sys.stderr)
        sys.exit(2)
    app()


__all__ = ["main"]
