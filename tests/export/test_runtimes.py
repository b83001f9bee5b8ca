"""Exported models in the runtimes that they are for, which `nox -s runtimes` has."""

import functools
import json

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import export_model
from keras_cbvit.export import model as of_models
from keras_cbvit.export import writers
from keras_cbvit.export.formats import FORMATS
from keras_cbvit.export.quantization import QUANTIZERS
from tests.models.test_quantization import upernet
from tests.tiny import fill, predict, tiny

pytest.importorskip("openvino", reason="the runtimes are not in this environment")
pytestmark = pytest.mark.slow
BACKEND = keras.backend.backend()
WRITTEN_HERE = [name for name, each in FORMATS.items() if each.backend == BACKEND]
NAMES = ("ant", "bee", "cat")
# Each block broadcasts another context, or in another place.
BLOCKS = (
    {"broadcast": "none"},
    {"broadcast": "cb"},
    {"broadcast": "cb", "context": "max"},
    {"broadcast": "cb", "context": "token"},
    {"broadcast": "cbs", "broadcast_place": "both"},
)


class Mixed(keras_cbvit.VisionTransformer):
    """A Vision Transformer of the blocks `BLOCKS`."""

    @classmethod
    def encoder_block(cls, i, spec, dtype):
        return super().encoder_block(i, spec.replace(**BLOCKS[i]), dtype)


def features():
    size = {"input_shape": (None, None, 3), "position_grid": (3, 2)}
    return fill(tiny(depth=1, classes=None, include_top=False, **size))


KINDS = {
    "cbs": lambda: fill(tiny(depth=1, **BLOCKS[-1])),
    "blocks": lambda: fill(Mixed(tiny(depth=len(BLOCKS)).spec)),
    "features": features,
    "upernet": upernet,
}


def in_one_process(names):
    """Parameters; the tests of one share what is traced, with `--dist loadgroup`."""
    return [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names]


@pytest.fixture(scope="module", autouse=True)
def programs():
    """torch traces each model once for all of its formats, a UperNet for a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "program", functools.cache(writers.program))
        yield


@functools.cache
def build(kind):
    model = KINDS[kind]()
    if kind != "features":
        model.class_names = NAMES
    return model


def any_images(model, count=2):
    """Random images, of a size that no export was compared on if any will do."""
    shape = [side or 24 for side in model.input_shape[1:]]
    random = np.random.default_rng(7)
    return random.uniform(0, 255, (count, *shape)).astype("float32")


def shapes_in_onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return [each.shape for each in (*session.get_inputs(), *session.get_outputs())]


@pytest.mark.parametrize("kind", in_one_process(["upernet", "blocks", "features"]))
@pytest.mark.parametrize("format", WRITTEN_HERE)
def test_the_runtime_predicts_what_the_model_predicts(format, kind, tmp_path):
    model = build(kind)
    found = export_model(model, tmp_path / "export", format)
    assert len(found.differences) == (3 if None in model.input_shape[1:] else 2)
    assert max(found.differences.values()) <= 1e-5
    x = any_images(model)
    got = FORMATS[format].load(found.file)(x)
    np.testing.assert_allclose(got, predict(model, x), atol=1e-5)
    if (format, kind) == ("onnx", "blocks"):
        assert shapes_in_onnx(found.file) == [["batch", 8, 12, 3], ["batch", 3]]
    facts = json.loads((tmp_path / "export" / "model.json").read_text())
    assert facts["class_names"] == (None if kind == "features" else [*NAMES])
    assert facts["differences"] == found.differences
    assert facts["preprocessing"]["model_normalizes"] is True


@pytest.mark.parametrize(
    "format", [name for name in ("onnx", "saved_model") if name not in WRITTEN_HERE]
)
def test_another_backend_writes_what_this_one_cannot(format, tmp_path):
    model = build("cbs")
    found = export_model(model, tmp_path / "export", format)
    assert max(found.differences.values()) <= 1e-5


@pytest.mark.skipif(BACKEND == "torch", reason="Keras writes none from torch")
def test_keras_itself_writes_a_saved_model(tmp_path):
    model = build("cbs")
    model.export(str(tmp_path / "model"), verbose=False)
    x = any_images(model)
    got = FORMATS["saved_model"].load(tmp_path / "model")(x)
    np.testing.assert_allclose(got, predict(model, x), atol=1e-5)


@pytest.mark.any_backend
def test_an_error_of_the_disk_in_another_process_stays_one(tmp_path, monkeypatch):
    monkeypatch.setattr(of_models.backend, "is_on_cpu", lambda: False)
    file = tmp_path / "none" / "model.onnx"
    with pytest.raises(OSError, match="No such file or directory: .*none"):
        of_models._write(build("cbs"), "onnx", FORMATS["onnx"], file)


RANDOM = np.random.default_rng(3)
# Dark and bright images.
CALIBRATION = RANDOM.uniform(0, 60, (200, 8, 12, 3))
CALIBRATION[::4] += 195
CALIBRATION[1::4] += 195
# The others of them, which are compared, are so gray that int8 hardly tells them apart.
GRAY = CALIBRATION.copy()
GRAY[1::2] = 127.5 + RANDOM.uniform(-1, 1, (100, 1, 1, 1))


@functools.cache
def two_classes():
    """A model to which two classes are equally probable in a gray image."""
    model = fill(tiny(depth=1, classes=2, hidden_dim=64, mlp_ratio=4))
    gray = np.full((1, 8, 12, 3), 127.5, "float32")
    model.head.bias.assign(model.head.bias.numpy() - np.log(predict(model, gray)[0]))
    return model


def weights_size(file):
    """Of the file that has the weights, which OpenVINO's are beside the model in."""
    beside = file.with_suffix(".bin")
    return (beside if beside.exists() else file).stat().st_size


@pytest.mark.any_backend
@pytest.mark.xdist_group("int8")
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_keeps_the_classes_and_takes_less(format, tmp_path):
    model = two_classes()
    options = {"quantize": "int8", "images": CALIBRATION}
    found = export_model(model, tmp_path / "int8", format, **options)
    assert found.agreement >= 0.99
    x = any_images(model, 50)
    got = FORMATS[format].load(found.file)(x)
    assert 0 < np.abs(got - predict(model, x)).max() < 0.1
    floats = export_model(model, tmp_path / "float32", format)
    assert weights_size(found.file) < 0.6 * weights_size(floats.file)
    facts = json.loads((tmp_path / "int8" / "model.json").read_text())
    assert (facts["precision"], facts["agreement"]) == ("int8", found.agreement)
    assert facts["compared_images"] == 100
    assert ("nncf" in facts["versions"]) == (format == "openvino")


@pytest.mark.any_backend
@pytest.mark.xdist_group("int8")
def test_int8_that_changes_classes_is_not_left_behind(tmp_path):
    options = {"quantize": "int8", "images": GRAY}
    with pytest.raises(ValueError, match=r"keeps the top-1 class of .*, less than"):
        export_model(two_classes(), tmp_path / "int8", "onnx", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("cbs", {}, "requires images for calibration"),
        (
            "cbs",
            {"images": CALIBRATION[:199]},
            "at least 200 images, half of them",
        ),
        ("features", {"images": CALIBRATION}, "requires a model with classes"),
    ],
)
def test_int8_is_refused_without_images_or_classes(kind, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_model(build(kind), tmp_path / "int8", "onnx", quantize="int8", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.any_backend
@pytest.mark.xdist_group("int8")
def test_each_step_of_int8_leaves_more_in_float32(tmp_path):
    file = tmp_path / "model.onnx"
    writers.write_onnx(two_classes(), file)
    steps = QUANTIZERS["onnx"].quantize(file, CALIBRATION[:32].astype("float32"))
    sizes = [file.stat().st_size for _ in steps]
    # int8 takes 3 bytes less for each of 64² weights, then of 3·64².
    np.testing.assert_allclose(np.diff(sizes), [3 * 64**2, 9 * 64**2], rtol=0.2)


@pytest.mark.any_backend
@pytest.mark.xdist_group("int8")
def test_a_tool_that_fails_ends_in_a_sentence(tmp_path, monkeypatch):
    """No image is a number: ONNX Runtime's calibration raises what it likes."""
    images = np.full_like(CALIBRATION, np.nan)
    with pytest.raises(ValueError, match="int8 for 'onnx' failed; nothing was"):
        export_model(
            two_classes(), tmp_path / "int8", "onnx", quantize="int8", images=images
        )
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("format", [n for n in WRITTEN_HERE if n != "litert"])
@pytest.mark.xdist_group("float16")
def test_float16_predicts_nearly_the_same(format, tmp_path):
    model = build("cbs")
    found = export_model(model, tmp_path / "export", format, quantize="float16")
    assert 1e-6 < max(found.differences.values()) < 2e-2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_what_the_runtime_cannot_run_ends_in_a_sentence(tmp_path):
    """LiteRT transposes no float16 of six axes."""
    with pytest.raises(ValueError, match="runtime of 'litert' cannot run the model"):
        export_model(build("cbs"), tmp_path / "export", "litert", quantize="float16")
    assert not [*tmp_path.iterdir()]
