"""Pictures of what `keras_cbvit.analysis` finds, for every eye and for printing.

Colours are Okabe and Ito's, which the colour-blind can tell apart; lines differ in
style and marker as well, so that a print in black and white can be read.
"""

import keras
import numpy as np

from keras_cbvit.analysis import attention_entropy, softmax_jacobian_norm

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_panels(panels, file, along="block", first=0):
    """Draws numbers by block, beside each other, with mean and spread over seeds.

    Args:
        panels: by the label of each number, with its unit, its curves: arrays of shape
            `(seeds, blocks)` by their titles. The line is the mean of the seeds, the
            band one standard deviation (n - 1) to either side. NaN is left out.
        file: where to.
        along: what the numbers are of, if not of blocks.
        first: the number of the first of them.
    """
    figure = new_figure(4.6 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    titles = dict.fromkeys(title for curves in panels.values() for title in curves)
    look_of = dict(zip(titles, looks(len(titles)), strict=True))
    for axis, (label, curves) in zip(axes, panels.items(), strict=True):
        for title, values in curves.items():
            _draw_curve(axis, title, first, np.asarray(values, float), look_of[title])
        axis.set_xlabel(along)
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def draw_softmax_jacobian(file, tokens=197):
    """Draws where the gradient of a softmax is steepest (section 2.1 of the paper).

    To the left all attention to three tokens, to the right attention of different
    sharpness to many: both norms are largest where attention is uniform.
    """
    figure = new_figure(10, 4)
    triangle, curves = figure.subplots(1, 2)
    _draw_triangle(figure, triangle)
    sharpness = np.linspace(0, 1, 101)[:, None]
    normal = np.random.default_rng(0).normal(size=tokens)
    four = np.arange(tokens) < 4
    families = {
        "softmax of normal logits, ever wider": _softmax(30 * sharpness**2 * normal),
        "from all tokens alike to one alone": (
            (1 - sharpness) / tokens + sharpness * np.eye(tokens)[0]
        ),
        "from all tokens alike to four of them": (
            (1 - sharpness) / tokens + sharpness * four / 4
        ),
    }
    for (title, maps), look in zip(families.items(), looks(len(families)), strict=True):
        # Each a head in which a single token attends.
        entropy = _numpy(attention_entropy(maps[None, :, None]))[0]
        norm = _numpy(softmax_jacobian_norm(maps))
        curves.plot(entropy, norm, label=title, markevery=10, **look)
    curves.plot(np.log(tokens), 1 - 1 / tokens, "k*", markersize=14)
    curves.annotate(
        f"uniform: ln {tokens} = {np.log(tokens):.2f} nats, 1 - 1/{tokens}",
        (np.log(tokens), 1 - 1 / tokens),
        (-12, 12),
        textcoords="offset points",
        ha="right",
    )
    curves.set_title(f"attention to {tokens} tokens", fontsize=10)
    curves.set_ylim(-0.03, 1.15)
    curves.set_xlabel("entropy (nats)")
    curves.set_ylabel("nuclear norm of the softmax's Jacobian")
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=120)


def draw_attention(rows, file, blocks=None):
    """Draws what the class token attends to in photographs, a row for each model.

    A patch is the brighter the more attention it gets, averaged over the heads; the
    brightest of each map is the one that gets most. Above a map stands the entropy of
    the block's attention, averaged over heads and tokens.

    Args:
        rows: by their titles `(photo, maps, grid)`: the image, uint8 of shape
            `(height, width, 3)`, what `keras_cbvit.analysis.attention_maps` gives for
            it alone, and the `(rows, columns)` of its patches.
        file: where to.
        blocks: the blocks that are shown, counted from 0; up to six of them, evenly
            from the first to the last, if not given.
    """
    if blocks is None:
        depth = min(len(maps) for _, maps, _ in rows.values())
        blocks = np.unique(np.linspace(0, depth - 1, 6).round().astype(int))
    columns = 1 + len(blocks)
    shapes = [photo.shape for photo, _, _ in rows.values()]
    heights = [1.9 * height / width + 0.5 for height, width, _ in shapes]
    figure = new_figure(1.9 * columns, sum(heights))
    axes = figure.subplots(
        len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for row, (title, (photo, maps, grid)) in zip(axes, rows.items(), strict=True):
        most = np.log(maps[0].shape[-1])
        row[0].imshow(photo)
        row[0].set_title(f"{title}\nuniform: {most:.2f} nats", fontsize=9)
        for axis, block in zip(row[1:], blocks, strict=True):
            entropy = _numpy(attention_entropy(maps[block])).mean()
            axis.imshow(_lit(photo, maps[block][0], grid))
            axis.set_title(f"block {block}\n{entropy:.2f} nats", fontsize=9)
        for axis in row:
            axis.axis("off")
    figure.savefig(file, dpi=120)


def draw_scales(scales_of, file):
    """Draws how the channels' λ are distributed in each layer of CB_S models.

    The box is from the 10 % to the 90 % quantile with the median in it, the whiskers
    reach from the least to the greatest.

    Args:
        scales_of: by the models' titles, what `keras_cbvit.analysis.channel_scales`
            gives.
        file: where to.
    """
    figure = new_figure(6 * len(scales_of), 3.8)
    axes = figure.subplots(1, len(scales_of), squeeze=False, sharey=True)[0]
    for axis, (title, scales) in zip(axes, scales_of.items(), strict=True):
        boxes = []
        for path, scale in scales.items():
            least, low, median, high, most = np.quantile(scale, [0, 0.1, 0.5, 0.9, 1])
            boxes.append(
                {
                    "label": path.removesuffix("/context_broadcast"),
                    **{"whislo": least, "q1": low, "med": median},
                    **{"q3": high, "whishi": most},
                }
            )
        drawn = axis.bxp(boxes, showfliers=False, patch_artist=True)
        for box, median in zip(drawn["boxes"], drawn["medians"], strict=True):
            box.set_facecolor(COLORS[5])
            median.set(color="black", linewidth=2)
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.tick_params("x", labelrotation=90)
        axis.set_ylabel("λ (share of the context's mean)")
        axis.set_title(title, fontsize=10)
    figure.savefig(file, dpi=120)


def _numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def new_figure(width, height):
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def looks(number):
    """Colour, style and marker of so many lines."""
    return [
        {
            "color": COLORS[i % len(COLORS)],
            "linestyle": STYLES[i % len(STYLES)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 5,
        }
        for i in range(number)
    ]


def _draw_curve(axis, title, first, values, look):
    seeds, layers = values.shape
    x = range(first, first + layers)
    if seeds > 1:
        title = f"{title} ({seeds} seeds)"
        spread, mean = values.std(axis=0, ddof=1), values.mean(axis=0)
        low, high = mean - spread, mean + spread
        axis.fill_between(x, low, high, color=look["color"], alpha=0.2)
    axis.plot(x, values.mean(axis=0), label=title, **look)


def _softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _draw_triangle(figure, axis):
    """The norm for every attention to three tokens, each corner one alone."""
    corners = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])
    steps = 60
    maps = np.array(
        [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    )
    maps = maps / steps
    x, y = (maps @ corners).T
    norm = _numpy(softmax_jacobian_norm(maps))
    filled = axis.tricontourf(x, y, norm, levels=14, cmap="cividis")
    figure.colorbar(filled, label="nuclear norm of the softmax's Jacobian")
    axis.plot(*corners.mean(axis=0), "k*", markersize=14)
    axis.annotate(
        "uniform: 2/3",
        corners.mean(axis=0),
        (0, 10),
        textcoords="offset points",
        ha="center",
    )
    for corner, text, above in zip(
        corners, ("a = (1, 0, 0)", "(0, 1, 0)", "(0, 0, 1)"), (-1, -1, 1), strict=True
    ):
        axis.annotate(
            f"{text}: 0",
            corner,
            (0, 12 * above),
            textcoords="offset points",
            ha="center",
            va="center",
        )
    axis.set_title("attention a to three tokens", fontsize=10)
    axis.set_xlim(-0.2, 1.2)
    axis.set_ylim(-0.12, 1.0)
    axis.set_aspect("equal")
    axis.axis("off")


def _lit(photo, maps, grid):
    """The photo, lit by the class token's attention, which is the first token."""
    spatial = maps[:, 0, -grid[0] * grid[1] :].mean(axis=0).reshape(grid)
    sides = np.array(photo.shape[:2]) // grid
    light = np.kron(spatial / spatial.max(), np.ones(sides))
    return np.rint(photo * (0.15 + 0.85 * light[..., None])).astype("uint8")
