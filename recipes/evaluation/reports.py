"""Results in words and as a table."""


def condition_name(under, epsilon):
    """What a condition is called; attacks have an epsilon."""
    return under if epsilon is None else f"{under} ε={epsilon:g}"


def sentence(row):
    """A result in words."""
    on = row["on"]
    if row["under"] != "clean":
        on += f", {condition_name(row['under'], row['epsilon'])}"
    return (
        f"{row['model']}: {row['right']} of {row['images']} test images right, top-1 "
        f"accuracy {row['top1']:.4f} ({on}; {row['backend']})"
    )


def table(rows):
    """Results as a table in Markdown."""
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
