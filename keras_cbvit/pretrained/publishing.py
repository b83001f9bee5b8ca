"""Publishes trained models with records and model cards."""

import contextlib
import dataclasses
import datetime
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cbvit.classes import check_names, difference
from keras_cbvit.files import InMemory, lock_file, write
from keras_cbvit.internals import layers_within
from keras_cbvit.models.base import ZooModel
from keras_cbvit.models.registry import UPERNET, architecture_of, known_models
from keras_cbvit.models.segmentation import SegmentationModel
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained.agreement import check_agreement, random_images
from keras_cbvit.pretrained.cache import sha256
from keras_cbvit.pretrained.records import (
    CATALOG,
    NAME,
    Evaluation,
    Preprocessing,
    WeightsRecord,
    check_record,
    format_catalog,
)
from keras_cbvit.pretrained.sources import Folder

LOCK = ".publishing.lock"
LOCK_SECONDS = 60  # time to wait for another publisher


def publish(
    model: ZooModel,
    name: str,
    directory: str | os.PathLike,
    *,
    evaluations: list[Evaluation],
    trained_on: str,
    recipe: str,
    license: str,
    crop_fraction: float = 1.0,
    class_names: Sequence[str] | None = None,
    notes: str = "",
    images: np.ndarray | None = None,
    url: str | None = None,
    overwrite: bool = False,
) -> WeightsRecord:
    """Publishes a model as a `.keras` file with a record and a model card.

    The model is converted to float32, whatever precision it was trained in. The
    converted model, and the file once it is loaded, must predict the same as the
    original. The file, its card and its record in `catalog.json` are then written
    together or not at all. The names of file and card start with `name` and the first
    12 digits of the file's SHA-256.

    Args:
        model: a `VisionTransformer` or a `SegmentationModel`.
        name: `architecture.tag`, for instance `"vitcb_s.imagenet"`; names of UperNets
            start with `upernet_`.
        directory: folder to publish into, created if necessary.
        evaluations: measured results.
        trained_on: the training data.
        recipe: the command that trained the model.
        license: SPDX identifier of the file's license.
        crop_fraction: the fraction of an image that a center crop keeps.
        class_names: names of the classes in the order of the predictions, saved in the
            file. Defaults to the model's own; empty for a model without a head.
        notes: additional Markdown for the card, for instance seeds and limitations.
        images: images to compare predictions on, of shape `(batch, height, width,
            channels)`. Defaults to random images; required for a model of any size.
        url: URL of the file, if it is not stored beside the catalog.
        overwrite: whether to replace published weights of this name.

    Returns:
        The `WeightsRecord`.

    Raises:
        ValueError: if the model is of another class or does not match the name, a
            weight is not finite, class names are missing or do not match the model,
            images are missing for a model of any size, or predictions differ.
        FileExistsError: if weights of this name exist and `overwrite` is false.
    """
    directory = Path(directory)
    check_publishable(model, name, directory, overwrite)
    names = _names_to_publish(model, class_names)
    if images is None:
        images = random_images(model)
    published = in_float32(model)
    published.class_names = names or None
    _check_finite(published)
    check_agreement(model, published, images, "the float32 model")

    saved = InMemory(f"{name}.keras")
    published.save(saved)
    content = saved.getbuffer()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.keras"
        file.write_bytes(content)
        read_back = keras.saving.load_model(file, compile=False)
        digest = sha256(file)
    check_agreement(published, read_back, images, "the file")
    record = WeightsRecord(
        name=name,
        sha256=digest,
        bytes=len(content),
        architecture={"class": type(model).__name__, **model.own_config},
        parameters=published.count_params(),
        input_shape=list(model.input_shape[1:]),
        preprocessing=preprocessing_of(model, crop_fraction),
        class_names=list(names),
        evaluations=list(evaluations),
        trained_on=trained_on,
        recipe=recipe,
        license=license,
        keras_version=keras.__version__,
        date=datetime.date.today().isoformat(),
        url=url,
    )
    check_record(record)
    directory.mkdir(parents=True, exist_ok=True)
    with _lock(directory):
        _put(record, content, model_card(record, notes), directory, overwrite)
    return record


def preprocessing_of(model: keras.Model, crop_fraction: float = 1.0) -> Preprocessing:
    """Returns the preprocessing of a model: image size, crop and normalization."""
    size = list(model.input_shape[1:3])
    found = Preprocessing(None if None in size else size, float(crop_fraction))
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ViTSpec):
        return found
    return dataclasses.replace(
        found,
        model_normalizes=spec.include_preprocessing,
        mean=list(spec.mean),
        std=list(spec.std),
    )


def _put(record, content, card, directory, overwrite):
    """Writes a file, its card and its record into a locked folder.

    File and card have unique names per version, and the catalog is replaced atomically.
    So whenever the process is interrupted, either the old or the new version is the
    published one.
    """
    for partial in directory.glob("partial.*"):
        partial.unlink()  # from a process that was killed
    records = Folder(directory).records()
    _refuse_published(record.name, records, directory, overwrite)
    records[record.name] = record
    new = {
        directory / record.filename: content,
        directory / f"{record.stem}.md": card.encode(),
    }
    existing = [path for path in new if path.exists()]
    try:
        for path, each in new.items():
            write(path, each)
        write(directory / CATALOG, format_catalog(records.values()).encode())
    except BaseException:
        for path in new:
            if path not in existing:
                path.unlink(missing_ok=True)
        raise
    for path in directory.glob(f"{record.name}-*"):
        is_version = re.fullmatch(
            "[0-9a-f]{12}", path.stem.removeprefix(f"{record.name}-")
        )
        if is_version and path not in new:
            path.unlink()


def check_publishable(
    model: ZooModel, name: str, directory: str | os.PathLike, overwrite: bool = False
) -> None:
    """Raises the errors of `publish` for a model, a name and a directory.

    Call it before a long training.
    """
    if not isinstance(model, VisionTransformer | SegmentationModel):
        raise ValueError(
            f"model is a {type(model).__name__}, not a VisionTransformer or "
            "SegmentationModel."
        )
    if any(layer.quantization_mode for layer in layers_within(model)):
        raise ValueError("The model is quantized; publish it before quantization.")
    check_weights_name(model, name)
    if Path(directory).is_dir():
        _refuse_published(name, Folder(directory).records(), directory, overwrite)


def check_weights_name(model: ZooModel, name: str) -> None:
    """Raises a ValueError unless `name` is valid for the weights of a model.

    Only a ViTCB_S can be `vitcb_s.imagenet`; a model that is not registered can have
    any architecture name that is not registered. Names of UperNets, and no others,
    start with `upernet_`.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(
            f"name={name!r} must be architecture.tag in lowercase letters, digits and "
            "underscores, for instance 'vitcb_s.imagenet'."
        )
    actual, architecture = architecture_of(model), name.partition(".")[0]
    segments = isinstance(model, SegmentationModel)
    is_other = actual is not None or architecture in known_models()
    if architecture != actual and is_other and segments and actual is None:
        raise ValueError(
            f"name={name!r} requires a model with model.name={architecture!r}; if this "
            f"model has that size, build it with name={architecture!r}."
        )
    if architecture != actual and is_other:
        raise ValueError(
            f"name={name!r} does not match this model, which is "
            + (f"a {actual}." if actual else "not a registered one.")
        )
    if architecture.startswith(UPERNET) != segments:
        raise ValueError(
            f"name={name!r} does not match this model: names of UperNets, and no "
            f"others, start with {UPERNET}."
        )


def _names_to_publish(model, given):
    """Returns the class names to publish; none for a model without a head."""
    own, number = model.class_names, model.num_classes
    if given is None:
        if own is None and number:
            raise ValueError("The model has no class names; pass class_names.")
        return own or ()
    names = check_names(given, number or 0)
    if own and (other := difference("class_names", names, "the model", own)):
        raise ValueError(f"class_names differ from those of the model: {other}.")
    return names


def _refuse_published(name, records, directory, overwrite):
    if name in records and not overwrite:
        raise FileExistsError(
            f"{Path(directory) / CATALOG} already lists {name}; use another name or "
            "overwrite it."
        )


def in_float32(
    model: keras.Model, classifier_activation: str | None = None
) -> keras.Model:
    """Returns a copy of a model in float32, see `in_precision`."""
    return in_precision(model, "float32", classifier_activation)


def in_precision(
    model: keras.Model, dtype: str, classifier_activation: str | None = None
) -> keras.Model:
    """Returns a copy of a model in another precision, with LoRA merged.

    The weights are copied through an in-memory weights file, in which Keras merges
    LoRA.

    Args:
        model: a `VisionTransformer` or another functional model.
        dtype: dtype of the weights and the computation, for instance `"float16"`.
        classifier_activation: new activation for the head of a `VisionTransformer`.
    """
    config = _with_policy(model.get_config(), dtype)
    if classifier_activation is not None:
        spec = {**config["spec"], "classifier_activation": classifier_activation}
        config["spec"] = spec
    copy = type(model).from_config(config)
    file = InMemory("model.weights.h5")
    model.save_weights(file)
    copy.load_weights(file)
    return copy


def _with_policy(config, name) -> Any:
    """Replaces the dtype policy of all layers in a model's configuration."""
    if isinstance(config, list | tuple):
        return type(config)(_with_policy(each, name) for each in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {"name": name}}
    return {key: _with_policy(value, name) for key, value in config.items()}


def model_card(record: WeightsRecord, notes: str = "") -> str:
    """Returns the model card of a record as Markdown."""
    facts = {
        "Trained on": record.trained_on,
        "Images": f"{_shape_text(record.input_shape)}, values 0–255",
        "Classes": len(record.class_names) or "none, the model has no head",
        "Parameters": f"{record.parameters:,}",
        "File": f"`{record.filename}`, {record.bytes:,} bytes, float32",
        "SHA-256": f"`{record.sha256}`",
        "License": record.license,
        "Published": f"{record.date}, Keras {record.keras_version}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    measured = "\n".join(
        f"- {evaluation.dataset}, {evaluation.split}, {evaluation.images:,} images: "
        + ", ".join(f"{name} {value:.4g}" for name, value in evaluation.metrics.items())
        + (f"; {evaluation.notes}" if evaluation.notes else "")
        + f"\n\n  ```\n  {evaluation.command}\n  ```"
        for evaluation in record.evaluations
    )
    return (
        f"# {record.name}\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        "## Use\n\n"
        "```python\n"
        "import keras_cbvit\n\n"
        f"{_use_text(record)}\n"
        "```\n\n"
        f"## Results\n\n{measured or 'Not evaluated.'}\n\n"
        "## Training\n\n"
        f"```\n{record.recipe}\n```\n" + (f"\n{notes.strip()}\n" if notes else "")
    )


def _shape_text(shape):
    if None in shape:
        return f"any height and width divisible by the patch size, {shape[-1]} channels"
    return "×".join(map(str, shape))


def _use_text(record):
    if record.name.startswith(UPERNET):
        return (
            f'model = keras_cbvit.load_model("{record.name}")\n'
            "predictions = keras_cbvit.predict_whole(model, images)\n"
            "names = model.class_names"
        )
    return f'model = keras_cbvit.ViTCB(weights="{record.name}")'


def _check_finite(model):
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ValueError(
                f"The weight {weight.path} is not finite, so training has diverged; "
                "publish an earlier checkpoint."
            )


@contextlib.contextmanager
def _lock(directory):
    """Locks the folder against concurrent changes of the catalog."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_file(directory / LOCK, LOCK_SECONDS))
        except TimeoutError:
            raise TimeoutError(
                f"Another process has been publishing into {directory} for "
                f"{LOCK_SECONDS} seconds; try again when it has finished."
            ) from None
        yield
