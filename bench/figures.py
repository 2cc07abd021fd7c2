"""The figures that benchmarks measure, with their targets, as a table and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A measured value, which may have a target."""

    part: str
    name: str
    value: float
    unit: str = ""
    """Such as "events/s"; "×" for a ratio, mostly to the yardstick of the same run."""
    target: float | None = None
    at_least: bool = True
    """Whether the target is a minimum; if not, it is a maximum."""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def print_table(figures: Sequence[Figure], scale: float, console: Console) -> None:
    """Prints all figures. Those with a target say whether it is reached."""
    table = Table(title="Footfall benchmarks" + (f" at {scale:g} of full size" if scale != 1 else ""))
    for column in ("part", "figure"):
        table.add_column(column)
    for column in ("value", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    part = ""
    for figure in figures:
        if figure.part != part and part:
            table.add_section()
        sign = "≥" if figure.at_least else "≤"
        target = "" if figure.target is None else f"{sign} {_number(figure.target)} {figure.unit}"
        verdict = {None: "", True: "[green]reached[/]", False: "[red]not reached[/]"}[figure.reached]
        shown = figure.part if figure.part != part else ""
        table.add_row(shown, figure.name, f"{_number(figure.value)} {figure.unit}", target, verdict)
        part = figure.part
    console.print(table)


def write_json(figures: Sequence[Figure], scale: float, path: Path) -> None:
    """Writes the figures, the scale, and the CPUs and Python version of the machine."""
    found = {
        "scale": scale,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "figures": [{**asdict(figure), "reached": figure.reached} for figure in figures],
    }
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def _number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
