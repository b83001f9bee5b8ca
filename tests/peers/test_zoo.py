"""Live models of other zoos as `weights=`, and what is none of a ViT."""

import pytest
import timm
import torch
import torchvision
from timm.data import ImageNetInfo

import keras_cbvit
from keras_cbvit.pretrained import imagenet
from keras_cbvit.pretrained.formats import read_state_dict
from tests.compare import assert_close
from tests.tiny import images, predict

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 1, "depth": 2}


def test_a_live_model_is_one_of_cbs_that_predicts_as_it_does():
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL).eval()
    model = keras_cbvit.ViTCB(weights=theirs, classifier_activation=None)
    assert model.spec.broadcast == "cbs"
    x = images(model)
    mean, std = (255 * torch.tensor(v) for v in (model.spec.mean, model.spec.std))
    inputs = ((torch.tensor(x) - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = theirs(inputs).numpy()
    assert_close(predict(model, x), expected, atol=1e-4)


@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "a Swin Transform"),
        (lambda: timm.create_model("resnet18"), "a ResNet"),
        (lambda: timm.create_model("convnext_atto"), "a ConvNeXt"),
        (lambda: timm.create_model("mobilenetv3_small_050"), "an EfficientNet or Mob"),
        (lambda: torchvision.models.resnet18(), "a ResNet"),
        (lambda: torchvision.models.mobilenet_v2(), "a convolutional network"),
    ],
)
@pytest.mark.any_backend
def test_weights_of_other_networks_are_called_by_their_names(make, kind):
    arrays = {name: tensor.numpy() for name, tensor in make().state_dict().items()}
    with pytest.raises(ValueError, match=f"weights of the file are those of {kind}"):
        read_state_dict(arrays, None, "the file")


@pytest.mark.any_backend
def test_the_names_of_imagenets_classes_are_those_of_wordnet():
    """By timm's copy of WordNet; two are lengthened, so that all are different."""
    info = ImageNetInfo("imagenet-1k")
    assert tuple(info.label_names()) == imagenet.synsets()
    lengthened = {"crane bird": "crane", "maillot tank suit": "maillot, tank suit"}
    for number, word in enumerate(imagenet.words()):
        lemmas = info.index_to_description(number)
        known = {_letters(lemma) for lemma in lemmas.split(",")}
        assert word in lengthened or _letters(word) in known, (word, lemmas)


def _letters(text):
    return "".join(letter for letter in text.lower() if letter.isalpha())
