"""Charts of the results of the paper's tables and figures."""

import numpy as np

from .. import figures
from ..evaluation.paper_measures import ALONG, FIRST, TITLES
from .models import HEADS
from .tasks import axis_label


def bars(result, file):
    """Draws each measure of each model: the mean as a bar, and each seed as a point."""
    measures = [each for each in result["measures"] if each not in ALONG]
    sizes = _rows_by_size(result)
    figure, axes = _grid(len(sizes), len(measures))
    for (size, rows), row_of_axes in zip(sizes.items(), axes, strict=True):
        looks = figures.line_styles(len(rows))
        for measure, axis in zip(measures, row_of_axes, strict=True):
            for position, (row, look) in enumerate(zip(rows, looks, strict=True)):
                values = _values(row, measure)
                axis.hlines(np.mean(values), position - 0.3, position + 0.3, "black")
                points = {**look, "linestyle": "", "fillstyle": "none"}
                axis.plot([position] * len(values), values, **points)
            titles = [row["title"].replace(", ", ",\n") for row in rows]
            axis.set_xticks(range(len(rows)), titles, fontsize=8)
            axis.set_xlim(-0.6, len(rows) - 0.4)
            axis.set_ylabel(TITLES[measure])
            axis.set_title(f"{result['dataset']}, {size}", fontsize=10)
            axis.grid(alpha=0.3, axis="y")
    figures.save(figure, file)


def along(result, file):
    """Draws each measure over blocks or epochs: mean and spread over seeds."""
    panels = {}
    for size, rows in _rows_by_size(result).items():
        for measure in result["measures"]:
            curves = {row["title"]: _values(row, measure) for row in rows}
            panels[f"{TITLES[measure]}\n({result['dataset']}, {size})"] = curves
    first = result["measures"][0]
    figures.draw_panels(panels, file, axis_label(first, result), FIRST[ALONG[first]])


def over_heads(result, file):
    """Draws top-1 accuracy over the number of heads, plain and with CB."""
    sizes = _rows_by_size(result)
    figure, axes = _grid(len(sizes), 1)
    for (size, rows), (axis,) in zip(sizes.items(), axes, strict=True):
        rows = {row["model"]: row for row in rows}
        kinds = {"plain": "plain", "cb": "CB"}
        for (kind, title), look in zip(
            kinds.items(), figures.line_styles(2), strict=True
        ):
            values = np.array(
                [_values(rows[f"{kind}_{heads}_heads"], "top1") for heads in HEADS]
            )
            spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
            axis.errorbar(HEADS, values.mean(1), spread, label=title, capsize=3, **look)
        axis.set_xscale("log", base=2)
        axis.set_xticks(HEADS, HEADS)
        axis.set_xlabel("heads")
        axis.set_ylabel(TITLES["top1"])
        axis.set_title(f"{result['dataset']}, {size}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend()
    figures.save(figure, file)


def costs(result, file):
    """Draws the cost of the additions, in percent of a plain ViT."""
    sizes = _rows_by_size(result)
    titles = [row["title"] for row in result["rows"]]
    titles = list(dict.fromkeys(titles))[1:]
    figure, axes = _grid(1, 2)
    for index, (title, look) in enumerate(
        zip(titles, figures.line_styles(len(titles)), strict=True)
    ):
        work, parameters = [], []
        for rows in sizes.values():
            plain, row = rows[0], rows[1 + index]
            macs = row["macs"] + row["context_macs"]
            work.append(100 * (macs / plain["macs"] - 1))
            parameters.append(100 * (row["parameters"] / plain["parameters"] - 1))
        axes[0, 0].plot(list(sizes), work, label=title, **look)
        axes[0, 1].plot(list(sizes), parameters, label=title, **look)
    axes[0, 0].set_ylabel("multiply-accumulates over plain, %")
    axes[0, 1].set_ylabel("parameters over plain, %")
    for axis in axes[0]:
        axis.set_xlabel("size")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figures.save(figure, file)


def _grid(rows, columns):
    figure = figures.new_figure(4.8 * columns, 3.6 * rows)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _rows_by_size(result):
    sizes = {}
    for row in result["rows"]:
        sizes.setdefault(row["size"], []).append(row)
    return sizes


def _values(row, measure):
    return [values[measure] for values in row["seeds"].values()]
