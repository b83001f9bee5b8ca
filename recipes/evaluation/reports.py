"""Formats results as sentences and Markdown tables."""

from keras_cbvit.classes import join_names

from ..tables import markdown_table


def condition_name(under, epsilon):
    """Returns the name of a condition, with the epsilon of an attack."""
    return under if epsilon is None else f"{under} ε={epsilon:g}"


def segmentation_sentence(row):
    """Returns the result of a segmentation model as a line of text."""
    return (
        f"{row['model']}: mean IoU {row['mean_iou']:.4f}{_class_count(row)}, pixel "
        f"accuracy {row['pixel_accuracy']:.4f} ({row['on']}, {row['images']} "
        f"images; {row['backend']}){_without_pixels(row)}"
    )


def _class_count(row):
    """Returns the number of classes in the mean; empty text if all are."""
    counted, number = row["classes_counted"], len(row["class_iou"])
    return "" if counted == number else f" over {counted} of {number} classes"


def _without_pixels(row):
    """Returns sentences on the classes absent from truth or prediction."""
    unlabeled, unpredicted = row["not_labeled"], row["never_predicted"]
    kinds = {
        "Neither labeled nor predicted": [n for n in unlabeled if n in unpredicted],
        "Predicted, but not labeled": [n for n in unlabeled if n not in unpredicted],
        "Never predicted": [n for n in unpredicted if n not in unlabeled],
    }
    return "".join(
        f". {title}: {join_names(names, 20)}" for title, names in kinds.items() if names
    )


def segmentation_tables(rows):
    """Returns Markdown tables of segmentation results by model and class."""
    return "\n\n".join([_table_of_models(rows), *_tables_of_classes(rows)])


def classification_table(rows):
    """Returns a Markdown table of the results of classifiers."""
    titles = "on", "under", "model", "images", "top-1 %", "top-5 %", "loss", "ECE"
    cells = [
        (
            row["on"],
            condition_name(row["under"], row["epsilon"]),
            *(row["model"], row["images"]),
            *(100 * row["top1"], 100 * row["top5"], row["loss"], row["ece"]),
        )
        for row in rows
    ]
    return markdown_table(titles, cells, [0, 0, 0, 0, 2, 2, 4, 4])


def _table_of_models(rows):
    titles = "on", "model", "images", "mean IoU %", "pixel accuracy %"
    cells = [_cells(row, row["model"], "mean_iou", "pixel_accuracy") for row in rows]
    name = "the most frequent class everywhere"
    for row, *_ in _rows_by_set(rows).values():
        measures = "majority_mean_iou", "majority_pixel_accuracy"
        cells.append(_cells(row, name, *measures))
    return markdown_table(titles, cells)


def _cells(row, name, *measures):
    numbers = (100 * row[measure] for measure in measures)
    return row["on"], name, row["images"], *numbers


def _tables_of_classes(rows):
    """Yields a table for each set, with a column for each model."""
    for (_, on), of_set in _rows_by_set(rows).items():
        names = dict.fromkeys(name for row in of_set for name in row["class_iou"])
        found = {name: [row["class_iou"].get(name) for row in of_set] for name in names}
        cells = [
            (name, *(None if iou is None else 100 * iou for iou in ious))
            for name, ious in found.items()
        ]
        titles = f"IoU %, {on}", *(row["model"] for row in of_set)
        yield markdown_table(titles, cells)


def _rows_by_set(rows):
    sets = {}
    for row in rows:
        sets.setdefault((row["folder"], row["on"]), []).append(row)
    return sets
