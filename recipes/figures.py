"""Figures of analysis and segmentation results.

Colors are Okabe and Ito's color-blind-safe palette. Lines also differ in style and
marker, for black-and-white prints.
"""

import io
from pathlib import Path

import keras
import numpy as np

from keras_cbvit.analysis import attention_entropy, softmax_jacobian_norm
from keras_cbvit.files import write

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def save(figure, file):
    """Writes a figure as a PNG file, atomically."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write(Path(file), content.getbuffer())


def draw_panels(panels, file, along="block", first=0):
    """Draws one panel per quantity, with curves by block.

    Lines are means over seeds; bands extend one standard deviation (n - 1) to either
    side. NaN is omitted.

    Args:
        panels: dict from y-axis label, with unit, to curves: arrays of shape
            `(seeds, blocks)` by title.
        file: path of the PNG file.
        along: label of the x-axis.
        first: number of the first block, or of the first value on another x-axis.
    """
    figure = new_figure(4.6 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    titles = dict.fromkeys(title for curves in panels.values() for title in curves)
    look_of = dict(zip(titles, line_styles(len(titles)), strict=True))
    for axis, (label, curves) in zip(axes, panels.items(), strict=True):
        for title, values in curves.items():
            _draw_curve(axis, title, first, np.asarray(values, float), look_of[title])
        axis.set_xlabel(along)
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save(figure, file)


def draw_softmax_jacobian(file, tokens=197):
    """Draws the norm of the softmax's Jacobian (section 2.1 of the paper).

    The left panel shows all possible attention to three tokens, the right panel
    attention of varying sharpness to many tokens. In both, the norm is largest for
    uniform attention.
    """
    figure = new_figure(10, 4)
    triangle, curves = figure.subplots(1, 2)
    _draw_triangle(figure, triangle)
    sharpness = np.linspace(0, 1, 101)[:, None]
    normal = np.random.default_rng(0).normal(size=tokens)
    four = np.arange(tokens) < 4
    families = {
        "softmax of normal logits, growing scale": _softmax(30 * sharpness**2 * normal),
        "from all tokens to a single one": (
            (1 - sharpness) / tokens + sharpness * np.eye(tokens)[0]
        ),
        "from all tokens to four of them": (
            (1 - sharpness) / tokens + sharpness * four / 4
        ),
    }
    for (title, maps), look in zip(
        families.items(), line_styles(len(families)), strict=True
    ):
        # Each map becomes a head with a single query.
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
    save(figure, file)


def draw_attention(rows, file, blocks=None):
    """Draws the class token's attention as brightness on photos, one row per model.

    The brightness of a patch is its attention averaged over the heads, relative to the
    patch with the most. Titles give the entropy of the block's attention, averaged
    over heads and tokens.

    Args:
        rows: dict from title to `(photo, maps, grid)`: the image, uint8 of shape
            `(height, width, 3)`; the result of `keras_cbvit.analysis.attention_maps`
            for it alone; and the `(rows, columns)` of its patches.
        file: path of the PNG file.
        blocks: indices of the blocks to show, counted from 0; if not given, up to six
            at even intervals.
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
            axis.imshow(_light_up(photo, maps[block][0], grid))
            axis.set_title(f"block {block}\n{entropy:.2f} nats", fontsize=9)
        for axis in row:
            axis.axis("off")
    save(figure, file)


def draw_scales(scales_of, file):
    """Draws the distribution over channels of λ in each layer of CB_S models.

    Boxes extend from the 10 % to the 90 % quantile and show the median; whiskers
    extend from the minimum to the maximum.

    Args:
        scales_of: dict from title to the result of
            `keras_cbvit.analysis.channel_scales`.
        file: path of the PNG file.
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
    save(figure, file)


def draw_segmentations(rows, class_names, file, titles=("prediction",)):
    """Draws images next to their true and predicted segmentation maps.

    Ignored pixels are white in the ground truth. The legend lists the classes that
    occur in the maps.

    Args:
        rows: for each image: the image, a `PIL.Image` or an array; its true classes,
            uint8 of shape `(height, width)`, 255 for ignored pixels; and the
            prediction of each model.
        class_names: names of all classes, in order.
        file: path of the PNG file.
        titles: titles of the models.
    """
    from matplotlib.patches import Patch

    colors = np.full((256, 3), 255, "uint8")
    colors[: len(class_names)] = palette(len(class_names))
    heights = [2.6 * row[1].shape[0] / row[1].shape[1] + 0.1 for row in rows]
    seen = np.unique(np.concatenate([maps.ravel() for row in rows for maps in row[1:]]))
    seen = [number for number in seen if number < len(class_names)]
    titles = ("image", "truth", *titles)
    columns = 2 * len(titles) - 1  # of the legend
    height = sum(heights) + 0.6 + 0.22 * -(-len(seen) // columns)
    figure = new_figure(2.7 * len(titles), height)
    axes = figure.subplots(
        len(rows), len(titles), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for row, (image, *maps) in zip(axes, rows, strict=True):
        shown = (image, *(colors[each] for each in maps))
        for axis, each in zip(row, shown, strict=True):
            axis.imshow(each, interpolation="nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8 if len(title) > 20 else 10)
    patches = [Patch(color=tuple(colors[i] / 255), label=class_names[i]) for i in seen]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=columns, fontsize=8
    )
    save(figure, file)


def short_titles(names):
    """Shortens model names: paths keep just enough trailing parts to be distinct."""
    paths = [Path(name) for name in names]
    paths = [path.parent if path.name == "model.keras" else path for path in paths]
    for number in range(1, max(len(path.parts) for path in paths) + 1):
        short = ["/".join(path.parts[-number:]) for path in paths]
        if len(set(short)) == len(short):
            return short
    return list(names)


def palette(number):
    """Returns distinct colors for a number of classes, uint8 of shape `(number, 3)`.

    Each color is the one on a grid farthest from white and all earlier colors in CIE
    L*a*b*, where distance approximates perceived difference. The first colors do not
    depend on the number.
    """
    steps = np.linspace(0, 255, 14).round().astype("uint8")
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _lab(grid)
    distance = np.linalg.norm(lab - _lab(np.array([[255, 255, 255]])), axis=1)
    chosen = []
    for _ in range(number):
        chosen.append(distance.argmax())
        from_last = np.linalg.norm(lab - lab[chosen[-1]], axis=1)
        distance = np.minimum(distance, from_last)
    return grid[chosen]


def _lab(colors):
    """Converts sRGB values of 0–255 to CIE L*a*b* with the D65 white point."""
    values = colors / 255
    linear = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    xyz = linear @ np.array(
        [
            [0.4124, 0.2126, 0.0193],
            [0.3576, 0.7152, 0.1192],
            [0.1805, 0.0722, 0.9505],
        ]
    )
    xyz = xyz / [0.9505, 1.0, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def new_figure(width, height):
    """Creates an empty figure; width and height are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def line_styles(number):
    """Returns color, style and marker for a number of lines."""
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
    """Draws the norm for all attention to three tokens; corners are single tokens."""
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


def _light_up(photo, maps, grid):
    """Scales a photo's brightness by the attention of the class token, the first."""
    spatial = maps[:, 0, -grid[0] * grid[1] :].mean(axis=0).reshape(grid)
    sides = np.array(photo.shape[:2]) // grid
    light = np.kron(spatial / spatial.max(), np.ones(sides))
    return np.rint(photo * (0.15 + 0.85 * light[..., None])).astype("uint8")
