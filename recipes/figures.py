"""Pictures of what analysis and segmentation find, for every eye and for printing.

Colors are Okabe and Ito's, which the color-blind can tell apart; lines differ in
style and marker as well, so that a print in black and white can be read.
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
    """Writes a figure as PNG, as a whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write(Path(file), content.getbuffer())


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
    save(figure, file)


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
    save(figure, file)


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
    save(figure, file)


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
    save(figure, file)


def draw_segmentations(rows, class_names, file, titles=("prediction",)):
    """Draws pictures beside the classes of their pixels, true and predicted.

    Pixels that do not count are white in the truth. The legend has the classes that
    are seen.

    Args:
        rows: for each picture itself, a `PIL.Image` or an array; its true classes,
            uint8 of shape `(height, width)`, 255 where a pixel does not count; and what
            each model predicts.
        class_names: of all classes, in order.
        file: where to.
        titles: what the models are called.
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
    for row, (picture, *maps) in zip(axes, rows, strict=True):
        images = (picture, *(colors[each] for each in maps))
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8 if len(title) > 20 else 10)
    patches = [Patch(color=tuple(colors[i] / 255), label=class_names[i]) for i in seen]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=columns, fontsize=8
    )
    save(figure, file)


def short_titles(names):
    """Short names of models: of a path as many of its last parts as tell it apart."""
    paths = [Path(name) for name in names]
    paths = [path.parent if path.name == "model.keras" else path for path in paths]
    for number in range(1, max(len(path.parts) for path in paths) + 1):
        short = ["/".join(path.parts[-number:]) for path in paths]
        if len(set(short)) == len(short):
            return short
    return list(names)


def palette(number):
    """Colors that tell so many classes apart, uint8 of shape `(number, 3)`.

    Each is the one of a grid that is farthest from all before it, and from white, in
    CIE L*a*b*, where distance is what the eye sees. So the first colors are the same
    however many follow.
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
    """CIE L*a*b* of sRGB values of 0–255, under the white of D65."""
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
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def looks(number):
    """Color, style and marker of so many lines."""
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
