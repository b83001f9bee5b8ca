"""Base classes of the models."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import keras

from keras_cbvit import backend, hdf5
from keras_cbvit.annotations import DType
from keras_cbvit.arguments import dtype_policy, flag, name_of_model, refuse
from keras_cbvit.classes import check_names
from keras_cbvit.files import InMemory, write
from keras_cbvit.internals import forget_functions, layers_within
from keras_cbvit.layers.parts import CALIBRATED, check_quantized, quantized_layers


class WholeFileModel(keras.Model):
    """A model that writes its `.keras` file atomically."""

    def save(
        self,
        filepath: Any,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves like Keras, but leaves no partial file if writing fails."""
        path = _local_path(filepath, ".keras")
        prompts = path is not None and path.exists() and not overwrite
        if path is None or zipped is False or prompts:
            super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)
            return
        file = InMemory(path.name)
        super().save(file, **kwargs)
        write(path, file.getbuffer())


class ZooModel(WholeFileModel):
    """A functional model whose configuration holds its arguments, not its graph.

    The configuration also holds what training and quantization have changed, so that a
    `.keras` file rebuilds the model.

    Subclasses define `own_config`, `num_classes` and `anchor`.
    """

    anchor = None
    """Name of a top-level layer of the model, whose path gives the name scope."""
    _class_names = None

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        dtype: DType,
        name: str | None,
        trainable: bool,
        frozen_layers: Sequence[str],
        class_names: Sequence[str] | None,
    ):
        trainable = flag("trainable", trainable)
        name = None if name is None else name_of_model("name", name)
        super().__init__(inputs, outputs, name=name, trainable=trainable)
        self.dtype_policy = dtype
        self.class_names = class_names
        for path, layer in self.layers_by_path().items():
            if path in frozen_layers:
                layer.trainable = False

    @property
    def own_config(self) -> dict[str, Any]:
        """The arguments of the subclass as JSON values."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int | None:
        """Number of classes; `None` without a head."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the predictions; `None` if unknown.

        A tuple of distinct strings, one per class, in Unicode NFC without surrounding
        whitespace. Can be set; the model's file stores it.

        Raises:
            ValueError: when set to invalid names.
        """
        # TensorFlow wraps the attribute.
        return None if self._class_names is None else tuple(self._class_names)

    @class_names.setter
    def class_names(self, names: Any) -> None:
        if names is not None:
            names = check_names(names, self.num_classes or 0)
        self._class_names = names

    @property
    def scope(self) -> str:
        """Prefix of the layers' paths, if the model was built in a name scope."""
        return self.get_layer(self.anchor).path.removesuffix(self.anchor)

    def layers_by_path(self) -> dict[str, keras.layers.Layer]:
        """Returns all layers, nested ones included, by their path in the model."""
        paths = ((layer.path, layer) for layer in layers_within(self))
        return {path.removeprefix(self.scope): each for path, each in paths if path}

    def weights_by_name(self) -> dict[str, keras.Variable]:
        """Returns the weights by their path in the model, which never changes."""
        return {weight.path.removeprefix(self.scope): weight for weight in self.weights}

    def get_config(self) -> dict[str, Any]:
        quantized = {
            path.removeprefix(self.scope): how
            for path, how in quantized_layers(self).items()
        }
        frozen = [
            p for p, layer in self.layers_by_path().items() if not layer.trainable
        ]
        return {
            **self.own_config,
            **({"quantized": quantized} if quantized else {}),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
            "frozen_layers": frozen,
            "class_names": self.class_names and list(self.class_names),
        }

    def quantize(
        self, mode: str | None = None, config: Any = None, **kwargs: Any
    ) -> None:
        """Quantizes like Keras, for the modes that can be used and saved.

        Raises:
            ValueError: if Keras calibrates the mode on text.
        """
        if mode in CALIBRATED:  # Keras reads it from `config` as well
            refuse("mode", mode, "is for text models; use int8, int4 or float8.")
        super().quantize(mode, config=config, **kwargs)
        forget_functions(self)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports like Keras; TensorFlow can also run SavedModels written on JAX.

        `keras_cbvit.export_model` writes more formats and checks each file.
        """
        with backend.trace_for_tensorflow():
            super().export(*args, **kwargs)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves like Keras, and adds a digest to a local `.weights.h5` file.

        Keras writes HDF5 without checksums, so damage would go unnoticed.

        Raises:
            ValueError: if the model has LoRA on quantized kernels.
        """
        check_quantized(layers_within(self))
        before = _file_state(filepath)
        super().save_weights(filepath, *args, **kwargs)
        if _file_state(filepath) != before:  # else the user declined to overwrite
            hdf5.sign(Path(filepath))

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads like Keras, after checking the digest of a local `.weights.h5` file.

        Raises:
            ValueError: if the file is damaged.
        """
        if _file_state(filepath) is not None:
            hdf5.check(Path(filepath))
        return super().load_weights(filepath, *args, **kwargs)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        quantized = config.get("quantized", {})
        model = cls(**{key: config[key] for key in config.keys() - {"quantized"}})
        for how in {json.dumps(each): each for each in quantized.values()}.values():
            model.quantize(
                keras.dtype_policies.get(how["dtype"]).quantization_mode,
                keras.saving.deserialize_keras_object(how["quantization_config"]),
                filters=lambda layer, how=how: (
                    layer.quantization_mode is None
                    and quantized.get((layer.path or "").removeprefix(model.scope))
                    == how
                ),
            )
        return model


# Keys of a configuration besides the arguments of the subclass.
STATE = ("dtype", "name", "trainable", "frozen_layers", "class_names", "quantized")


def _file_state(filepath):
    """Returns the time, size and inode of a local `.weights.h5` file, else `None`."""
    path = _local_path(filepath, ".weights.h5")
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _local_path(filepath, suffix):
    """Returns the local path of a file with a suffix, else `None`."""
    is_path = isinstance(filepath, str | os.PathLike)
    if not is_path or "://" in str(filepath) or not str(filepath).endswith(suffix):
        return None
    return Path(filepath)


def float_policy(dtype: DType) -> keras.dtype_policies.DTypePolicy:
    """Returns the dtype policy to build a model with.

    Raises:
        ValueError: if it is not a floating-point policy. Under a map with quantized
            policies, Keras's layers compute wrong values.
    """
    policy = dtype_policy("dtype", dtype)
    is_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
    policies = [policy, *(policy.values() if is_map else ())]
    if any(each.quantization_mode is not None for each in policies):
        raise ValueError(
            f"dtype={policy.name!r} is a quantized policy; build the model with a "
            "floating-point dtype, then call model.quantize(...)."
        )
    return policy
