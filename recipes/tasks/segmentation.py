"""The task of semantic segmentation: one class per pixel."""

import dataclasses

import keras

from keras_cbvit import SegmentationModel
from keras_cbvit.pretrained.publishing import in_float32
from keras_cbvit.pretrained.sources import locate

from ..data.segmentation.batches import TrainingCrops
from ..data.segmentation.occurrence import check_occurrence
from ..data.segmentation.pairs import load_pairs
from ..evaluation import paper_measures, pixels
from ..evaluation.matching import match_pairs
from ..evaluation.reports import segmentation_sentence, segmentation_tables
from ..evaluation.sections import Worst
from ..evaluation.sections import segmentation as sections_of
from ..evaluation.segmenters import (
    data_of,
    data_to_draw,
    draw_segmenters,
    measure_segmenters,
)
from ..figures import draw_segmentations
from ..network import build_segmenter
from ..options.segmentation import Augmentation, Data, Training
from ..training import callbacks, states
from ..training.devices import refuse_processes
from ..training.optimizer import build_optimizer
from ..training.pixels import PixelCrossEntropy, Segmenter
from ..training.schedule import WarmupPolynomial
from .base import Task

# The options of `recipes.evaluate` that apply to segmentation models.
OPTIONS = ("models", "on", "data_dir", "test_split", "batch_size", "devices")
OPTIONS += ("figure", "json", "html")


class Segmentation(Task):
    """One class per pixel; the loss is the cross-entropy of the labeled pixels."""

    name = "segmentation"
    data, augmentation, training = Data, Augmentation, Training
    smoke_images = 4

    def shorten(self, training):
        return dataclasses.replace(
            training,
            iterations=4,
            evaluation_iterations=2,
            warmup_iterations=1,
            head_warmup_epochs=min(training.head_warmup_epochs, 1),
            global_batch_size=max(training.global_batch_size // 8, 2),
        )

    def check(self, experiment):
        data, training = experiment.data, experiment.training
        if training.iterations % training.evaluation_iterations:
            raise ValueError(
                f"iterations={training.iterations} must be a multiple of "
                f"evaluation_iterations={training.evaluation_iterations}."
            )
        low, high = experiment.augmentation.resize
        if not 0 < low <= high:
            raise ValueError(
                f"resize={low, high} must be two positive factors, the lower first."
            )
        for name in ("scale", "image_size"):
            if min(getattr(data, name)) < 1:
                raise ValueError(
                    f"{name}={getattr(data, name)} must be two sides of at least 1 "
                    "pixel."
                )
        refuse_processes("Segmentation")

    def load(self, data, train=True, originals=False):
        if not train:
            return load_pairs(dataclasses.replace(data, train_split=data.test_split))
        dataset = load_pairs(data)
        check_occurrence(dataset, data.dataset)
        return dataset

    def build(self, network, data, classes, dtype):
        return build_segmenter(network, data, classes, dtype)

    def prepare(self, model, dataset, experiment):
        model.class_names = dataset.class_names

    def batches(self, experiment, dataset):
        crops = TrainingCrops(
            dataset.train,
            experiment.training.global_batch_size,
            experiment.data,
            experiment.augmentation,
            experiment.training.evaluation_iterations,
            experiment.run.seed,
        )
        return crops, dataset.test

    def compile(self, model, experiment, batches):
        """Returns the compiled model with its auxiliary head and the same loss."""
        training = experiment.training
        weights = {"predictions": 1.0, "auxiliary": training.auxiliary_weight}
        trainer = Segmenter(model.with_auxiliary_head())
        trainer.compile(
            optimizer=build_optimizer(
                training,
                WarmupPolynomial.of(training),
                trainer,
                training.evaluation_iterations,
            ),
            loss={name: PixelCrossEntropy() for name in weights},
            loss_weights=weights,
        )
        states.build(trainer, keras.ops.zeros((1, 1, 1), "int32"))
        return trainer

    def validation(self, model, experiment, batches):
        # `fit` cannot evaluate whole images, whose sizes vary.
        scale = experiment.data.scale
        batch_size = experiment.training.global_batch_size

        def measure(_):
            found = pixels.measure(model, batches[1], scale, batch_size)
            return {name: found[name] for name in ("mean_iou", "pixel_accuracy")}

        return [callbacks.Evaluate(measure)]

    def finish(self, model):
        return in_float32(model)

    def draw(self, model, dataset, experiment):
        rows = pixels.predict_examples(
            [model],
            dataset.test,
            experiment.data.scale,
            experiment.training.global_batch_size,
        )
        file = experiment.run.folder / "predictions.png"
        draw_segmentations(rows, dataset.class_names, file)

    def examine(self, model, dataset, experiment):
        worst = Worst()
        found = pixels.measure(
            model,
            dataset.test,
            experiment.data.scale,
            experiment.training.global_batch_size,
            worst.add,
        )
        return found, sections_of(found, worst, dataset.test, dataset.class_names)

    def length(self, training):
        return f"{training.iterations} iterations"

    def accepts(self, model):
        return isinstance(model, SegmentationModel)

    def evaluate(self, models, options, report):
        self.refuse_other_options(options, OPTIONS, "segmentation models")
        given = {"data_dir": options.data_dir, "test_split": options.test_split}
        batch_size = options.batches_of(pixels.BATCH_SIZE)
        on = options.on or (None,)
        # Raises errors about the figure before the evaluation.
        drawn = data_to_draw(models, on[0], given) if options.figure else None
        rows = measure_segmenters(models, on, given, batch_size, report)
        if drawn is not None:
            draw_segmenters(models, drawn, batch_size, options.figure)
        return rows

    def sentence(self, row):
        return segmentation_sentence(row)

    def table(self, rows):
        return segmentation_tables(rows)

    def data_to_publish(self, model, publication):
        given = {
            key: value
            for key, value in vars(publication.test).items()
            if value != getattr(type(publication.test), key)
        }
        own = ("dataset", "data_dir", "test_split")
        if others := [key for key in given if key not in own]:
            raise ValueError(
                f"{others[0]}={given[others[0]]!r} does not apply to segmentation "
                "models."
            )
        return data_of(str(publication.checkpoint), given)

    def measure_to_publish(self, name, model, dataset, data, found=None):
        scale = data.scale
        pairs, names = match_pairs(name, model, dataset.test, dataset.class_names)
        found = found or pixels.measure(model, pairs, scale)
        notes = (
            f"whole images at the scale {scale[0]}×{scale[1]}, {found['pixels']:,} "
            "labeled pixels"
        )
        if omitted := pixels.describe_omitted(found, names):
            notes += f", {omitted}"
        metrics = {key: found[key] for key in ("mean_iou", "pixel_accuracy")}
        options = {
            "class_names": list(data.class_names),
            "ignored_label": data.ignored_label,
            "scale": list(scale),
        }
        images = pixels.first_input(model, pairs, scale)
        own = {"images": images, "class_names": names}
        return metrics, found["images"], notes, options, own

    def cost(self, experiment, classes):
        network = experiment.network
        if network.model is not None:
            # Counting does not require the weights, which may be missing when results
            # from another machine are printed.
            network = dataclasses.replace(network, weights=None)
        model = build_segmenter(network, experiment.data, classes, "float32")
        return paper_measures.parameters(model)

    def require(self, measures, experiment):
        locate(experiment.network.weights)

    def measure(self, names, model, dataset, experiment):
        test = dataset.test
        if experiment.run.smoke:
            test = test.first(self.smoke_images)
        return paper_measures.measure_pixels(model, test, experiment)

    def describe_training(self, training, data):
        crop, scale = ("×".join(map(str, data[key])) for key in ("image_size", "scale"))
        return (
            f"{training['iterations']} iterations in batches of "
            f"{training['global_batch_size']}, crops of {crop} pixels, tested on "
            f"{data['test_split']} at the scale {scale}"
        )

    def epoch(self, training):
        return f"epoch of {training['evaluation_iterations']} iterations"
