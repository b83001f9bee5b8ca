"""The task of training segmentation models."""

import dataclasses

from keras_cbvit.pretrained.publishing import check_publishable, in_float32
from recipes.data.segmentation.batches import TrainingCrops
from recipes.data.segmentation.occurrence import check_occurrence
from recipes.data.segmentation.pairs import load_pairs
from recipes.evaluation.pixels import measure, predicted_pictures
from recipes.figures import draw_segmentations
from recipes.network import build_segmenter
from recipes.publish import measure_and_publish_segmenter
from recipes.training import callbacks
from recipes.training.devices import this_process
from recipes.training.loop import Task, notes
from recipes.training.optimizer import build_optimizer
from recipes.training.pixels import PixelCrossEntropy, Segmenter
from recipes.training.schedule import WarmupPolynomial


class Segmentation(Task):
    """Trains a model of `recipes.segmentation_experiment` on the pixels that count."""

    smoke_images = 4

    def smoked(self, training):
        return dataclasses.replace(
            training,
            iterations=4,
            evaluation_iterations=2,
            warmup_iterations=1,
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
                f"resize={low, high} must be two factors, the lower first."
            )
        for name in ("scale", "image_size"):
            if min(getattr(data, name)) < 1:
                raise ValueError(
                    f"{name}={getattr(data, name)} must be two sides of at least 1."
                )
        if this_process()[1] > 1:
            raise ValueError(
                "Segmentation trains in one process; unset KERAS_DISTRIBUTION_"
                "NUM_PROCESSES and use the devices of one machine."
            )
        # The network says what is wrong with its arguments; the classes come with the
        # data.
        self._network(experiment, 2, experiment.run.precision)

    def load(self, experiment):
        dataset = load_pairs(experiment.data)
        check_occurrence(dataset, experiment.data.dataset)
        return dataset

    def build(self, experiment, dataset):
        classes = len(dataset.class_names)
        model = self._network(experiment, classes, experiment.run.precision)
        model.class_names = dataset.class_names
        return model

    def _network(self, experiment, classes, precision):
        return build_segmenter(experiment.network, experiment.data, classes, precision)

    def refuse_unpublishable(self, model, experiment):
        run = experiment.run
        check_publishable(model, run.publish, run.weights_dir, run.overwrite)

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

    def compiled(self, model, experiment, batches):
        """The model with its auxiliary head, each with the same loss."""
        training = experiment.training
        weights = {"predictions": 1.0, "auxiliary": training.auxiliary_weight}
        trainer = Segmenter(model.with_auxiliary_head())
        trainer.compile(
            optimizer=build_optimizer(training, WarmupPolynomial.of(training), trainer),
            loss={name: PixelCrossEntropy() for name in weights},
            loss_weights=weights,
        )
        trainer.optimizer.build(trainer.trainable_variables)
        return trainer

    def evaluating(self, model, experiment, batches):
        # Whole pictures are of many sizes, which `fit` cannot evaluate.
        def measured():
            found = self._measure(model, batches[1], experiment)
            return {name: found[name] for name in ("mean_iou", "pixel_accuracy")}

        return None, [callbacks.Evaluate(measured)]

    def _measure(self, model, pairs, experiment):
        batch_size = experiment.training.global_batch_size
        return measure(model, pairs, experiment.data.scale, batch_size)

    def finished(self, model, experiment):
        return in_float32(model)

    def draw(self, model, dataset, experiment):
        rows = predicted_pictures(
            [model],
            dataset.test,
            experiment.data.scale,
            experiment.training.global_batch_size,
        )
        file = experiment.run.folder / "predictions.png"
        draw_segmentations(rows, dataset.class_names, file)

    def publish(self, model, dataset, experiment, command):
        run = experiment.run
        return measure_and_publish_segmenter(
            model,
            run.publish,
            run.weights_dir,
            dataset,
            experiment.data,
            trained_on=f"{dataset.description}, {len(dataset.train)} images",
            recipe=command,
            license=run.license,
            notes=notes(experiment, f"{experiment.training.iterations} iterations"),
            overwrite=run.overwrite,
        )
