"""The command line that the benchmarks share."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench.figures import Figure, print_table, write_json

_console = Console(width=max(120, Console().width))

Part = Callable[[float], list[Figure]]
"""Measures at a fraction of full size. The targets are for 1."""


def parse_options(description: str | None) -> argparse.Namespace:
    """The options `scale` and `json`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of full size; the targets are for 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args()


def say(text: str) -> None:
    """Prints a line about the progress, with the time."""
    _console.print(f"{time.strftime('%H:%M:%S')}  {text}", highlight=False, soft_wrap=True)


def report(figures: list[Figure], options: argparse.Namespace) -> None:
    """Prints the table, and writes JSON if asked to."""
    print_table(figures, options.scale, _console)
    if options.json:
        write_json(figures, options.scale, options.json)


def main(description: str | None, part: Part) -> None:
    """Runs one part from the command line."""
    options = parse_options(description)
    report(part(options.scale), options)
