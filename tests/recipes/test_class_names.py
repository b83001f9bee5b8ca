"""A run knows its classes, and is measured, published and tuned by their names."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import keras_cbvit
from recipes import evaluate, publish
from recipes.data.sources import load_dataset
from recipes.network import Network
from recipes.train import train
from recipes.training.heads import fit_head
from tests.recipes.published import records_in
from tests.recipes.small import small
from tests.tiny import assert_same_values, fill, predict, tiny, values

pytestmark = pytest.mark.slow

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def model_file(finished):
    return finished.run.run_dir / "model.keras"


@pytest.fixture(scope="module")
def images(finished):
    """scikit-learn's digits for testing, and which of them the run names right."""
    test = load_dataset(finished.data).test
    model = keras_cbvit.load_model(finished.run.run_dir / "model.keras")
    said = model.predict(test.images, verbose=0).argmax(axis=1)
    return test.images, test.labels, said == test.labels


@pytest.mark.any_backend
def test_a_runs_model_knows_its_classes(finished, model_file):
    assert keras_cbvit.load_model(model_file).class_names == DIGITS
    (record,) = records_in(finished.run.weights_dir).values()
    published = keras.saving.load_model(finished.run.weights_dir / record.filename)
    assert published.class_names == tuple(record.class_names) == DIGITS


def rows_of(folder, *arguments):
    evaluate.main([*map(str, arguments), "--json", str(folder / "found.json")])
    return json.loads((folder / "found.json").read_text())


@pytest.mark.any_backend
def test_classes_in_another_order_are_measured_by_name(model_file, images, tmp_path):
    pixels, labels, is_right = images
    arrays = {"x_train": pixels, "x_test": pixels}
    order = np.random.default_rng(0).permutation(10)
    # Class `order[k]` is number k here.
    numbers = np.argsort(order)[labels]
    np.savez(
        tmp_path / "numbers.npz",
        **arrays,
        y_train=numbers,
        y_test=numbers,
        class_names=order.astype(str),
    )
    names = labels.astype("S")
    np.savez(tmp_path / "names.npz", **arrays, y_train=names, y_test=names)
    sets = tmp_path / "numbers.npz", tmp_path / "names.npz"
    run = model_file.parent
    rows = rows_of(tmp_path, run, model_file, "--on", *sets)
    assert [(row["right"], row["images"]) for row in rows] == [
        (is_right.sum(), 360)
    ] * 4


def write_folder(folder, images, name_of):
    """Writes each image into the folder of its class."""
    for number, (image, label) in enumerate(zip(images[0], images[1], strict=True)):
        if name := name_of(label):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{number:03}.png")
    return folder


@pytest.mark.any_backend
def test_some_of_the_classes_are_measured_by_name(model_file, images, tmp_path, capsys):
    def name_of(label):
        return str(label) if label in (3, 5, 8) else None

    folder = write_folder(tmp_path / "some" / "test", images, name_of).parent
    with pytest.warns(
        UserWarning, match="no image of 7 of the 10 classes .*: 0, 1, 2, 4"
    ):
        (row,) = rows_of(tmp_path, model_file, "--on", folder)
    is_some = np.isin(images[1], (3, 5, 8))
    assert (row["right"], row["images"]) == (images[2][is_some].sum(), is_some.sum())


@pytest.mark.any_backend
def test_classes_called_otherwise_are_refused_by_name(model_file, images, tmp_path):
    names = ["zero", "one", "two", *DIGITS[3:]]
    folder = write_folder(tmp_path / "words" / "test", images, names.__getitem__).parent
    message = r"has the classes one, two, zero, but .*model\.keras has only 0, 1, 2"
    with pytest.raises(SystemExit, match=message):
        evaluate.main([str(model_file), "--on", str(folder)])
    facts = ["--trained-on", "noise", "--recipe", "by hand"]
    options = [*facts, "--dataset", str(folder), "--weights-dir", str(tmp_path / "w")]
    with pytest.raises(SystemExit, match="has the classes one, two, zero, but"):
        publish.main([str(model_file), "vitcb_toy.words", *options])
    assert not (tmp_path / "w").exists()


@pytest.fixture
def nameless(model_file, tmp_path):
    """A file as it was before files had class names."""
    model = keras_cbvit.load_model(model_file)
    model.class_names = None
    model.save(tmp_path / "nameless.keras")
    return tmp_path / "nameless.keras"


@pytest.mark.any_backend
def test_a_model_without_names_is_measured_by_position_and_said_to_be(
    nameless, images, tmp_path
):
    message = (
        r"nameless\.keras has no class names; assuming "
        "0, 1, 2, 3, 4 and 5 more, in this order"
    )
    with pytest.warns(UserWarning, match=message):
        (row,) = rows_of(tmp_path, nameless, "--on", "digits")
    assert row["right"] == images[2].sum()
    facts = ["--trained-on", "noise", "--recipe", "by hand", "--dataset", "digits"]
    with pytest.warns(UserWarning, match="has no class names"):
        publish.main(
            [str(nameless), "vitcb_toy.v1", *facts, "--weights-dir", str(tmp_path)]
        )
    record = records_in(tmp_path)["vitcb_toy.v1"]
    file = keras.saving.load_model(tmp_path / record.filename)
    assert file.class_names == DIGITS


@pytest.mark.any_backend
def test_a_run_is_published_on_classes_in_another_order(model_file, images, tmp_path):
    pixels, labels, is_right = images
    np.savez(
        tmp_path / "set.npz",
        x_train=pixels[:20],
        y_train=9 - labels[:20],
        x_test=pixels,
        y_test=9 - labels,
        class_names=DIGITS[::-1],
    )
    facts = ["--trained-on", "digits", "--recipe", "by hand"]
    options = ["--dataset", str(tmp_path / "set.npz"), "--weights-dir", str(tmp_path)]
    publish.main([str(model_file), "vitcb_toy.v1", *facts, *options])
    record = records_in(tmp_path)["vitcb_toy.v1"]
    assert record.evaluations[0].metrics["top1"] == is_right.sum() / 360
    assert record.class_names == list(DIGITS)


# Fine-tuning


DISTILLED = {"distillation_token": True, "pooling": "distilled"}


def save_named(path, names, **options):
    model = fill(tiny(**options))
    model.class_names = names
    model.save(path)
    return model


def test_the_head_of_the_same_classes_is_kept(tmp_path):
    source = save_named(tmp_path / "a.keras", ["cat", "dog", "eel"])
    model = keras_cbvit.ViTCB(weights=tmp_path / "a.keras", classes=3)
    assert fit_head(model, ("cat", "dog", "eel"), str(tmp_path / "a.keras")) is None
    assert_same_values(values(model), values(source))
    assert model.class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize("options", [{}, DISTILLED])
@pytest.mark.any_backend
def test_the_head_of_classes_in_another_order_is_put_into_it(tmp_path, options):
    source = save_named(tmp_path / "a.keras", ["cat", "dog", "eel"], **options)
    model = keras_cbvit.ViTCB(weights=tmp_path / "a.keras", classes=3)
    said = fit_head(model, ("eel", "cat", "dog"), "a.keras")
    assert said == "The outputs of a.keras are reordered to eel, cat, dog."
    assert model.class_names == ("eel", "cat", "dog")
    expected = predict(source)[:, [2, 0, 1]]
    np.testing.assert_allclose(predict(model), expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, DISTILLED])
def test_the_head_of_other_classes_is_reinitialized(tmp_path, options):
    source = save_named(tmp_path / "a.keras", ["cat", "dog", "eel"], **options)
    model = keras_cbvit.ViTCB(weights=tmp_path / "a.keras", classes=3)
    said = fit_head(model, ("cat", "dog", "fox"), "a.keras")
    assert said == (
        "The classes of a.keras (eel) differ from those of the data set (fox), so its "
        "head is reinitialized."
    )
    assert model.class_names == ("cat", "dog", "fox")
    found, before = values(model), values(source)
    heads = [head.name for head in model.heads]
    assert len(heads) == (2 if options else 1)
    for head in heads:
        assert (found[f"{head}/bias"] == 0).all()
        kernel = found[f"{head}/kernel"]
        assert 0.01 < kernel.std() < 0.03
        assert not np.isin(kernel, before[f"{head}/kernel"]).any()
    rest = [name for name in before if name.partition("/")[0] not in heads]
    assert_same_values(*({name: v[name] for name in rest} for v in (found, before)))


@pytest.mark.any_backend
def test_a_head_of_another_number_of_classes_or_without_names_is_said(tmp_path):
    fill(tiny()).save(tmp_path / "a.keras")
    fill(tiny(include_top=False, classes=None)).save(tmp_path / "b.keras")
    save_named(tmp_path / "c.keras", ["cat", "dog", "eel"])
    for file, names, message in (
        (
            "a.keras",
            ("x", "y"),
            "a.keras has 3 classes, not the 2 of the data set, so its",
        ),
        ("b.keras", ("x", "y"), "b.keras has no head, so a new head is trained."),
        (
            "c.keras",
            ("cat", "dog"),
            "c.keras (cat, dog, eel) differ from those of the data set (cat, dog)",
        ),
        (
            "a.keras",
            ("x", "y", "z"),
            "its head is kept; assuming the classes x, y, z",
        ),
    ):
        weights = str(tmp_path / file)
        head = {"classes": len(names), "include_top": True}
        model = keras_cbvit.ViTCB(weights=weights, **head)
        assert message in fit_head(model, names, weights)
        assert model.class_names == names


def test_the_head_of_weights_that_do_not_say_their_number_of_heads(tmp_path):
    model = fill(tiny(broadcast="none", input_shape=(8, 8, 3)))
    state, _ = keras_cbvit.export.to_timm(model)
    save_file(state, tmp_path / "a.safetensors")
    weights = str(tmp_path / "a.safetensors")
    tuned = keras_cbvit.ViTCB(weights=weights, num_heads=2, classes=2)
    assert "has 3 classes, not the 2" in fit_head(tuned, ("x", "y"), weights)


@pytest.mark.any_backend
def test_training_goes_on_from_a_run_of_other_classes(
    model_file, images, tmp_path, capsys
):
    pixels, labels, _ = images
    names = np.array(["nil", *DIGITS[1:]])
    np.savez(
        tmp_path / "set.npz",
        x_train=pixels,
        y_train=labels,
        x_test=pixels,
        y_test=labels,
        class_names=names,
    )

    def trained(name, **changes):
        still = {"epochs": 1, "warmup_epochs": 0, "base_learning_rate": 0.0}
        still |= {"warmup_learning_rate": 0.0, "minimum_learning_rate": 0.0}
        experiment = small(tmp_path / name, **still, **changes)
        network = Network(weights=str(model_file))
        experiment = dataclasses.replace(experiment, network=network)
        return train(experiment, "the command")[0]

    same = trained("same")
    assert "its head" not in capsys.readouterr().out
    assert_same_values(values(same), values(keras_cbvit.load_model(model_file)))
    other = trained("other", dataset=str(tmp_path / "set.npz"))
    assert (
        f"The classes of {model_file} (0) differ from those of the data set (nil), so"
        in capsys.readouterr().out
    )
    assert other.class_names == tuple(names)
    kernels = values(same)["head/kernel"], values(other)["head/kernel"]
    assert not np.isin(*kernels).any()
