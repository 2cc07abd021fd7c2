"""Charts made of block characters, readable on any terminal and without colour."""

from collections.abc import Sequence

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def horizontal_bar(value: float, largest: float, width: int | None = None) -> Bar:
    """A bar of `value`. `largest` fills the width, which is that of the table's column unless given."""
    return Bar(size=max(largest, 1), begin=0, end=value, width=width, color="cyan")


def row_chart(labels: Sequence[str], counts: Sequence[int], extra: Sequence[int], heads: tuple[str, str]) -> Table:
    """One line for each label, with a bar of its count and a second number. `heads` are the names of the numbers."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("", ratio=1)
    table.add_column(heads[0], justify="right")
    table.add_column(heads[1], justify="right")
    for label, count, number in zip(labels, counts, extra, strict=True):
        table.add_row(label, horizontal_bar(count, max(counts)), f"{count:,}", f"{number:,}")
    return table


def column_chart(labels: Sequence[str], counts: Sequence[int], width: int, height: int = 8) -> RenderableType:
    """Columns over a time axis with the first and the last label. At most `width` cells wide, which must be 20 or more.

    If there are more counts than cells, a column is the sum of several counts, and a line below says of how many.
    """
    together = 1
    while together * (width - (margin := len(f"{max(counts) * together:,}") + 2)) < len(counts):
        together += 1
    cells = width - margin
    sums = [sum(counts[index : index + together]) for index in range(0, len(counts), together)]
    column = min(6, cells // len(sums))
    largest = max(*sums, 1)
    lines = []
    for level in range(height, 0, -1):
        axis = f"{largest:,}" if level == height else ""
        # A count that is not 0 shows at least the lowest block.
        heights = [-(-count * height * 8 // largest) - (level - 1) * 8 for count in sums]
        blocks = (_EIGHTHS[min(8, max(0, eighths))] for eighths in heights)
        bars = "".join(block * (column - 1) + " " if column > 2 else block * column for block in blocks)
        lines.append(Text(f"{axis:>{margin - 2}} │", style="dim").append(bars, style="cyan"))
    length = column * len(sums)
    lines.append(Text(f"{'0':>{margin - 2}} └" + "─" * length, style="dim"))
    gap = max(1, length - len(labels[0]) - len(labels[-1]))
    lines.append(Text(" " * margin + labels[0] + " " * gap + labels[-1], style="dim"))
    if together > 1:
        lines.append(Text(" " * margin + f"each column is the sum of {together}", style="dim"))
    for line in lines:
        line.no_wrap = True
    return Group(*lines)
