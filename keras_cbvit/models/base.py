"""What the models of this package have in common."""

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
    """A model whose `.keras` file is there as a whole or not at all."""

    def save(
        self,
        filepath: Any,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Keras's, which leaves an empty file if it fails; this one leaves none."""
        path = _local_path(filepath, ".keras")
        asks = path is not None and path.exists() and not overwrite
        if path is None or zipped is False or asks:
            super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)
            return
        file = InMemory(path.name)
        super().save(file, **kwargs)
        write(path, file.getbuffer())


class ZooModel(WholeFileModel):
    """A functional model that is built from a few arguments.

    Its configuration has the arguments, not the graph, beside what training and
    quantization have changed. So a `.keras` file says how to build the model again.

    A subclass gives `own_config`, `num_classes` and `anchor`.
    """

    anchor = None
    """The name of a layer of the model itself, which tells the name scope."""
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
        """The arguments of the subclass, as JSON has them."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int | None:
        """How many classes the model predicts; `None` without a head."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the predictions; `None` if not known.

        A tuple of strings, all different, as many as the model predicts classes; in
        Unicode's NFC, without space around them. It may be set. The model's file keeps
        them.

        Raises:
            ValueError: on setting other names.
        """
        # TensorFlow wraps what is kept.
        return None if self._class_names is None else tuple(self._class_names)

    @class_names.setter
    def class_names(self, names: Any) -> None:
        if names is not None:
            names = check_names(names, self.num_classes or 0)
        self._class_names = names

    @property
    def scope(self) -> str:
        """What paths of layers begin with, if the model was built in a name scope."""
        return self.get_layer(self.anchor).path.removesuffix(self.anchor)

    def layers_by_path(self) -> dict[str, keras.layers.Layer]:
        """All layers, those within layers too, by their paths without the scope."""
        paths = ((layer.path, layer) for layer in layers_within(self))
        return {path.removeprefix(self.scope): each for path, each in paths if path}

    def weights_by_name(self) -> dict[str, keras.Variable]:
        """The weights by their paths without the scope, which are for ever."""
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
        """Keras's, for the modes that can be used and saved.

        Raises:
            ValueError: on a mode that Keras calibrates on text.
        """
        if mode in CALIBRATED:  # Keras has taken it from `config`
            refuse("mode", mode, "is for models of text; use int8, int4 or float8.")
        super().quantize(mode, config=config, **kwargs)
        forget_functions(self)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Keras's, whose SavedModel from JAX TensorFlow can run.

        `keras_cbvit.export_model` writes more formats and runs each file.
        """
        with backend.traced_for_tensorflow():
            super().export(*args, **kwargs)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Keras's; a `.weights.h5` file on this machine gets a digest of its content.

        HDF5 has no checksum as Keras writes it: a damaged file would give other
        weights.

        Raises:
            ValueError: if there is LoRA beside quantized kernels.
        """
        check_quantized(layers_within(self))
        before = _state(filepath)
        super().save_weights(filepath, *args, **kwargs)
        if _state(filepath) != before:  # or the user has kept the old file
            hdf5.sign(Path(filepath))

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Keras's; a `.weights.h5` file on this machine that is damaged is refused.

        Raises:
            ValueError: if the file is damaged.
        """
        if _state(filepath) is not None:
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


# What a configuration has beside the arguments of a subclass.
STATE = ("dtype", "name", "trainable", "frozen_layers", "class_names", "quantized")


def _state(filepath):
    """What changes when a `.weights.h5` file is written; `None` of anything else."""
    path = _local_path(filepath, ".weights.h5")
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _local_path(filepath, suffix):
    """The path of a file on this machine of such a name; `None` of anything else."""
    is_path = isinstance(filepath, str | os.PathLike)
    if not is_path or "://" in str(filepath) or not str(filepath).endswith(suffix):
        return None
    return Path(filepath)


def float_policy(dtype: DType) -> keras.dtype_policies.DTypePolicy:
    """The dtype policy of a model, which is built in floats.

    Raises:
        ValueError: if it is none, or quantizes: Keras's layers compute wrongly under a
            mixed map.
    """
    policy = dtype_policy("dtype", dtype)
    is_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
    policies = [policy, *(policy.values() if is_map else ())]
    if any(each.quantization_mode is not None for each in policies):
        raise ValueError(
            f"dtype={policy.name!r} quantizes layers that have no weights yet; build "
            "the model in floats, then call model.quantize(...)."
        )
    return policy
