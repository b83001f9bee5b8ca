"""The plain mini ViT of CIFAR-10 becomes a CB ViT, on two CPU cores.

    python -m recipes.train cifar10_anneal

It starts from the published `vit_mini.cifar10` as CB_S, whose Λ = 0 changes nothing. In
half of the training Λ goes to 1; CB_S is then exactly a CB model, which is saved. As
`cifar10_mini`, but for the learning rate.
"""

import dataclasses
from pathlib import Path

from ..network import Network
from . import cifar10_mini


def config():
    scratch = cifar10_mini.config()
    return dataclasses.replace(
        scratch,
        network=Network(weights="vit_mini.cifar10", broadcast="cbs"),
        training=dataclasses.replace(
            scratch.training, base_learning_rate=4e-3, anneal_context=1950
        ),
        run=dataclasses.replace(scratch.run, run_dir=Path("runs/cifar10_anneal")),
    )
