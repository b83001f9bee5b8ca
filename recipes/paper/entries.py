"""The comparisons in the paper's tables and figures.

The project has the paper's text without its tables and figures; `stated` is what the
text says about their results.
"""

import dataclasses
from collections.abc import Callable

from . import charts
from .models import HEADS


@dataclasses.dataclass(frozen=True)
class Entry:
    """A table or figure."""

    title: str
    models: dict[str, str]
    """Models by title of their row."""
    measures: tuple[str, ...] = ("top1",)
    """Names in `recipes.evaluation.paper_measures`."""
    task: str = "classification"
    """Name in `recipes.tasks.TASKS`."""
    draw: Callable = charts.bars
    """Function that draws the result to a file."""
    sizes: tuple[str, ...] = ("s",)
    """Sizes of the ViTs on the paper's data set."""
    stated: str = ""
    """Results in the paper's text, by default in percentage points over plain."""
    baselines: dict[str, str] = dataclasses.field(default_factory=dict)
    """Titles of the baselines of rows that are not compared with the first row."""

    def baseline_of(self, row):
        """Returns the title of a row's baseline."""
        return self.baselines.get(row, next(iter(self.models)))


CB, CBS = {"CB": "cb"}, {"CB_S": "cbs"}
PLAIN = {"plain": "plain"}
ROBUSTNESS = ("top1", "occlusion", "imagenet_a", "fgsm")

FROM_ONE = {"CB_S, Λ from 1": "cbs_from_one"}
UPPER = {"CB, upper blocks": "cb_upper"}

ENTRIES = {
    "table1": Entry(
        "Table 1: a uniform head in MSA",
        PLAIN
        | {
            "Replc": "uniform_replaced",
            "Comp.": "uniform_compensated",
            "Att.": "uniform_attached",
        },
        stated="Replc +0.2, Comp. +0.4, Att. +0.7",
    ),
    "table2": Entry(
        "Table 2: the cost of CB and squeeze-and-excitation",
        PLAIN | CB | CBS | {"SE": "squeeze_excitation"},
        measures=(),
        sizes=("ti", "s", "b"),
        draw=charts.costs,
    ),
    "table3": Entry(
        "Table 3: CB and squeeze-and-excitation",
        PLAIN | CB | CBS | {"SE": "squeeze_excitation"},
    ),
    "table4": Entry(
        "Table 4: CB at the end of MSA, MLP, or both",
        PLAIN | {"MSA": "cb_msa", "MLP": "cb", "both": "cb_both"},
        stated="MLP 0.4 above MSA and above both; all beat plain",
    ),
    "table5": Entry(
        "Table 5: places of CB in the MLP",
        PLAIN | {"Front": "cb_front", "Mid": "cb_mid", "End": "cb"},
        stated="ViT-S: Mid +0.6, End +0.6",
    ),
    "table6": Entry(
        "Table 6: CB and CB_S",
        PLAIN | CB | CBS,
        measures=("top1", "imagenet_v2", "real"),
        sizes=("ti", "s", "b"),
    ),
    "table7": Entry(
        "Table 7: semantic segmentation, UperNet",
        PLAIN | CB | CBS,
        measures=("mean_iou", "pixel_accuracy"),
        task="segmentation",
        sizes=("ti", "s", "b"),
        stated=(
            "mean IoU of Ti, S, B: 40K iterations CB +1.0, +0.4, +0.8; 160K iterations "
            "+0.1, +0.6, +0.6"
        ),
    ),
    "table8": Entry(
        "Table 8: robustness",
        PLAIN | CB | CBS,
        measures=ROBUSTNESS,
        stated=(
            "occlusion, ImageNet-A, FGSM: CB +1.0, +2.2, +5.1; CB_S +0.7, +0.1, +0.6"
        ),
    ),
    "table9": Entry(
        "Table 9: CB in the upper blocks",
        PLAIN | {"all": "cb", "upper": "cb_upper"},
        sizes=("ti", "s", "b"),
        stated="upper, of ViT-Ti, S, B: +1.2, +0.9, +0.3; over all +0.2, +0.3, +0.1",
    ),
    "table10": Entry(
        "Table 10: other contexts",
        PLAIN | {"mean": "cb", "max": "cb_max", "class token": "cb_token"},
        stated="ViT-S: max +0.3, class token −0.6",
    ),
    "figure2": Entry(
        "Figure 2: one more MSA or MLP after 8 blocks",
        {
            "8 blocks": "eight",
            "and an MSA": "eight_extra_msa",
            "and an MLP": "eight_extra_mlp",
        },
    ),
    "figure3": Entry(
        "Figure 3: attention entropy of a plain ViT",
        PLAIN,
        measures=("entropy",),
        draw=charts.along,
        stated="plain ViTs reach 4.4 nats of 5.28",
    ),
    "figure5": Entry(
        "Figure 5: attention entropy and relative distance",
        PLAIN | CB | CBS,
        measures=("entropy", "distance"),
        draw=charts.along,
        stated="CB lowers the entropy, most in deep layers",
    ),
    "figure6": Entry(
        "Figure 6: Λ of CB_S",
        CBS | FROM_ONE,
        measures=("scale_ratio", "scale_mean"),
        draw=charts.along,
        stated="both rise with depth",
    ),
    "figure7": Entry(
        "Figure 7: the number of heads",
        {
            f"{title}, heads: {heads}": f"{model}_{heads}_heads"
            for heads in HEADS
            for title, model in (("plain", "plain"), ("CB", "cb"))
        },
        draw=charts.over_heads,
        sizes=("ti",),
        stated="CB's gain shrinks as heads are added",
        baselines={
            f"{title}, heads: {heads}": f"plain, heads: {heads}"
            for heads in HEADS
            for title in ("plain", "CB")
        },
    ),
    "comparison": Entry(
        "Comparison (not in the paper): plain ViT, CB and CB_S",
        PLAIN | CB | CBS | FROM_ONE | UPPER,
        measures=("top1", "occlusion", "fgsm"),
    ),
    "curves": Entry(
        "Training curves (not in the paper) of the comparison's models",
        PLAIN | CB | CBS | FROM_ONE | UPPER,
        measures=("training_loss", "test_loss", "test_top1"),
        draw=charts.along,
    ),
    "table7_curves": Entry(
        "Training curves (not in the paper) of Table 7's models",
        PLAIN | CB | CBS,
        measures=("training_loss", "test_mean_iou"),
        task="segmentation",
        draw=charts.along,
        sizes=("ti", "s", "b"),
    ),
}
