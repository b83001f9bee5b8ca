"""Tables in Markdown that are read in a terminal, too."""

from itertools import zip_longest

from tabulate import tabulate


def markdown_table(header, rows, decimals: int | list[int] = 2) -> str:
    """A table in Markdown: text to the left, numbers to the right, `None` as a dash.

    Args:
        header: the titles of the columns.
        rows: their cells; a short row ends in dashes. Text stays as it is, also where
            it looks like a number.
        decimals: of all floating-point numbers, or a list of those of each column.
    """
    if isinstance(decimals, int):
        decimals = [decimals] * len(header)
    columns = enumerate(zip_longest(*rows))
    texts = [i for i, cells in columns if any(isinstance(c, str) for c in cells)]
    return tabulate(
        [[_escaped(cell) for cell in row] for row in rows],
        [_escaped(title) for title in header],
        "pipe",
        intfmt=",",
        floatfmt=[f".{number}f" for number in decimals],
        missingval="–",
        disable_numparse=texts,
    )


def _escaped(cell):
    return cell.replace("|", r"\|") if isinstance(cell, str) else cell
