"""The task of multi-label classification: any number of classes per image."""

import functools

import keras

from keras_cbvit import VisionTransformer
from keras_cbvit.pretrained.publishing import in_float32

from ..data.multi_label import load_multi_label
from ..evaluation import multi_label
from ..evaluation.classifiers import Classifier, size_of
from ..evaluation.matching import match_classes
from ..evaluation.models import recorded_dataset, recorded_evaluation, run_data
from ..evaluation.sections import multi_label as sections_of
from ..options.multi_label import Augmentation, Data, Training
from ..training import callbacks
from ..training.devices import refuse_processes
from .classification import BATCH_SIZE, Classification

# The options of `recipes.evaluate` that apply to multi-label classifiers.
OPTIONS = ("models", "on", "data_dir", "test_split", "crop_fraction", "strict")
OPTIONS += ("image_size", "batch_size", "devices", "json", "html")
# Data options of a run that are defaults for evaluating its model.
FROM_RUN = ("separator", "crop_fraction")


class MultiLabel(Classification):
    """Any number of classes per image; the loss is the binary cross-entropy."""

    name = "multi_label"
    data, augmentation, training = Data, Augmentation, Training

    loss = functools.partial(keras.losses.BinaryCrossentropy, from_logits=True)
    metrics = ()

    def check(self, experiment):
        super().check(experiment)
        refuse_processes("Multi-label classification")

    def load(self, data, train=True, originals=False):
        return load_multi_label(data, train, originals)

    def validation(self, model, experiment, batches):
        def measure(_):
            workers = experiment.run.workers
            found = multi_label.measure_batches(model, batches[1], workers)
            value = found["mean_average_precision"]
            return {} if value is None else {"mean_average_precision": value}

        watching = super().validation(model, experiment, batches)
        return [*watching, callbacks.Evaluate(measure)]

    def finish(self, model):
        return in_float32(model, classifier_activation="sigmoid")

    def examine(self, model, dataset, experiment):
        found = multi_label.measure(model, dataset.test, strict=experiment.data.strict)
        return found, sections_of(found, dataset.class_names)

    def accepts(self, model):
        return (
            isinstance(model, VisionTransformer)
            and model.spec.classifier_activation == "sigmoid"
        )

    def evaluate(self, models, options, report):
        self.refuse_other_options(options, OPTIONS, "multi-label classifiers")
        rows = []
        for on in options.on or (None,):
            for name, model in models:
                data = self._data_of(name, model, on, options)
                dataset = self.load(data, train=False)
                split, names = _match(name, model, dataset)
                found = multi_label.measure(
                    model, split, options.batches_of(BATCH_SIZE), options.strict
                )
                by_class = zip(names, found["average_precision"], strict=True)
                row = {
                    "model": name,
                    "on": f"{dataset.description}, {data.test_split}"
                    + _describe_skipped(split, found),
                    "backend": keras.backend.backend(),
                    **found,
                    "average_precision": dict(by_class),
                }
                report(row, functools.partial(sections_of, found, names))
                rows.append(row)
        return rows

    def _data_of(self, name, model, on, options):
        """Returns the requested data, with defaults from the record or run.

        Args:
            name: name of published weights, or path of a file or run folder.
            model: the model.
            on: the data set; `None` for that of the record or the run.
            options: options of `recipes.evaluate` or `recipes.publish`.
        """
        if found := recorded_evaluation(name, self.name):
            own = {**found.options, "test_split": found.split}
            own["dataset"] = recorded_dataset(found, options.data_dir)
        else:
            of_set = ("dataset", "data_dir", "test_split") if on is None else ()
            own = run_data(name, (*FROM_RUN, *of_set))
        if on is not None:
            own["dataset"] = on
        if "dataset" not in own:
            raise ValueError(f"{name} has no record of its test data; set --on.")
        own["image_size"] = size_of(name, model, options.image_size)
        for key in ("data_dir", "test_split", "crop_fraction", "strict"):
            if (value := getattr(options, key)) is not None:
                own[key] = value
        return Data(**own)

    def sentence(self, row):
        return multi_label.sentence(row)

    def table(self, rows):
        return multi_label.tables(rows)

    def data_to_publish(self, model, publication):
        test = publication.test
        if test.dataset is None:
            raise ValueError("Set --dataset to the data to evaluate the model on.")
        if test.test_labels is not None:
            raise ValueError("test_labels= does not apply to multi-label classifiers.")
        return self._data_of(str(publication.checkpoint), model, test.dataset, test)

    def measure_to_publish(self, name, model, dataset, data, found=None):
        split, names = _match(name, model, dataset)
        found = found or multi_label.measure(model, split)
        if found["mean_average_precision"] is None:
            raise ValueError(
                "The average precision is undefined: in the test images of "
                f"{dataset.description}, every class occurs in all images or in none."
            )
        metrics = {key: found[key] for key in ("mean_average_precision", "f1")}
        own = {
            "images": dataset.test.first(16).images,
            "class_names": names,
            "crop_fraction": data.crop_fraction,
        }
        options = {"separator": data.separator, "crop_fraction": data.crop_fraction}
        notes = f"{dataset.description}, {found['images']} test images"
        notes += _describe_skipped(split, found)
        return metrics, found["images"], notes, options, own


def _match(name, model, dataset):
    """Returns the test split with labels in the model's classes, and their names."""
    names = getattr(model, "class_names", None)
    split, _, names, _ = match_classes(Classifier(name, model, names), None, dataset)
    return split, names


def _describe_skipped(split, found):
    """Describes how many images were skipped; empty if none were."""
    number = split.broken + len(split) - found["images"]
    return f", without {number} that cannot be decoded" if number else ""
