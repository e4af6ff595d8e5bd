"""Entry point of the `emamba` command, which needs the [cli] extra."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, or say what to install: the core itself needs only NumPy."""
    try:
        from emamba.commands import run  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"emamba: the command needs {error.name}: pip install -e '.[cli]'")
    run()


if __name__ == "__main__":
    main()
