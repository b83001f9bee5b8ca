import keras
import pytest

import keras_cbvit
from keras_cbvit import ViTSpec
from keras_cbvit.models import registry
from keras_cbvit.models.registry import SIZES, architecture_of, architecture_of_spec
from tests.tiny import tiny


@pytest.mark.parametrize(
    "broadcast, size, name",
    [
        ("none", "ti", "vit_ti"),
        ("cb", "s", "vitcb_s"),
        ("cbs", "b", "vitcbs_b"),
    ],
)
def test_a_known_size_has_a_name(broadcast, size, name):
    spec = ViTSpec(**SIZES[size], broadcast=broadcast)
    assert architecture_of_spec(spec) == name
    # Whatever else is chosen.
    spec = spec.replace(input_shape=(None, 32, 3), patch_size=8, classes=2)
    assert architecture_of_spec(spec) == name


@pytest.mark.parametrize("change", [{"depth": 11}, {"num_heads": 3}, {"mlp_ratio": 3}])
def test_another_size_has_none(change):
    assert architecture_of_spec(ViTSpec(**{**SIZES["s"], **change})) is None


def test_the_most_special_name_is_the_models(monkeypatch):
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    special = {**SIZES["s"], "broadcast": "none", "num_register_tokens": 4}
    keras_cbvit.register_model("vit_s_reg4", **special)
    assert architecture_of_spec(ViTSpec(**special)) == "vit_s_reg4"
    other = ViTSpec(**{**special, "num_register_tokens": 3})
    assert architecture_of_spec(other) == "vit_s"


def test_a_registered_model_of_one_of_the_sizes_has_a_upernet(monkeypatch):
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    keras_cbvit.register_model("mine_s", depth=4)  # no S but by its name
    keras_cbvit.register_model("vit14_s", **SIZES["s"], patch_size=14)
    assert keras_cbvit.list_models("upernet_*_s") == [
        "upernet_vit14_s",
        "upernet_vit_s",
        "upernet_vitcb_s",
        "upernet_vitcbs_s",
    ]


@pytest.mark.any_backend
def test_names_of_models_are_those_of_their_specs_and_upernets_own():
    assert architecture_of(tiny()) is None
    vit = tiny(depth=4, input_shape=(16, 16, 3))
    backbone = keras_cbvit.feature_pyramid(vit, range(4))
    for name, expected in (
        ("upernet_vitcb_s", "upernet_vitcb_s"),
        ("mine", None),
        ("vitcb_s", "vitcb_s"),
    ):
        model = keras_cbvit.SegmentationModel(backbone, 3, 4, name=name)
        assert architecture_of(model) == expected
    assert architecture_of(keras.Sequential()) is None
