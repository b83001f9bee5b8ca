"""Results in words and as a table."""

from keras_cbvit.classes import listed


def condition_name(under, epsilon):
    """What a condition is called; attacks have an epsilon."""
    return under if epsilon is None else f"{under} ε={epsilon:g}"


def segmentation_sentence(row):
    """A result of a segmentation model in words."""
    return (
        f"{row['model']}: mean IoU {row['mean_iou']:.4f}{_counted(row)}, pixel "
        f"accuracy {row['pixel_accuracy']:.4f} ({row['on']}, {row['images']} "
        f"images; {row['backend']}){_without_pixels(row)}"
    )


def _counted(row):
    """Over how many classes the mean is, unless it is over all of them."""
    counted, number = row["classes_counted"], len(row["class_iou"])
    return "" if counted == number else f" over {counted} of {number} classes"


def _without_pixels(row):
    """Which classes do not occur in truth or prediction, as sentences."""
    without = [set(row[kind]) for kind in ("not_labeled", "never_predicted")]
    titles: dict[tuple, str] = {
        (True, True): "Neither labeled nor predicted",
        (True, False): "Predicted, but not labeled",
        (False, True): "Never predicted",
    }
    by_kind = {kind: [] for kind in titles}
    for name in row["class_iou"]:
        kind = tuple(name in names for names in without)
        if kind in titles:
            by_kind[kind].append(name)
    return "".join(
        f". {titles[kind]}: {listed(names, 20)}"
        for kind, names in by_kind.items()
        if names
    )


def segmentation_tables(rows):
    """Results of segmentation models as two tables in Markdown."""
    return "\n".join([*_segmentation_table(rows), "", *_table_of_classes(rows)])


def classification_table(rows):
    """Results of classifiers as a table in Markdown."""
    lines = [
        "| on | under | model | images | top-1 % | top-5 % | loss | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['on']} | {condition_name(row['under'], row['epsilon'])} "
            f"| {row['model']} | {row['images']} | {100 * row['top1']:.2f} "
            f"| {100 * row['top5']:.2f} | {row['loss']:.4f} | {row['ece']:.4f} |"
        )
    return "\n".join(lines)


def _segmentation_table(rows):
    yield "| on | model | images | mean IoU % | pixel accuracy % |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield _measures_of(row, row["model"], "mean_iou", "pixel_accuracy")
    by_set = {(row["folder"], row["on"]): row for row in rows}
    for row in by_set.values():
        name = "the most frequent class everywhere"
        yield _measures_of(row, name, "majority_mean_iou", "majority_pixel_accuracy")


def _measures_of(row, name, *measures):
    values = " | ".join(f"{100 * row[measure]:.2f}" for measure in measures)
    return f"| {row['on']} | {name} | {row['images']} | {values} |"


def _table_of_classes(rows):
    """A column for each model; of several sets a table for each."""
    sets = {}
    for row in rows:
        sets.setdefault((row["folder"], row["on"]), []).append(row)
    for (_, on), of_set in sets.items():
        names = " | ".join(row["model"] for row in of_set)
        yield f"| IoU %, {on} | {names} |"
        yield "|---" * (1 + len(of_set)) + "|"
        for name in dict.fromkeys(name for row in of_set for name in row["class_iou"]):
            found = [row["class_iou"].get(name) for row in of_set]
            cells = ["–" if iou is None else f"{100 * iou:.2f}" for iou in found]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""
