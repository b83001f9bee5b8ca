"""Results of a table or figure, as numbers and as Markdown."""

import sys
from itertools import product
from math import isnan, nan

import numpy as np

from ..evaluation.paper_measures import ALONG, FIRST, IMAGENET_SETS, IMAGES, TITLES
from ..machine import machine_info
from ..tables import markdown_table
from .cluster import train_on_ray
from .tasks import PAPER_DATASETS, axis_label, task_of_dataset


def run_entry(name, entry, runs, sizes, seeds, ray=None):
    """Trains and evaluates the models of an entry; returns the dict of its JSON file.

    Args:
        name: name of the entry.
        entry: a `recipes.paper.entries.Entry`.
        runs: a `recipes.paper.runs.Runs`.
        sizes: sizes of the models.
        seeds: seeds of the runs.
        ray: address of a Ray cluster, see `train_on_ray`; `None` to train one model
            after the other in this process.
    """
    measures = [
        each
        for each in entry.measures
        if runs.dataset == "imagenet" or each not in IMAGENET_SETS
    ]
    seeds = seeds if measures else ()
    # Raises errors about all runs before training the first.
    missing = [
        (model, size, seed)
        for size, model, seed in product(sizes, entry.models.values(), seeds)
        if not runs.is_complete(model, size, seed, measures)
    ]
    if ray is not None and missing:
        train_on_ray(ray, runs, missing, measures)
    rows = []
    for size in sizes:
        for title, model in entry.models.items():
            values = {}
            for seed in seeds:
                print(f"{entry.title}: {title}, {size}, seed {seed}", file=sys.stderr)
                values[seed] = runs.values(model, size, seed, measures)
            row = {"title": title, "model": model, "size": size}
            row["baseline"] = entry.baseline_of(title)
            rows.append({**row, **runs.cost(model, size), "seeds": values})
    return {
        "entry": name,
        "title": entry.title,
        "stated": entry.stated,
        "dataset": runs.dataset,
        "measures": measures,
        "rows": rows,
        **(runs.settings(model, size, seed) if measures else machine_info()),
    }


def mean_and_spread(values):
    """Returns mean and sample standard deviation over seeds; NaN for a single seed."""
    values = np.array(values, float)
    spread = values.std(0, ddof=1) if len(values) > 1 else np.full_like(values[0], nan)
    return values.mean(0), spread


def _text(values, form):
    """Formats the mean, followed by the spread if there are several seeds."""
    mean, spread = mean_and_spread(values)
    text = format(mean, form)
    return text if isnan(spread) else f"{text} ± {format(spread, form.lstrip('+'))}"


def over_baseline(rows, row, measure):
    """Returns the differences to the row's baseline of the same size, by seed."""
    base = _baseline(rows, row)
    return [row["seeds"][s][measure] - base["seeds"][s][measure] for s in row["seeds"]]


def _baseline(rows, row):
    wanted = row["baseline"], row["size"]
    return next(each for each in rows if (each["title"], each["size"]) == wanted)


def markdown(result):
    """Formats the result as tables with the conditions of the measurement."""
    lines = [f"**{result['title']}**, {result['dataset']}", ""]
    numbers = [each for each in result["measures"] if each not in ALONG]
    if numbers or not result["measures"]:
        lines += [_table(result, numbers), ""]
    for measure in result["measures"]:
        if measure in ALONG:
            along = f"By {axis_label(measure, result)}, {TITLES[measure]}:"
            lines += [along, "", _table_along(result, measure), ""]
    if result["stated"]:
        on = PAPER_DATASETS[task_of_dataset(result["dataset"]).name]
        lines += [f"The paper, on {on}: {result['stated']}.", ""]
    return "\n".join([*lines, _describe_setup(result), ""])


def _table(result, measures):
    baselines = {row["baseline"] for row in result["rows"]}
    over = f"over {baselines.pop()}" if len(baselines) == 1 else "over the row before"
    has_macs = "macs" in result["rows"][0]
    titles = ["Model", "Size", "Parameters"]
    if has_macs:
        titles.append("Multiply-accumulates")
    if not measures:
        titles += ["of CB or SE", "total over plain"]
    for measure in measures:
        titles += [TITLES[measure], f"{over}, points"]
    rows = []
    for row in result["rows"]:
        cells = [row["title"], row["size"], f"{row['parameters']:,}"]
        if has_macs:
            cells.append(f"{row['macs'] / 1e6:,.2f} M")
        if not measures:
            base = _baseline(result["rows"], row)
            more = (row["macs"] + row["context_macs"]) / base["macs"] - 1
            cells += [f"{row['context_macs'] / 1e6:,.2f} M", f"{more:+.3%}"]
        for measure in measures:
            values = [values[measure] for values in row["seeds"].values()]
            cells.append(_text(values, ".2f"))
            differences = over_baseline(result["rows"], row, measure)
            is_baseline = row["title"] == row["baseline"]
            cells.append("–" if is_baseline else _text(differences, "+.2f"))
        rows.append(cells)
    return markdown_table(titles, rows)


def _table_along(result, measure):
    """Formats a table with one column per block or epoch."""
    rows = []
    for row in result["rows"]:
        values = [values[measure] for values in row["seeds"].values()]
        cells = (_text(each, ".4f") for each in zip(*values, strict=True))
        rows.append([f"{row['title']}, {row['size']}", *cells])
    first = FIRST[ALONG[measure]]
    columns = range(first, first + max(map(len, rows)) - 1)
    return markdown_table(["Model", *columns], rows)


def _describe_setup(result):
    cores = "one core" if result["cores"] == 1 else f"{result['cores']} cores"
    machine = f"{result['cpu']}, {cores}; {result['date']}."
    if not result["measures"]:
        return machine
    task = task_of_dataset(result["dataset"])
    trained = task.describe_training(result["training"], result["data"])
    numbers = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    first, *others = result["rows"][0]["seeds"]
    seeds = f"Seed {first}. "
    if others:
        seeds = (
            "Mean ± standard deviation over the seeds "
            f"{', '.join(map(str, (first, *others)))}; differences are between runs of "
            "the same seed. "
        )
    smoke = (
        "A smoke run on a few images; the results are meaningless. "
        if result["smoke"]
        else ""
    )
    attention = f"Attention is measured on the first {IMAGES} test images. "
    return (
        f"{smoke}{seeds}{trained}. "
        f"{attention if set(result['measures']) & {'entropy', 'distance'} else ''}"
        f"{result['backend']}; {numbers}; {machine}"
    )
