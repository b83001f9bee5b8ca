"""Adds the signatures and docstrings of `document_options` to the API reference.

mkdocstrings reads the sources, where a builder has a short docstring and `**options`.
This extension of griffe, the reader of mkdocstrings, imports the package instead.
"""

import functools
import json
import os
import subprocess
import sys

import griffe

ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "jax"}


class Builders(griffe.Extension):
    """Completes the functions with the decorator `document_options`."""

    def on_function(self, *, func, **_):
        """Replaces the docstring and the parameters of a builder."""
        decorators = [each.callable_path for each in func.decorators]
        if not any(path.endswith("document_options") for path in decorators):
            return
        composed = composed_builders()[func.name]
        func.docstring.value = composed["docstring"]
        written = {parameter.name: parameter for parameter in func.parameters}
        func.parameters = griffe.Parameters(
            *(
                written.get(name)
                or griffe.Parameter(
                    name, kind=griffe.ParameterKind.keyword_only, default="None"
                )
                for name in composed["parameters"]
            )
        )


@functools.cache
def composed_builders():
    """Returns the docstring and the parameter names of each builder."""
    command = (sys.executable, "-P", "-c", _COMPOSED)
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


_COMPOSED = """
import inspect, json
import keras_cbvit

builders = {}
for name in ("ViTCB", "ViTCB_Ti", "ViTCB_S", "ViTCB_B"):
    builder = getattr(keras_cbvit, name)
    parameters = list(inspect.signature(builder).parameters)
    builders[name] = {"docstring": inspect.getdoc(builder), "parameters": parameters}
print(json.dumps(builders))
"""
