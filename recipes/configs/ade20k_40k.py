"""Train UperNet on ADE20K with the shorter of the paper's two schedules (Table 7).

    python -m recipes.train ade20k_40k --dataset FOLDER --weights VIT.keras \\
        --precision mixed_bfloat16

Same as `ade20k`, but with 40,000 iterations instead of 160,000, over which the learning
rate decays to 0.
"""

import dataclasses
from pathlib import Path

from . import ade20k


def config():
    full = ade20k.config()
    return dataclasses.replace(
        full,
        training=dataclasses.replace(full.training, iterations=40_000),
        run=dataclasses.replace(full.run, run_dir=Path("runs/ade20k_40k")),
    )
