"""The task of training classifiers."""

import dataclasses

import keras

from keras_cbvit.pretrained.publishing import check_publishable, in_float32
from recipes.data.batches import Batches, TrainingBatches
from recipes.data.sources import load_dataset
from recipes.network import build_classifier
from recipes.publish import measure_and_publish
from recipes.training import callbacks
from recipes.training.augmented import Augmented
from recipes.training.devices import this_process
from recipes.training.heads import fit_head
from recipes.training.loop import Task, notes
from recipes.training.optimizer import build_optimizer
from recipes.training.schedule import WarmupCosine


class Classification(Task):
    """Trains a classifier of `recipes.experiment`; its loss is the cross-entropy."""

    def smoked(self, training):
        batch_size = max(training.global_batch_size // 16, 16)
        return dataclasses.replace(
            training, epochs=2, warmup_epochs=1, global_batch_size=batch_size
        )

    def check(self, experiment):
        training = experiment.training
        parts = training.accumulation_steps
        if parts < 1 or training.global_batch_size % parts:
            raise ValueError(
                f"accumulation_steps={parts} must divide the global_batch_size="
                f"{training.global_batch_size}."
            )
        # The network says what is wrong with its arguments; the classes come with the
        # data.
        self._network(experiment, 2)

    def load(self, experiment):
        originals = experiment.augmentation.random_resized_crop
        return load_dataset(experiment.data, originals=originals)

    def build(self, experiment, dataset):
        names, weights = dataset.class_names, experiment.network.weights
        model = self._network(experiment, len(names))
        if weights is None:
            model.class_names = names
        elif (done := fit_head(model, names, weights)) and this_process()[0] == 0:
            print(done)
        return model

    def _network(self, experiment, classes):
        precision = experiment.run.precision
        return build_classifier(experiment.network, experiment.data, classes, precision)

    def refuse_unpublishable(self, model, experiment):
        run = experiment.run
        check_publishable(model, run.publish, run.weights_dir, run.overwrite)

    def batches(self, experiment, dataset):
        training, strict = experiment.training, experiment.data.strict
        classes, part = len(dataset.class_names), this_process()
        batch_size = training.global_batch_size // training.accumulation_steps
        train_batches = TrainingBatches(
            dataset.train,
            classes,
            batch_size,
            experiment.augmentation,
            training.label_smoothing,
            experiment.run.seed,
            part,
            strict,
        )
        return train_batches, Batches(dataset.test, classes, batch_size, part, strict)

    def compiled(self, model, experiment, batches):
        """The model augments its batches itself."""
        train_batches, test_batches = batches
        training = experiment.training
        schedule = WarmupCosine.of(training, train_batches.steps_per_epoch)
        trainer = Augmented(model)
        trainer.compile(
            optimizer=build_optimizer(training, schedule, model),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
        trainer.optimizer.build(trainer.trainable_variables)
        # Builds loss and metrics, whose shapes `fit` would look for in a batch that is
        # not augmented yet.
        trainer.evaluate(test_batches, steps=1, verbose=0)
        return trainer

    def evaluating(self, model, experiment, batches):
        averages = experiment.training.ema_decay is not None
        watching = [callbacks.EvaluateAverages(batches[1])] if averages else []
        return batches[1], watching

    def finished(self, model, experiment):
        return in_float32(model, classifier_activation="softmax")

    def draw(self, model, dataset, experiment):
        """Nothing: the curves say it all."""

    def publish(self, model, dataset, experiment, command):
        run = experiment.run
        return measure_and_publish(
            model,
            run.publish,
            run.weights_dir,
            dataset,
            experiment.data,
            trained_on=f"{dataset.description}, {len(dataset.train)} images",
            recipe=command,
            license=run.license,
            notes=notes(experiment, f"{experiment.training.epochs} epochs"),
            overwrite=run.overwrite,
        )
