"""The `concertmaster` command, also as `python -m concertmaster`."""

from concertmaster.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
