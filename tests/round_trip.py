"""Whether a layer comes back from its configuration."""

import inspect
import json

import keras


def round_trip(layer_class, **arguments):
    """The layer of these arguments once it went through JSON.

    Every argument of the constructor must be given, with another value than its
    default, and is compared with what the copy's configuration says.
    """
    own = "__init__" in vars(layer_class)
    parameters = inspect.signature(layer_class).parameters if own else {}
    assert arguments.keys() >= parameters.keys() - {"kwargs"}
    for name, value in arguments.items():
        assert name not in parameters or value != parameters[name].default

    layer = layer_class(**arguments)
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    copy = keras.saving.deserialize_keras_object(json.loads(text))

    assert type(copy) is layer_class
    config = copy.get_config()
    for name, value in arguments.items():
        if isinstance(value, str | int | float | tuple) and name != "dtype":
            assert config[name] == value
    assert copy.dtype_policy == layer.dtype_policy
    assert config == layer.get_config()
    return copy
