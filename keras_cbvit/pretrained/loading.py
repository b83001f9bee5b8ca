"""From a verified file to a model that has its weights, all of them."""

import h5py
import keras
import numpy as np

from keras_cbvit.pretrained.architectures import as_segmentation_model
from keras_cbvit.pretrained.classes import checked_names, difference
from keras_cbvit.pretrained.contents import (
    MODEL,
    check_h5,
    check_saved,
    check_size_of,
    check_values,
    damaged,
    model_config,
    saved_config,
)
from keras_cbvit.pretrained.files import located
from keras_cbvit.pretrained.functions import name_scope, refuse_other_function
from keras_cbvit.pretrained.position_embedding import resample_position_embedding

POSITION_EMBEDDING = "class_token_and_position/position_embedding"
HEAD = "head/"
CHANNEL_SCALE = "context_broadcast/scale"
# Two models that differ in one of these cannot share weights, or not their meaning.
ARCHITECTURE = ("hidden_dim", "depth", "num_heads", "mlp_ratio", "patch_size")


def load_model(weights):
    """Loads a whole model: of published weights, or of a `.keras` file.

    For models that are used as they are, such as published UperNets. For a Vision
    Transformer with another head, size or dtype, see `ViTCB`.

    Args:
        weights: a full name such as `"vitcb_s.imagenet"`, see `list_weights()`, or the
            path of a `.keras` file. The file of a name is verified, and fetched if need
            be.

    Returns:
        The `keras.Model` in the file, not compiled. A model of this package has
        `class_names`, those of its record if its file is older than they are.

    Raises:
        ValueError: on an unknown name, a file that is damaged or has no model, or a
            model with parts that Keras does not know or would not load, or whose class
            names are not those of its record.
        FileNotFoundError: on the path of a file that does not exist.
        OSError: if the file cannot be fetched, or is not the one of its record.
    """
    path, record = located(weights)
    if path.suffix != ".keras":
        raise ValueError(
            f"{path} holds weights alone, without their model; build the model with "
            "ViTCB(weights=...) and its other arguments."
        )
    found = model_config(path)
    if found.get("registered_name") == MODEL:
        check_saved(path, found["config"])
    else:
        check_size_of(path, found)
    try:
        model = keras.saving.load_model(path, compile=False)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds, by whatever is built of the file
        if "Could not locate" in str(error):
            raise ValueError(
                f"{path} has parts that are neither Keras's nor this package's "
                f"({_cause(error)}); register them, or load it with "
                "keras.saving.load_model(..., custom_objects=...)."
            ) from error
        if "safe_mode" in str(error):
            raise ValueError(
                f"{path} has a Lambda layer, which would run code of the file; if you "
                "trust it, load it with keras.saving.load_model(..., safe_mode=False)."
            ) from error
        raise damaged(path, error) from error
    check_values(path, model)
    model = as_segmentation_model(model)
    if record is not None:
        name_classes(model, record)
    return model


def name_classes(model, record):
    """Gives a model the class names of its record, if it has none.

    Raises:
        ValueError: if it has others.
    """
    names = record.class_names
    # A record may be of another kind of model, or have one name for two classes.
    if not hasattr(model, "class_names") or not names or len(set(names)) < len(names):
        return
    what = f"class_names of the record {record.name!r}"
    if model.class_names is None:
        model.class_names = names
    elif other := difference(
        "the record", checked_names(names, what=what), "the file", model.class_names
    ):
        raise ValueError(f"{what} are not those of its file: {other}.")


def refuse_other_model(model):
    """Raises a ValueError unless a model is a `VisionTransformer` of this package."""
    if keras.saving.get_registered_name(type(model)) != MODEL:
        raise ValueError(
            f"model is a {type(model).__name__}, not a VisionTransformer as ViTCB and "
            "its sizes give it. (A clone is not one: use "
            "type(model).from_config(model.get_config()) for a copy.)"
        )


def refuse_other_architecture(path, saved, given):
    """Raises a ValueError if a file's model cannot share weights with the asked one."""
    for key in ARCHITECTURE:
        if key in saved and key in given and saved[key] != given[key]:
            raise ValueError(
                f"The weights of {path} are of another architecture: their {key} is "
                f"{saved[key]}, not {given[key]}. Use a file of this model, or "
                "ViTCB(weights=...), which takes the architecture of the file."
            )


def load_pretrained(
    model, path, new_classes=False, record=None, allow_other_function=False
):
    """Gives a model the weights of a file, and with its head the class names.

    Only what the caller asked to differ is not from the file: a head for another
    number of classes, or the Λ of CB_S where the file has none.

    Args:
        model: a `VisionTransformer`.
        path: a `.keras` or `.weights.h5` file.
        new_classes: whether the caller asked for the model's number of classes, so
            that a head of another number may be reinitialized.
        record: of the file, if it has one.
        allow_other_function: whether the model may compute something else with the
            weights than that of the file.

    Raises:
        ValueError: if the weights do not fit the model, the file's model computes
            something else with them, or the file is damaged.
    """
    config = model.get_config()
    source_config = saved_config(path) or _config_of_h5(path, config)
    new_head = _needs_new_head(path, config, source_config, new_classes)
    source_config = {**config, **source_config, "dtype": "float32"}
    source = type(model).from_config(source_config)
    if not allow_other_function:
        refuse_other_function(path, source, model, new_head)
    try:
        if path.suffix == ".h5":
            _refuse_other_number(path, source)
        source.load_weights(path)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds, by h5py
        if path.suffix == ".keras":
            raise damaged(path, error) from error
        raise ValueError(
            f"The weights of {path} do not fit this model, or are damaged. A "
            ".weights.h5 file does not say what model it is of: give the arguments it "
            f"was built with, or use a .keras file. {error!s:.300}"
        ) from error
    check_values(path, source)
    transfer_weights(source, model, new_head, path)
    if config["include_top"] and not new_head:
        if record is not None:
            name_classes(source, record)
        model.class_names = source.class_names


def transfer_weights(source, model, new_head=False, path="the source"):
    """Copies every weight of one Vision Transformer into another.

    The position embedding is resampled where the grids of patches differ.

    Args:
        source: the model to copy from.
        model: the model to copy to.
        new_head: whether the head of `model` stays as it is.
        path: what to call `source` in messages.

    Raises:
        ValueError: if a weight has no counterpart, or one of another shape, before
            anything is copied. A model may lack the source's head, and may have a Λ
            that the source lacks.
    """

    def is_head(name):
        return name.startswith(HEAD)

    values = {name: weight.numpy() for name, weight in weights_by_name(source).items()}
    targets = weights_by_name(model)
    if new_head:
        values = {name: v for name, v in values.items() if not is_head(name)}
        targets = {name: w for name, w in targets.items() if not is_head(name)}
    if POSITION_EMBEDDING in values and _grid(source) != _grid(model):
        values[POSITION_EMBEDDING] = resample_position_embedding(
            values[POSITION_EMBEDDING], _grid(source), _grid(model)
        )
    targets = {
        name: weight
        for name, weight in targets.items()
        if name in values or not name.endswith(CHANNEL_SCALE)
    }
    headless = not any(map(is_head, targets))
    missing = sorted(targets.keys() - values.keys())
    left_over = sorted(
        name
        for name in values.keys() - targets.keys()
        if not (headless and is_head(name))
    )
    other_shape = sorted(
        f"{name} {values[name].shape} for {tuple(weight.shape)}"
        for name, weight in targets.items()
        if name in values and values[name].shape != tuple(weight.shape)
    )
    refuse_mismatch(path, missing, left_over, other_shape)
    for name, weight in targets.items():
        weight.assign(values[name])


def weights_by_name(model):
    """A model's weights by their paths, without the name scope it was built in."""
    scope = name_scope(model)
    return {weight.path.removeprefix(scope): weight for weight in model.weights}


def refuse_mismatch(source, missing, left_over, other_shape):
    """Raises a ValueError that lists the names, if there are any."""
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("missing in the source", missing),
            ("left over in the source", left_over),
            ("of another shape", other_shape),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"The weights of {source} do not fit this model; nothing was loaded. "
            + "; ".join(problems)
            + "."
        )


def _grid(model):
    config = model.get_config()
    return tuple(side // config["patch_size"] for side in config["input_shape"][:2])


def _needs_new_head(path, config, source_config, new_classes):
    """Whether the head is reinitialized, which only the caller may ask for."""
    if not config["include_top"]:
        return False
    if not source_config["include_top"]:
        found = "has no classification head"
    elif source_config["classes"] != config["classes"]:
        found = f"has a head for {source_config['classes']} classes"
    else:
        return False
    if not new_classes:
        raise ValueError(
            f"{path} {found}, which disagrees with include_top=True and the default "
            f"classes={config['classes']}: give classes=... for a head that starts "
            "anew, or include_top=False."
        )
    return True


def _config_of_h5(path, config):
    """What the shapes in a `.weights.h5` file tell of the model it was saved from."""
    check_h5(path)
    try:
        with h5py.File(path) as file:
            shapes = {
                layer["vars"].attrs.get("name"): [
                    v.shape for v in layer["vars"].values()
                ]
                for layer in file["layers"].values()
            }
            tokens = shapes["class_token_and_position"][1][1] - 1
            source = {"include_top": "head" in shapes}
            if source["include_top"]:
                source["classes"] = shapes["head"][0][-1]
    except Exception as error:  # of many kinds, by h5py
        raise damaged(path, error) from error
    patch_size = config["patch_size"]
    grid = tuple(side // patch_size for side in config["input_shape"][:2])
    if tokens != np.prod(grid):
        side = round(tokens**0.5)
        if side**2 != tokens:
            raise ValueError(
                f"{path} holds position embeddings of {tokens} patches, which is not "
                f"the {grid[0]}x{grid[1]} of input_shape={config['input_shape']} and "
                "not a square. Build the model with the input_shape it was saved with."
            )
        channels = config["input_shape"][2]
        source["input_shape"] = (side * patch_size, side * patch_size, channels)
    return source


def _refuse_other_number(path, model):
    """Keras passes over what it has no place for, such as blocks, or a Λ."""
    names = []
    with h5py.File(path) as file:
        file["layers"].visititems(
            lambda name, item: names.append(name) if hasattr(item, "shape") else None
        )
    number = sum("seed_generator" not in name for name in names)
    if number != len(model.weights):
        raise ValueError(
            f"The file holds {number} weights, the model has {len(model.weights)}."
        )


def _cause(error):
    """The innermost of Keras's sentences, without the configuration that follows."""
    cause = str(error).rpartition("Exception encountered: ")[2]
    return cause.partition("\n")[0].partition(". ")[0]
