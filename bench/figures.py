"""What the benchmarks found: figures with their targets, as a table and as JSON."""

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
    """One measured value; with a target it is reached or not."""

    part: str
    name: str
    value: float
    unit: str = ""
    """ "×" for a ratio to the yardstick of the same run."""
    target: float | None = None
    at_least: bool = True
    """Whether the target is a floor; else it is a ceiling."""

    @property
    def reached(self) -> bool | None:
        """None without a target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def print_table(figures: Sequence[Figure], scale: float, console: Console) -> None:
    """Prints every figure, those with a target marked."""
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
    """Writes the figures, the size they were measured at and the machine's."""
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
