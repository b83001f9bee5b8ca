"""What importing the package costs, and what it brings along."""

import json
import subprocess
import sys

import keras
import pytest

import keras_cbvit

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys, time, warnings
start = time.process_time()
import keras
seconds = time.process_time() - start
before, filters = set(sys.modules), list(warnings.filters)
start = time.process_time()
import keras_cbvit
share = (time.process_time() - start) / seconds
added = sorted(set(sys.modules) - before)
print(json.dumps([share, added, warnings.filters == filters]))
"""


def import_in_a_new_process():
    """What the import adds.

    A share of Keras's own time, modules, and whether filters of warnings stay.
    """
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.any_backend
def test_the_import_adds_a_tenth_to_that_of_keras_and_nothing_but_dependencies():
    share, modules, filters_stay = import_in_a_new_process()
    assert share < 0.1
    top_level = {module.partition(".")[0] for module in modules}
    others = top_level - {"keras_cbvit"} - set(sys.stdlib_module_names)
    assert others <= {"PIL", "keras", "numpy", "h5py"}
    assert filters_stay


@pytest.mark.any_backend
def test_a_missing_backend_is_named_with_its_extra():
    backend = keras.backend.backend()
    hidden = f"import sys; sys.modules[{backend!r}] = None; import keras_cbvit"
    run = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert run.returncode == 1
    *above, message = run.stderr.splitlines()
    assert message.endswith(
        f"The backend {backend} is not installed. Set KERAS_BACKEND to another of "
        "tensorflow, jax and torch, or install it: "
        f'pip install "keras_cbvit[{backend}]"'
    )
    assert not any("keras/src" in line for line in above)


def test_the_public_names_are_these():
    assert sorted(keras_cbvit.__all__) == [
        "AdamW",
        "Classifier",
        "ContextBroadcast",
        "Evaluation",
        "Export",
        "FeaturePyramid",
        "Preprocessing",
        "SegmentationModel",
        "UperNet_ViTCB",
        "UperNet_ViTCB_B",
        "UperNet_ViTCB_S",
        "UperNet_ViTCB_Ti",
        "ViTCB",
        "ViTCB_B",
        "ViTCB_S",
        "ViTCB_Ti",
        "ViTSpec",
        "VisionTransformer",
        "analysis",
        "class_names",
        "create_model",
        "decode_predictions",
        "enable_lora",
        "export",
        "export_model",
        "feature_pyramid",
        "fold_context_broadcast",
        "freeze_backbone",
        "insert_context_broadcast",
        "layer_decay",
        "layers",
        "list_models",
        "list_weights",
        "load_lora_weights",
        "load_model",
        "merge_lora",
        "predict_sliding",
        "predict_whole",
        "publish",
        "register_model",
        "save_lora_weights",
        "unfreeze",
    ]
    assert all(hasattr(keras_cbvit, name) for name in keras_cbvit.__all__)
