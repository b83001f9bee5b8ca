"""DeiT's training on ImageNet-1k, which the paper trains with (section 4).

    python -m recipes.train imagenet --model vitcb_s --data-dir DIR \\
        --precision mixed_bfloat16 --publish vitcb_s.imagenet --weights-dir FOLDER

For a machine with GPUs; `--model` is vit_, vitcb_ or vitcbs_ and ti, s or b, for the
plain ViT, CB and CB_S. Augmentation, optimizer, schedule, regularization, averaged
weights and evaluation are DeiT's. The data come through TFDS (it says how to get them),
or from a folder in ImageNet's own layout:

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
