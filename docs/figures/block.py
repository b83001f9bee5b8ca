"""The README's figure: where CB sits in a ViT block, and attention over a photograph.

    pip install ".[torch,recipes]"
    KERAS_BACKEND=torch python -m docs.figures.block docs/figures/block.png

The models are published ones that come with the package. The photograph, by Daniel
Buechele under CC BY 2.0, comes with scikit-learn.
"""

import sys

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from sklearn.datasets import load_sample_image

import keras_cbvit
from keras_cbvit.analysis import attention_entropy, attention_maps
from keras_cbvit.analysis.attention import token_grid
from keras_cbvit.images import fit
from recipes.figures import COLORS, new_figure, save

NAMES = {"plain": "vit_mini.cifar10", "CB": "vitcb_mini.cifar10"}
PHOTO = "china.jpg"


def main(file):
    figure = new_figure(11, 3.6)
    block, *axes = figure.subplots(1, 4, gridspec_kw={"width_ratios": (1.5, 1, 1, 1)})
    _draw_block(block)
    photo = Image.fromarray(load_sample_image(PHOTO))
    square = fit(photo, (320, 320))
    axes[0].imshow(square)
    axes[0].set_title("photograph", fontsize=10)
    # One scale for both maps, so that they can be compared.
    maps = {title: _class_attention(name, photo) for title, name in NAMES.items()}
    most = max(spatial.max() for spatial, _ in maps.values())
    for axis, (title, (spatial, entropy)) in zip(axes[1:], maps.items(), strict=True):
        axis.imshow(square)
        patches = np.kron(spatial, np.ones(np.array(square.shape[:2]) // spatial.shape))
        shown = axis.imshow(patches, vmin=0, vmax=most, cmap="magma", alpha=0.75)
        axis.set_title(f"{title}, last block: {entropy:.2f} nats", fontsize=10)
        print(f"{title}: entropy {entropy:.4f} nats")
    figure.colorbar(shown, ax=axes, label="attention of the class token", shrink=0.62)
    for axis in (block, *axes):
        axis.axis("off")
    save(figure, file)


def _class_attention(name, photo):
    """What the class token gives to each patch in the last block, and the entropy."""
    model = keras_cbvit.load_model(name)
    image = fit(photo, model.input_shape[1:3])
    maps = attention_maps(model, image[None])[-1]
    rows, columns = token_grid(model)
    spatial = maps[0, :, 0, -rows * columns :].mean(axis=0).reshape(rows, columns)
    entropy = np.asarray(attention_entropy(maps)).mean()
    return spatial, entropy


def _draw_block(axis):
    """One block: two branches, each added to what it started from."""
    axis.set_xlim(0, 10)
    axis.set_ylim(-0.5, 12.5)
    parts = (
        (1.0, "LayerNorm"),
        (2.6, "MSA (attention)"),
        (5.8, "LayerNorm"),
        (7.4, "MLP"),
        (9.0, "Context Broadcasting"),
    )
    for height, label in parts:
        is_cb = label.startswith("Context")
        axis.add_patch(
            FancyBboxPatch(
                (1.2, height),
                5.4,
                1.1,
                boxstyle="round,pad=0.05",
                facecolor=COLORS[1] if is_cb else "#eeeeee",
                edgecolor="black",
            )
        )
        color = "white" if is_cb else "black"
        axis.text(3.9, height + 0.55, label, ha="center", va="center", color=color)
    for start, end in ((-0.4, 1.0), (2.1, 2.6), (3.7, 5.8), (6.9, 7.4), (8.5, 9.0)):
        axis.add_patch(_arrow((3.9, start), (3.9, end)))
    axis.add_patch(_arrow((3.9, 10.1), (3.9, 12.4)))
    for below, above in ((0.3, 4.5), (5.2, 11.0)):
        axis.plot((3.9, 8.0, 8.0), (below, below, above), color="black", lw=1)
        axis.add_patch(_arrow((8.0, above), (4.2, above)))
        axis.text(3.9, above, "+", ha="center", va="center", **_PLUS)
    axis.set_title("ViT block with CB: x ← ½ x + ½ mean(x)", fontsize=10)


_PLUS = {"bbox": {"boxstyle": "circle,pad=0.1", "fc": "white", "ec": "black"}}


def _arrow(start, end):
    return FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=8, color="black"
    )


if __name__ == "__main__":
    main(sys.argv[1])
