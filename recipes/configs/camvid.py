"""Train UperNet on a ViT-Ti with CB on CamVid: 480x360 road scenes, 11 classes.

    python -m recipes.train camvid --dataset FOLDER [--weights VIT.keras]

FOLDER contains {train,val,test}/images with 367, 101 and 233 images, and
{train,val,test}/labels with labels 0-10, and 11 for ignored pixels. For one GPU; on a
CPU use a smaller network, for instance `--hidden-dim 64 --depth 4 --num-heads 2
--blocks 0 1 2 3 --channels 32 --iterations 2000`.
"""

from pathlib import Path

from ..experiment import Experiment, Run
from ..network import Network
from ..options.segmentation import Augmentation, Data, Training

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)


def config():
    return Experiment(
        network=Network(model="upernet_vitcb_ti", drop_path_rate=0.0),
        data=Data(
            dataset="./camvid",
            class_names=CLASSES,
            ignored_label=11,
            scale=(360, 480),
            image_size=(352, 352),
        ),
        augmentation=Augmentation(),
        training=Training(
            iterations=8000,
            warmup_iterations=500,
            learning_rate=3e-4,
            evaluation_iterations=500,
        ),
        run=Run(run_dir=Path("runs/camvid")),
    )
