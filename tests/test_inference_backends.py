"""Keras's backends for inference predict what the others do with published weights.

A process has one backend, so each has a child process. Run as a script, this is the
child, which prints what it predicts.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_published import CLASSIFIERS, GOLDEN, UPERNETS, waves_of

# The classifiers prove each broadcast; of the UperNets, one proves the head.
UPERNET = UPERNETS[-1]

# What a backend imports beside NumPy; Keras's NumPy backend takes its FFT from JAX.
NEEDED = {"numpy": "jax", "openvino": "openvino"}
# Keras has OpenVINO's `predict` compute in bfloat16 on CPUs that have it.
OTHER_PIXELS = {"numpy": 1e-4, "openvino": 0.02}


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("backend", NEEDED)
def test_published_weights_predict_what_they_did(backend):
    if importlib.util.find_spec(NEEDED[backend]) is None:
        pytest.skip(f"Keras's backend {backend} needs {NEEDED[backend]}.")
    child = subprocess.run(
        [sys.executable, "-m", "tests.test_inference_backends"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": backend, "KERAS_CBVIT_WEIGHTS": ""},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found, expected = json.loads(child.stdout), json.loads(GOLDEN.read_text())
    assert found.pop("backend") == backend
    assert list(found) == [*CLASSIFIERS, UPERNET]
    for name in CLASSIFIERS:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
    pairs = zip("".join(found[UPERNET]), "".join(expected[UPERNET]), strict=True)
    other = np.mean([one != two for one, two in pairs])
    assert other <= OTHER_PIXELS[backend]


def _probabilities(classifier):
    for row in classifier(waves_of((32, 32, 3)), top=len(classifier.class_names)):
        by_name = dict(row)
        yield [by_name[name] for name in classifier.class_names]


if __name__ == "__main__":
    import keras

    import keras_cbvit
    from tests.test_published import classes_of_pixels

    result = {"backend": keras.backend.backend()}
    result |= {
        name: [*_probabilities(keras_cbvit.Classifier(name))] for name in CLASSIFIERS
    }
    result[UPERNET] = classes_of_pixels(UPERNET)
    print(json.dumps(result))
