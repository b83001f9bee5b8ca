"""Train on ImageNet-1k with DeiT's recipe, as the paper does (section 4).

    python -m recipes.train imagenet --model vitcb_s --data-dir DIR \\
        --precision mixed_bfloat16 --publish vitcb_s.imagenet --weights-dir FOLDER

For a machine with GPUs. `--model` is vit_, vitcb_ or vitcbs_ (plain ViT, CB or CB_S)
followed by ti, s or b. Augmentation, optimizer, schedule, regularization, weight
averaging and evaluation are DeiT's. The data come from TFDS (an error message explains
how to prepare them), or from a folder in ImageNet's original layout:

    --dataset FOLDER --test-split val --test-labels SYNSETS.txt
"""

from pathlib import Path

from ..experiment import Experiment, Run
from ..network import Network
from ..options.classification import Augmentation, Data, Training


def config():
    return Experiment(
        network=Network(model="vitcb_s", drop_path_rate=0.1),
        data=Data(
            dataset="imagenet2012",
            test_split="validation",
            image_size=(224, 224),
            crop_fraction=0.875,
        ),
        augmentation=Augmentation(),
        training=Training(ema_decay=0.99996),
        run=Run(run_dir=Path("runs/imagenet")),
    )
