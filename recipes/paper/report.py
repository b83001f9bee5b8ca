"""A table or figure as numbers, and as Markdown."""

import dataclasses
import sys

import keras
import numpy as np

from recipes.benchmark.machine import run_on
from recipes.paper.measures import BY_LAYER, IMAGENET_SETS, TITLES, cost
from recipes.training.run_folder import git_commit, versions


def measured(name, entry, runs, sizes, seeds):
    """Measures the models of an entry; returns what its JSON file has.

    Args:
        name: of the entry.
        entry: a `recipes.paper.entries.Entry`.
        runs: a `recipes.paper.runs.Runs`.
        sizes: of the models.
        seeds: of the runs.
    """
    measures = [
        each
        for each in entry.measures
        if runs.dataset == "imagenet" or each not in IMAGENET_SETS
    ]
    rows = []
    for size in sizes:
        for title, model in entry.models.items():
            values = {}
            for seed in seeds if measures else ():
                print(f"{entry.title}: {title}, {size}, seed {seed}", file=sys.stderr)
                values[seed] = runs.values(model, size, seed, measures)
            row = {"title": title, "model": model, "size": size}
            rows.append({**row, **cost(runs.build(model, size)), "seeds": values})
    first = runs.experiment(rows[0]["model"], sizes[0], 0)
    return {
        "entry": name,
        "title": entry.title,
        "stated": entry.stated,
        "dataset": runs.dataset,
        "measures": measures,
        "rows": rows,
        "training": dataclasses.asdict(first.training),
        "augmentation": dataclasses.asdict(first.augmentation),
        "backend": keras.backend.backend(),
        "versions": versions(),
        "commit": git_commit(),
        **run_on(),
    }


def mean_and_spread(values):
    """Mean and standard deviation of a sample, over the seeds; 0 of one seed."""
    values = np.array(values, float)
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])
    return values.mean(0), spread


def over_baseline(rows, row, measure):
    """The differences to the first row of the same size, seed by seed."""
    base = next(each for each in rows if each["size"] == row["size"])
    return [row["seeds"][s][measure] - base["seeds"][s][measure] for s in row["seeds"]]


def markdown(result):
    """The result as tables, with what it was measured on."""
    lines = [f"**{result['title']}**, {result['dataset']}", ""]
    numbers = [each for each in result["measures"] if each not in BY_LAYER]
    if numbers or not result["measures"]:
        lines += [*_table(result, numbers), ""]
    for measure in result["measures"]:
        if measure in BY_LAYER:
            lines += [*_table_by_layer(result, measure), ""]
    if result["stated"]:
        lines += [f"The paper, on ImageNet: {result['stated']}.", ""]
    return "\n".join([*lines, _made_with(result), ""])


def _table(result, measures):
    baseline = result["rows"][0]["title"]
    titles = ["Model", "Size", "Parameters", "Multiply-accumulates"]
    if not measures:
        titles += ["of CB or SE", "in all over plain"]
    for measure in measures:
        titles += [TITLES[measure], f"over {baseline}, points"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in result["rows"]:
        cells = [row["title"], row["size"], f"{row['parameters']:,}"]
        cells.append(f"{row['macs'] / 1e6:,.2f} M")
        if not measures:
            base = next(r for r in result["rows"] if r["size"] == row["size"])
            more = (row["macs"] + row["context_macs"]) / base["macs"] - 1
            cells += [f"{row['context_macs'] / 1e6:,.2f} M", f"{more:+.3%}"]
        for measure in measures:
            values = [values[measure] for values in row["seeds"].values()]
            cells.append("{:.2f} ± {:.2f}".format(*mean_and_spread(values)))
            differences = over_baseline(result["rows"], row, measure)
            is_baseline = row["title"] == baseline
            both = mean_and_spread(differences)
            cells.append("–" if is_baseline else "{:+.2f} ± {:.2f}".format(*both))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _table_by_layer(result, measure):
    by_row = {}
    for row in result["rows"]:
        values = [values[measure] for values in row["seeds"].values()]
        by_row[f"{row['title']}, {row['size']}"] = mean_and_spread(values)
    depth = max(len(mean) for mean, _ in by_row.values())
    lines = [
        f"{TITLES[measure].capitalize()}, by block:",
        "",
        f"| Model | {' | '.join(map(str, range(1, depth + 1)))} |",
        "|---" * (1 + depth) + "|",
    ]
    for title, (mean, spread) in by_row.items():
        cells = (f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _made_with(result):
    seeds = result["rows"][0]["seeds"]
    numbers = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    trained = ""
    if seeds:
        trained = (
            f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}; "
            "differences are of the same seed. "
            f"{result['training']['epochs']} epochs in batches of "
            f"{result['training']['global_batch_size']}. "
        )
    return (
        f"{trained}{result['backend']}; {numbers}; {result['cpu']}, {result['cores']} "
        f"cores; {result['date']}."
    )
