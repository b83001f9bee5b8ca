"""DeiT's schedule on ImageNet-1k through TFDS, which the paper trains with.

    python -m recipes.train imagenet --model ViTCB_S --data-dir DIR \\
        --precision mixed_bfloat16 --publish vitcb_s.imagenet --weights-dir FOLDER

For a machine with GPUs; TFDS says how to download ImageNet. Optimiser, schedule,
regularisation and evaluation are DeiT's (paper, section 4). Its augmentation is not
complete yet: images are mirrored and shifted, without random resized crops,
RandAugment, erasing, mixup and CutMix, so expect less than DeiT's accuracy.
"""

from pathlib import Path

from recipes.experiment import Augmentation, Data, Experiment, Network, Run, Training


def config():
    return Experiment(
        network=Network(model="ViTCB_S"),
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
