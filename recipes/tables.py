"""Markdown tables, aligned for reading in a terminal."""

from itertools import zip_longest

from tabulate import tabulate


def markdown_table(header, rows, decimals: int | list[int] = 2) -> str:
    """Formats a Markdown table, with text aligned left and numbers aligned right.

    Args:
        header: titles of the columns.
        rows: cells by row; `None` and the missing cells of short rows become dashes.
            Text is kept unchanged, even if it looks like a number.
        decimals: decimals of floating-point numbers, for all columns or per column.
    """
    if isinstance(decimals, int):
        decimals = [decimals] * len(header)
    columns = enumerate(zip_longest(*rows))
    texts = [i for i, cells in columns if any(isinstance(c, str) for c in cells)]
    return tabulate(
        [[_escape(cell) for cell in row] for row in rows],
        [_escape(title) for title in header],
        "pipe",
        intfmt=",",
        floatfmt=[f".{number}f" for number in decimals],
        missingval="–",
        disable_numparse=texts,
    )


def _escape(cell):
    return cell.replace("|", r"\|") if isinstance(cell, str) else cell
