"""DeiT's weights on ImageNet-1k, published by timm on the Hugging Face Hub.

Touvron et al., "Training data-efficient image transformers & distillation through
attention", 2020; https://github.com/facebookresearch/deit. The weights are for plain
ViTs, and thus for CB_S with Λ = 0.
"""

from pathlib import Path
from typing import NamedTuple

from keras_cbvit.models.registry import model_fields
from keras_cbvit.models.size import count_weights
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.pretrained import hub, imagenet
from keras_cbvit.pretrained.records import Evaluation, Preprocessing, WeightsRecord


class _File(NamedTuple):
    repository: str
    revision: str
    sha256: str
    bytes: int
    top1: float
    top5: float


# By size. The accuracies are from DeiT's README.
_FILES = {
    "ti": _File(
        "timm/deit_tiny_patch16_224.fb_in1k",
        "80e968688553f219e4a86f940ed945a23709c16f",
        "21d4764d94f6c3ffdb6da3581115a0a1ee2d505537d96883b540e54766407c9e",
        22_883_348,
        0.722,
        0.911,
    ),
    "s": _File(
        "timm/deit_small_patch16_224.fb_in1k",
        "91327a9c99f98fe6b524cd4d397b7226b80e1365",
        "1e747b4a8d0df2cfbd3c450e8c97685d867448ab0c2ddbfb34b6885f5cb23e5b",
        88_216_496,
        0.799,
        0.950,
    ),
    "b": _File(
        "timm/deit_base_patch16_224.fb_in1k",
        "b78cc5532a69df6bcad9c3a8d76653fd20b31ac6",
        "cd2da27b74ed7f68b599f16c77af3e1e80f01c75f9ad96029d22ce747a247e8e",
        346_284_714,
        0.818,
        0.956,
    ),
}


class DeiT:
    """The source of DeiT's weights, named as plain ViTs, such as `vit_s.imagenet`."""

    def __str__(self) -> str:
        return "DeiT"

    def records(self) -> dict[str, WeightsRecord]:
        """Returns the records by name."""
        return records()

    def file(self, record: WeightsRecord) -> Path:
        """Returns the folder of a record in the Hub's cache; downloads if necessary."""
        assert record.url is not None
        return hub.fetch(record.url, record.sha256)


def records() -> dict[str, WeightsRecord]:
    """Returns the records of DeiT's weights by name."""
    return {record.name: record for record in map(_record, _FILES)}


def _record(size):
    file = _FILES[size]
    architecture = f"vit_{size}"
    spec = ViTSpec(**model_fields(architecture))
    name = f"{architecture}.imagenet"
    reported = Evaluation(
        task="classification",
        dataset="imagenet2012",
        split="validation",
        metrics={"top1": file.top1, "top5": file.top5},
        images=50_000,
        command=f"python -m recipes.evaluate {name} --data-dir DIR",
        notes="As reported by DeiT's authors, not measured with this package.",
    )
    return WeightsRecord(
        name=name,
        sha256=file.sha256,
        bytes=file.bytes,
        architecture={"class": "VisionTransformer", "spec": spec.to_json()},
        parameters=count_weights(spec),
        input_shape=list(spec.input_shape),
        preprocessing=Preprocessing(
            image_size=[224, 224],
            crop_fraction=224 / 248,
            interpolation="bicubic",
            model_normalizes=True,
            mean=list(spec.mean),
            std=list(spec.std),
        ),
        class_names=list(imagenet.words()),
        evaluations=[reported],
        trained_on="ImageNet-1k",
        recipe="DeiT by Touvron et al., https://github.com/facebookresearch/deit",
        license="Apache-2.0",
        keras_version="none (a file from timm)",
        date="2020-12-23",
        url=f"{hub.PREFIX}{file.repository}@{file.revision}",
    )
