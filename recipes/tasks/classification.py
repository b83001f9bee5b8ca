"""The task of image classification."""

import dataclasses
import functools
import sys

import keras

from keras_cbvit import SegmentationModel
from keras_cbvit.pretrained.publishing import in_float32
from keras_cbvit.pretrained.sources import find_record

from ..data.batches import Batches, TrainingBatches
from ..data.sources import load_dataset
from ..evaluation import paper_measures
from ..evaluation.classifiers import as_classifier, size_of
from ..evaluation.matching import Classifier, match_classes
from ..evaluation.measuring import measure, predictions_of
from ..evaluation.models import recorded_dataset, recorded_evaluation, run_data
from ..evaluation.probes import probe
from ..evaluation.reports import classification_table, condition_name
from ..evaluation.sections import classification as sections_of
from ..evaluation.sets import data_of, load_set, with_options
from ..network import build_classifier
from ..options.classification import Augmentation, Data, Training
from ..training import callbacks, states
from ..training.devices import this_process
from ..training.hand_over import evaluate
from ..training.heads import fit_head
from ..training.mixing import MixingModel
from ..training.optimizer import build_optimizer
from ..training.schedule import WarmupCosine
from .base import Task

BATCH_SIZE = 256  # images per batch in evaluation
# Data options of a run that are defaults for evaluating its model.
FROM_RUN = ("dataset", "data_dir", "test_split", "crop_fraction", "test_labels")


class Classification(Task):
    """One class per image; the loss is the cross-entropy."""

    name = "classification"
    data, augmentation, training = Data, Augmentation, Training

    loss = functools.partial(keras.losses.CategoricalCrossentropy, from_logits=True)
    metrics = ("accuracy",)

    def shorten(self, training):
        batch_size = max(training.global_batch_size // 16, 16)
        return dataclasses.replace(
            training,
            epochs=2,
            warmup_epochs=1,
            head_warmup_epochs=min(training.head_warmup_epochs, 1),
            global_batch_size=batch_size,
            anneal_context=training.anneal_context and 1,
        )

    def check(self, experiment):
        training = experiment.training
        parts = training.accumulation_steps
        if training.global_batch_size % parts:
            raise ValueError(
                f"accumulation_steps={parts} must divide global_batch_size="
                f"{training.global_batch_size}."
            )

    def load(self, data, train=True, originals=False):
        return load_dataset(data, train, originals)

    def build(self, network, data, classes, dtype):
        return build_classifier(network, data, classes, dtype)

    def prepare(self, model, dataset, experiment):
        names, weights = dataset.class_names, experiment.network.weights
        if weights is None:
            model.class_names = names
        elif (done := fit_head(model, names, weights)) and this_process()[0] == 0:
            print(done)

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

    def compile(self, model, experiment, batches):
        """Returns the compiled model, which also mixes its batches."""
        training, steps_per_epoch = experiment.training, batches[0].steps_per_epoch
        updates = training.epochs * steps_per_epoch // training.accumulation_steps
        if (training.anneal_context or 0) > updates:
            raise ValueError(
                f"anneal_context={training.anneal_context} exceeds the {updates} "
                "updates of the training run, so Λ would not reach 1."
            )
        schedule = WarmupCosine.of(training, steps_per_epoch)
        trainer = MixingModel(model)
        trainer.compile(
            optimizer=build_optimizer(training, schedule, model, steps_per_epoch),
            loss=self.loss(),
            weighted_metrics=list(self.metrics),
        )
        # `fit` would infer the shapes of loss and metrics from a batch before mixing.
        states.build(trainer, keras.ops.zeros((1, *model.output_shape[1:])))
        return trainer

    def validation(self, model, experiment, batches):
        workers = experiment.run.workers
        watching = [callbacks.Evaluate(lambda m: evaluate(m, batches[1], workers))]
        if experiment.training.ema_decay is not None:
            watching.append(
                callbacks.EvaluateAverages(lambda m: evaluate(m, batches[1], workers))
            )
        return watching

    def finish(self, model):
        return in_float32(model, classifier_activation="softmax")

    def examine(self, model, dataset, experiment):
        predictions = predictions_of(model, dataset.test, strict=experiment.data.strict)
        found = predictions.measures()
        names = dataset.class_names
        return found, sections_of(found, predictions, dataset.test, names)

    def length(self, training):
        return f"{training.epochs} epochs"

    def accepts(self, model):
        return not isinstance(model, SegmentationModel)

    def evaluate(self, models, options, report):
        if options.figure is not None:
            raise ValueError("figure= applies only to segmentation models.")
        if options.probe:
            return self._probe(models, options, report)
        if options.probe_blocks:
            raise ValueError(
                f"probe_blocks={options.probe_blocks} requires --probe knn or linear."
            )
        classifiers = [
            as_classifier(name, model, options.normalize, options.image_size)
            for name, model in models
        ]
        results = []
        load = functools.lru_cache(maxsize=1)(load_set)  # models of one size share it
        for on in options.on or (None,):
            rows = []
            for classifier in classifiers:
                data = self.data_to_evaluate(options, on, classifier)
                dataset = load(on or data.dataset, data, options.real_labels)
                for row, sections in self._rows(options, classifier, on, dataset):
                    report(row, sections)
                    rows.append(row)
            # Sort by condition first, to list models side by side.
            number = len(rows) // len(classifiers)
            results += [row for i in range(number) for row in rows[i::number]]
        return results

    def _probe(self, models, options, report):
        """Returns the results of `evaluate` with probes."""
        for name in ("under", "real_labels"):
            value, default = getattr(options, name), getattr(type(options), name)
            if value != default:
                raise ValueError(f"{name}={value!r} cannot be combined with --probe.")
        rows = []
        for on in options.on or (None,):
            for name, model in models:
                classifier = Classifier(name, model, None)
                data = self.data_to_evaluate(options, on, classifier)
                data = dataclasses.replace(data, train_split=Data.train_split)
                dataset = self.load(data)
                for found in probe(
                    name, model, dataset, options, options.batches_of(BATCH_SIZE)
                ):
                    row = {"model": name, "on": dataset.description, "epsilon": None}
                    row |= {"backend": keras.backend.backend(), **found}
                    report(row)
                    rows.append(row)
        return rows

    def data_to_evaluate(self, options, on, classifier):
        """Returns the requested data, or those of the model's record."""
        if on is not None:
            data = data_of(on, options.real_labels)
        elif found := recorded_evaluation(classifier.name, self.name):
            data = Data(
                dataset=recorded_dataset(found, options.data_dir),
                test_split=found.split,
                crop_fraction=find_record(classifier.name).preprocessing.crop_fraction,
            )
        elif of_run := run_data(classifier.name, FROM_RUN):
            data = Data(**of_run)
        else:
            raise ValueError(
                f"{classifier.name} has no record of its test data; set --on."
            )
        data = dataclasses.replace(data, strict=options.strict)
        size = size_of(classifier.name, classifier.model, options.image_size)
        return with_options(data, options, size)

    def _rows(self, options, classifier, on, dataset):
        """Yields the results of a classifier on a set, with functions of sections."""
        try:
            split, model, names, description = match_classes(classifier, on, dataset)
        except ValueError as error:
            raise ValueError(
                f"{error} `--probe knn linear` evaluates features on any classes."
            ) from error
        labeled = len(split) if split.labels.ndim == 1 else split.labels.any(1).sum()
        for under, epsilon in options.conditions():
            progress = sys.stdout.isatty()
            if progress:
                condition = condition_name(under, epsilon)
                print(f"{classifier.name} on {description}, {condition}")
            predictions = predictions_of(
                model,
                split,
                under,
                epsilon or 0.0,
                options.batches_of(BATCH_SIZE),
                options.strict,
                progress,
            )
            found = predictions.measures()
            row = {"model": classifier.name, "on": description}
            if left_out := split.broken + int(labeled) - found["images"]:
                row["on"] += f", without {left_out} that cannot be decoded"
            row |= {"under": under, "epsilon": epsilon}
            sections = functools.partial(sections_of, found, predictions, split, names)
            yield row | {"backend": keras.backend.backend()} | found, sections

    def sentence(self, row):
        on = row["on"]
        if row["under"] != "clean":
            on += f", {condition_name(row['under'], row['epsilon'])}"
        return (
            f"{row['model']}: {row['right']} of {row['images']} test images correct, "
            f"top-1 accuracy {row['top1']:.4f} ({on}; {row['backend']})"
        )

    def table(self, rows):
        return classification_table(rows)

    def data_to_publish(self, model, publication):
        test = publication.test
        if test.dataset is None:
            raise ValueError("Set --dataset to the data to evaluate the model on.")
        data = Data(dataset=test.dataset, strict=test.strict)
        size = size_of(str(publication.checkpoint), model, test.image_size)
        return with_options(data, test, size)

    def measure_to_publish(self, name, model, dataset, data, found=None):
        names = model.class_names
        split, *_ = match_classes(Classifier(name, model, names), None, dataset)
        found = found or measure(model, split)
        right, total = found["right"], found["images"]
        notes = f"{dataset.description}, {right} of {total} test images correct"
        if left_out := split.broken + len(split) - total:
            notes += f", without {left_out} that cannot be decoded"
        metrics = {key: found[key] for key in ("top1", "top5", "loss", "ece")}
        own = {
            "images": dataset.test.first(16).images,
            "class_names": names or dataset.class_names,
            "crop_fraction": data.crop_fraction,
        }
        return metrics, total, notes, {}, own

    def cost(self, experiment, classes):
        model = build_classifier(
            experiment.network, experiment.data, classes, "float32"
        )
        return paper_measures.cost(model)

    def require(self, measures, experiment):
        paper_measures.require_sets(measures, experiment.data)

    def measure(self, names, model, dataset, experiment):
        data = experiment.data
        return {n: paper_measures.measure(n, model, dataset, data) for n in names}

    def describe_training(self, training, data):
        return (
            f"{training['epochs']} epochs in batches of "
            f"{training['global_batch_size']}, images of {data['image_size'][0]} pixels"
        )
