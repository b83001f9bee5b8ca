"""Converts a folder of weights that was published before version 0.1.

    python weights/convert.py FOLDER

The catalog had one measured value for each file, and the configurations of the models
had other arguments and names. Each model is built again with the same weights, so that
it predicts the same to the bit; the old files are removed when all new ones are
written.
"""

import io
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import keras

import keras_cbvit
from keras_cbvit import hdf5
from keras_cbvit.pretrained.records import CATALOG

# Layers whose names have changed.
NAMES = {"class_token_and_position": "token_embedding"}


def convert_folder(folder):
    """Converts the catalog of a folder and all files it lists."""
    old = json.loads((folder / CATALOG).read_text())["weights"]
    before = [*folder.glob("*.keras"), *folder.glob("*.md")]
    # Whatever fails, the folder is as it was until all files are converted.
    new = folder / "converted"
    for entry in old:
        stem = f"{entry['name']}-{entry['sha256'][:12]}"
        model = convert_file(folder / f"{stem}.keras")
        record = keras_cbvit.publish(
            model,
            entry["name"],
            new,
            evaluations=[_evaluation(entry, model)],
            trained_on=entry["dataset"],
            recipe=_new_words(entry["recipe"]),
            license=entry["licence"],
            class_names=entry["class_names"],
            notes=_new_words(_notes(folder / f"{stem}.md")),
            images=_images(model),
            url=entry.get("url"),
            overwrite=True,  # what a conversion that failed has left
        )
        print(f"{entry['name']}: {stem}.keras is {record.filename} now.")
    for path in new.glob("*"):
        if path.suffix in (".keras", ".md"):
            path.replace(folder / path.name)
    (new / CATALOG).replace(folder / CATALOG)
    shutil.rmtree(new)
    for path in before:
        path.unlink(missing_ok=True)


def convert_file(path):
    """The model of an old `.keras` file, with its weights."""
    with zipfile.ZipFile(path) as archive:
        found = json.loads(archive.read("config.json"))
        weights = hdf5.read_weights(io.BytesIO(archive.read("model.weights.h5")))
    weights = {NAMES.get(path, path): values for path, values in weights.items()}
    if found["class_name"] == "VisionTransformer":
        model = _vision_transformer(found["config"])
    else:
        model = _upernet(found["config"])
    targets = {}
    for name, weight in model.weights_by_name().items():
        targets.setdefault(name.rpartition("/")[0], []).append(weight)
    assert targets.keys() == weights.keys(), targets.keys() ^ weights.keys()
    for path, each in targets.items():
        for weight, value in zip(each, weights[path], strict=True):
            weight.assign(value)
    return model


def _vision_transformer(config):
    state = {
        key: config[key]
        for key in ("name", "class_names", "trainable")
        if key in config
    }
    fields = keras_cbvit.ViTSpec.__dataclass_fields__
    given = {key: value for key, value in config.items() if key in fields}
    given["broadcast"] = given["broadcast"] or "none"
    if not config["include_top"]:
        given["classes"] = None
    return keras_cbvit.VisionTransformer(given, **state)


def _upernet(config):
    """A UperNet of the graph that its file had."""
    layers = {each["config"]["name"]: each for each in config["layers"]}
    blocks = [layers[n]["config"] for n in layers if re.fullmatch(r"block_\d+", n)]
    maps = sorted(int(n[4:]) for n in layers if re.fullmatch(r"map_\d+", n))
    tokens = layers["class_token_and_position"]["config"]
    patches, head = (layers[n]["config"] for n in ("patch_embedding", "uper_head"))
    broadcast, places = _broadcast(blocks[-1])
    spec = keras_cbvit.ViTSpec(
        input_shape=(None, None, 3),
        position_grid=_plain(tokens["grid"]),
        patch_size=patches["patch_size"],
        hidden_dim=patches["hidden_dim"],
        depth=len(blocks),
        num_heads=blocks[0]["num_heads"],
        mlp_ratio=blocks[0]["mlp_dim"] / patches["hidden_dim"],
        broadcast=broadcast,
        broadcast_place=places,
        drop_path_rate=blocks[-1]["drop_path_rate"],
        classes=None,
        pooling=None,
    )
    vit = keras_cbvit.VisionTransformer(spec, name=_vit_name(config["name"]))
    return keras_cbvit.SegmentationModel(
        keras_cbvit.FeaturePyramid(vit, maps),
        head["classes"],
        head["channels"],
        layers["predictions"]["config"]["activation"]
        if layers["predictions"]["config"]["activation"] != "linear"
        else None,
        name=config["name"],
        class_names=config.get("class_names"),
    )


def _broadcast(block):
    """The kind of CB in a block's configuration, and its place."""
    places = ("msa_end", "mlp_front", "mlp_mid", "mlp_end")
    found = [place for place in places if block[place]]
    if not found:
        return "none", "mlp_end"
    scale = block[found[0]]["config"]["scale"]
    return "cbs" if scale else "cb", "both" if len(found) == 2 else found[0]


def _vit_name(name):
    return name.removeprefix("upernet_") if name.startswith("upernet_") else None


def _plain(value):
    """A tuple of a configuration, which Keras marks."""
    return value["config"]["value"] if isinstance(value, dict) else value


def _evaluation(entry, model):
    """The measured value of an old record."""
    name, tag = entry["name"], entry["name"].partition(".")[2]
    is_upernet = isinstance(model, keras_cbvit.SegmentationModel)
    numbers = re.findall(r"([\d,]+) (?:test images|whole images)", entry["measured_on"])
    command = f"python -m recipes.evaluate {name} --data-dir DIR"
    if not is_upernet:
        return keras_cbvit.Evaluation(
            task="classification",
            dataset=tag,
            split="test",
            metrics={"top1": entry["value"]},
            images=int(numbers[0].replace(",", "")),
            command=command,
            notes=entry["measured_on"].partition(", ")[2],
        )
    dataset, split, *rest = entry["measured_on"].split(", ")
    height, width = map(int, re.search(r"(\d+)×(\d+)", entry["measured_on"]).groups())
    return keras_cbvit.Evaluation(
        task="segmentation",
        dataset=dataset,
        split=split,
        metrics={"mean_iou": entry["value"]},
        images=int(numbers[0].replace(",", "")),
        command=command,
        options={
            "class_names": entry["class_names"],
            "ignored_label": len(entry["class_names"]),
            "scale": [height, width],
        },
        notes=", ".join(rest),
    )


def _notes(card):
    """What a card says after the recipe."""
    return card.read_text().partition("## Made by\n\n```\n")[2].partition("\n```\n")[2]


def _new_words(text):
    for old, new in (
        ("--broadcast None", "--broadcast none"),
        ("pictures", "images"),
        ("labelled", "labeled"),
    ):
        text = text.replace(old, new)
    return re.sub(r"Measured again, on any backend, by\n\n```\n.*?\n```\n\n", "", text)


def _images(model):
    if None not in model.input_shape[1:]:
        return None
    return keras.random.uniform((1, 48, 48, 3), 0, 255, seed=0)


if __name__ == "__main__":
    convert_folder(Path(sys.argv[1]))
