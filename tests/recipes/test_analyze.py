import json
import os

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from keras_cbvit import analysis
from recipes import analyze
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.compare import assert_close
from tests.tiny import fill, tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def photo(tmp_path):
    """A photograph of 20x10 pixels that a camera stored lying on its side."""
    pixels = np.zeros((20, 10, 3), "uint8")
    pixels[:10] = [250, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned left by a quarter: red comes to the left
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


def rows_of(printed):
    """The cells of the Markdown tables by their first."""
    lines = (line for line in printed.splitlines() if line.startswith("| "))
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first: others for first, *others in cells}


@pytest.mark.any_backend
def test_a_run_and_its_published_weights_are_analyzed(
    finished, published_digits, photo, tmp_path, capsys
):
    run, out = str(finished.run.run_dir), tmp_path / "out"
    options = ["--on", "digits", "--images", "7", "--batch-size", "3"]
    options += ["--photo", str(photo), "--out", str(out)]
    out.mkdir()
    (out / "scales.png").write_text("of another analysis")
    analyze.main([run, published_digits, *options])
    result = json.loads((out / "results.json").read_text())
    assert list(result["models"]) == [run, published_digits]
    found, again = result["models"].values()
    assert found["cost"] == again["cost"]
    for key in analyze.ATTENTION:
        assert again["attention"][key] == pytest.approx(found["attention"][key])
    # Every 51st of the 360 test images; tokens by hand: 2x2 patches of 4 pixels.
    model = keras.saving.load_model(f"{run}/model.keras", compile=False)
    test = load_dataset(Data(dataset="digits", image_size=(8, 8))).test
    maps = analysis.attention_maps(model, test.images[[0, 51, 102, 154, 205, 257, 308]])
    entropy = [-(m * np.log(m)).sum(-1).mean(dtype="float64") for m in maps]
    assert_close(found["attention"]["entropy"], entropy, atol=1e-6)
    assert (found["tokens"], found["blocks"]) == (5, ["block_0", "block_1"])
    assert found["entropy_of_uniform"] == pytest.approx(np.log(5))
    assert found["cost"]["sum"]["parameters"] == model.count_params()
    # CB: 2 blocks, 5 tokens, 16 channels.
    assert found["cost"]["sum"]["context_macs"] == 2 * (2 * 5 + 1) * 16

    printed = capsys.readouterr().out
    assert f"## {run}\n" in printed and f"## {published_digits}\n" in printed
    rows = rows_of(printed)
    assert rows["sum"][-1] == f"{model.count_params():,}"
    values = [found["attention"][key] for key in analyze.ATTENTION]
    assert rows["mean"] == [f"{np.mean(value):.4f}" for value in values]
    for picture in ("attention", "photo", "softmax_jacobian"):
        with Image.open(out / f"{picture}.png") as image:
            assert len(image.getcolors(1 << 24)) > 20
    assert not (out / "scales.png").exists()


@pytest.mark.any_backend
def test_scales_are_analyzed_without_a_data_set(tmp_path, capsys):
    for name in ("start", "trained"):
        (tmp_path / name).mkdir()
    tiny(broadcast="cbs").save(tmp_path / "start" / "model.keras")
    model = tiny(broadcast="cbs")
    model.get_layer("block_1").mlp.end[0].channel_scale.assign(np.arange(16) - 4.0)
    model.save(tmp_path / "trained" / "model.keras")
    folders = [str(tmp_path / name) for name in ("start", "trained")]
    analyze.main([*folders, "--out", str(tmp_path)])
    start, trained = json.loads((tmp_path / "results.json").read_text())[
        "models"
    ].values()
    assert "attention" not in start
    assert start["scale"]["ratio"] == [None, None]
    assert start["scale"]["mean"] == [0, 0]
    # |λ| in order: 0 1 1 2 2 3 3 4 4 5 6 7 8 9 10 11, quantiles at 1.5 and 13.5.
    assert trained["scale"]["ratio"] == [None, pytest.approx(1 / 9.5)]
    assert trained["scale"]["mean"] == [0, pytest.approx(3.5)]
    rows = rows_of(capsys.readouterr().out)
    assert rows["block_1/mlp/context_broadcast"] == ["0.1053", "3.5000"]
    assert rows["block_0/mlp/context_broadcast"] == ["–", "0.0000"]
    for picture in ("scales", "scale_by_layer"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000
    assert not (tmp_path / "attention.png").exists()


@pytest.mark.any_backend
def test_a_model_of_the_ablations_is_analyzed(tmp_path, capsys):
    options = {"broadcast": "none", "squeeze_excitation": True}
    file = tmp_path / "se.keras"
    fill(tiny(input_shape=(8, 8, 3), **options)).save(file)
    analyze.main([str(file), "--on", "digits", "--images", "2", "--out", str(tmp_path)])
    rows = rows_of(capsys.readouterr().out)
    # 2 blocks of SE by one hidden channel: 5 tokens of 16, mean and gate.
    assert rows["sum"][1] == str(2 * ((2 * 5 + 1) * 16 + 2 * 16))


def test_a_photograph_stands_upright_at_the_models_size(photo):
    model = tiny()
    image, maps, grid = analyze._load_photo(model, photo)
    assert image.shape == (8, 12, 3) and grid == (2, 3)
    assert np.all(image[:, :4, 0] > 200) and np.all(image[:, 8:, 0] < 50)
    assert [m.shape for m in maps] == [(1, 2, 7, 7)] * 2


def test_a_photograph_is_decoded_as_the_images_of_a_data_set(tmp_path):
    ramp = np.tile(np.arange(12, dtype="uint16") * 20, (8, 1))
    Image.fromarray(ramp * 257).save(tmp_path / "x.png")
    image, _, _ = analyze._load_photo(tiny(), tmp_path / "x.png")
    np.testing.assert_array_equal(image, np.stack([ramp] * 3, axis=-1))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is not a regular file"):
        analyze._load_photo(tiny(), tmp_path / "pipe.png")


def test_a_scale_is_drawn_at_its_block():
    numbers = {
        "blocks": ["block_0", "block_1", "block_2"],
        "scale": {
            "layers": [
                "block_1/context_broadcast",
                "block_1/mlp/context_broadcast",
                "block_2/mlp/context_broadcast",
            ],
            "mean": [1.0, 2.0, 3.0],
        },
    }
    curves = analyze._scale_curves("CB_S", numbers, "mean")
    assert list(curves) == ["CB_S, MSA", "CB_S, MLP"]
    nan = np.nan
    np.testing.assert_array_equal(curves["CB_S, MSA"], [[nan, 1, nan]])
    np.testing.assert_array_equal(curves["CB_S, MLP"], [[nan, 2, 3]])


@pytest.mark.any_backend
def test_what_cannot_be_analyzed_is_refused_with_a_sentence(tmp_path):
    x = keras.Input((4, 4, 3))
    keras.Model(x, keras.layers.Flatten()(x), name="flat").save(tmp_path / "f.keras")
    tiny().save(tmp_path / "t.keras")
    pyramid = keras_cbvit.feature_pyramid(tiny(depth=4), (0, 1, 2, 3))
    keras_cbvit.SegmentationModel(pyramid, 3, channels=4).save(tmp_path / "u.keras")
    tiny().save_weights(tmp_path / "tiny.weights.h5")
    (tmp_path / "broken.keras").write_bytes(b"not a model")
    for arguments, message in (
        ([], "at least one model"),
        ([tmp_path / "f.keras"], "flat has no EncoderBlock"),
        ([tmp_path / "t.keras", tmp_path / "u.keras"], r"u\.keras is a segmentation m"),
        ([tmp_path / "tiny.weights.h5"], r"weights\.h5 has weights but no model"),
        ([tmp_path / "broken.keras"], r"broken\.keras is not a \.keras file"),
        ([tmp_path / "none.keras"], "does not exist"),
        ([tmp_path], r"model\.keras' does not exist"),
        ([tmp_path / "t.keras", "--photo", tmp_path / "none.png"], "No such file"),
        (
            [tmp_path / "t.keras", "--on", tmp_path / "none"],
            "The folder .* does not",
        ),
        (["vitcb_ti.nothing"], "no weights 'vitcb_ti.nothing'"),
        ([tmp_path / "f.keras", "--images", "0"], "images=0 must be at least 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            analyze.main([*map(str, arguments), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
