import pytest

from keras_cbvit.pretrained.architectures import (
    SIZES,
    architecture_name,
    check_weights_name,
)

OTHER = {"hidden_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 4}


@pytest.mark.parametrize(
    "broadcast, size, name",
    [
        (None, "ti", "vit_ti"),
        ("cb", "s", "vitcb_s"),
        ("cbs", "b", "vitcbs_b"),
    ],
)
def test_a_known_size_has_a_name(broadcast, size, name):
    assert architecture_name({**SIZES[size], "broadcast": broadcast}) == name


@pytest.mark.parametrize("change", [{"depth": 11}, {"num_heads": 3}, {"mlp_ratio": 3}])
def test_another_size_has_none(change):
    assert architecture_name({**SIZES["s"], **change, "broadcast": "cb"}) is None


def test_an_unknown_kind_of_broadcasting_is_refused():
    with pytest.raises(ValueError, match="broadcast='se' is unknown; use one of None"):
        architecture_name({**OTHER, "broadcast": "se"})


def test_names_that_fit_the_model_are_allowed():
    check_weights_name("vitcb_s.imagenet", "vitcb_s")
    check_weights_name("vitcb_digits.v2", None)
    check_weights_name("upernet_vit_b.ade20k", "upernet_vit_b", upernet=True)
    check_weights_name("upernet_resnet50.ade20k", None, upernet=True)


@pytest.mark.parametrize("actual", [None, "vitcb_ti", "vit_s"])
def test_a_known_architectures_name_is_refused_to_another_model(actual):
    with pytest.raises(ValueError, match=r"name='vitcb_s\.toy' is not for this model"):
        check_weights_name("vitcb_s.toy", actual)
    name = "upernet_vitcb_s.toy"
    with pytest.raises(ValueError, match=f"name='{name}' is (not )?for "):
        check_weights_name(name, actual and f"upernet_{actual}", upernet=True)


@pytest.mark.parametrize("upernet", [False, True])
def test_a_model_of_a_known_size_must_have_its_name(upernet):
    actual = "upernet_vitcbs_s" if upernet else "vitcbs_s"
    message = f"is not for this model, which is a {actual}"
    with pytest.raises(ValueError, match=message):
        check_weights_name(
            "upernet_mine.toy" if upernet else "mine.toy", actual, upernet
        )


@pytest.mark.parametrize(
    ("name", "upernet"), [("mine.v1", True), ("upernet_x.v1", False)]
)
def test_the_names_of_upernets_say_so_and_no_others(name, upernet):
    with pytest.raises(
        ValueError, match="names of UperNets, and no others, begin with"
    ):
        check_weights_name(name, None, upernet)


@pytest.mark.parametrize(
    "name", ["toy", "vitcb_s.", ".toy", "a.b.c", "A.toy", "../a.b", "a.b\n", "a b.c"]
)
def test_a_name_that_is_not_architecture_and_tag_is_refused(name):
    with pytest.raises(ValueError, match=r"must be architecture\.tag in lower-case"):
        check_weights_name(name, None)
