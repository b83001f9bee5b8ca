"""Train UperNet on ADE20K with XCiT's recipe, as the paper does (section 4).

    python -m recipes.train ade20k --dataset FOLDER --weights VIT.keras \\
        --precision mixed_bfloat16

For a machine with GPUs. FOLDER is ADEChallengeData2016 from
http://sceneparsing.csail.mit.edu, with images/training, annotations/training and so on.
Use `--model` upernet_vitcb_ti, _s or _b with `--drop-path-rate` 0.0, 0.05 or 0.1. Batch
size, optimizer, schedule, crops and evaluation (whole images at a single scale) are
XCiT's. The config `ade20k_40k` trains for 40,000 iterations.
"""

from pathlib import Path

from ..data.segmentation.ade20k import CLASSES
from ..experiment import Experiment, Run
from ..network import Network
from ..options.segmentation import Augmentation, Data, Training


def config():
    return Experiment(
        network=Network(model="upernet_vitcb_s", drop_path_rate=0.05),
        data=Data(
            dataset="./ADEChallengeData2016",
            train_split="training",
            test_split="validation",
            class_names=CLASSES,
            ignored_label=0,
        ),
        augmentation=Augmentation(),
        training=Training(iterations=160_000),
        run=Run(run_dir=Path("runs/ade20k")),
    )
