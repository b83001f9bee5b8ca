"""UperNet on the mini ViT of CIFAR-10 on CamVid, for two CPU cores.

    python -m recipes.train camvid_mini --dataset FOLDER
    python -m recipes.train camvid_mini --dataset FOLDER --weights vit_mini.cifar10

FOLDER is as for `camvid`. As in the paper, the ViT comes from classification: it is
`vitcb_mini.cifar10`, or another of the three, with the position embedding resampled.
Images are of half the height and width, since its patches have 8 pixels. One run
takes about half an hour of one core; docs/camvid.md has its results.
"""

import dataclasses
from pathlib import Path

from . import camvid


def config():
    full = camvid.config()
    return dataclasses.replace(
        full,
        network=dataclasses.replace(
            full.network,
            model=None,
            weights="vitcb_mini.cifar10",
            blocks=(1, 2, 3, 5),
            channels=32,
        ),
        data=dataclasses.replace(full.data, scale=(180, 240), image_size=(176, 176)),
        training=dataclasses.replace(
            full.training,
            iterations=1600,
            global_batch_size=8,
            warmup_iterations=100,
            learning_rate=1e-3,
            evaluation_iterations=200,
        ),
        run=dataclasses.replace(full.run, run_dir=Path("runs/camvid_mini")),
    )
