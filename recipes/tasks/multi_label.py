"""The task of multi-label classification: any number of classes for each image."""

import functools

import keras

from keras_cbvit.pretrained.publishing import in_float32

from ..data.multi_label import load_multi_label
from ..evaluation import multi_label
from ..evaluation.classifiers import Classifier
from ..evaluation.matching import matched
from ..evaluation.models import recorded_dataset, recorded_evaluation
from ..options.multi_label import Augmentation, Data, Training
from ..training import callbacks
from .classification import BATCH_SIZE, Classification

# The options of `recipes.evaluate` that multi-label classifiers have.
OPTIONS = ("models", "on", "data_dir", "test_split", "crop_fraction", "strict")
OPTIONS += ("batch_size", "devices", "json")


class MultiLabel(Classification):
    """Any number of classes for each image; the loss is the binary cross-entropy."""

    name = "multi_label"
    data, augmentation, training = Data, Augmentation, Training

    loss = functools.partial(keras.losses.BinaryCrossentropy, from_logits=True)
    metrics = ()

    def load(self, data, train=True, originals=False):
        return load_multi_label(data, train, originals)

    def validation(self, model, experiment, batches):
        data, watching = super().validation(model, experiment, batches)
        split, batch_size = batches[1].split, experiment.training.global_batch_size

        def measure():
            found = multi_label.measure(model, split, batch_size)
            return {"mean_average_precision": found["mean_average_precision"]}

        return data, [*watching, callbacks.Evaluate(measure)]

    def finish(self, model):
        return in_float32(model, classifier_activation="sigmoid")

    def accepts(self, model):
        return False  # its models look like classifiers; records and runs tell them

    def evaluate(self, models, options, report):
        self.refuse_other_options(options, OPTIONS, "multi-label classifiers")
        rows = []
        for on in options.on or (None,):
            for name, model in models:
                data = self._data_of(name, model, on, options)
                dataset = self.load(data, train=False)
                split, names = _matched(name, model, dataset)
                found = multi_label.measure(
                    model, split, options.batches_of(BATCH_SIZE), options.strict
                )
                by_class = zip(names, found["average_precision"], strict=True)
                row = {
                    "model": name,
                    "on": f"{dataset.description}, {data.test_split}",
                    "backend": keras.backend.backend(),
                    **found,
                    "average_precision": dict(by_class),
                }
                report(row)
                rows.append(row)
        return rows

    def _data_of(self, name, model, on, options):
        found = recorded_evaluation(name, self.name)
        if found is None and on is None:
            raise ValueError(f"{name} does not say what to measure it on; give --on.")
        own = {} if found is None else {**found.options, "test_split": found.split}
        dataset = on or recorded_dataset(found, options.data_dir)
        own |= {"dataset": dataset, "image_size": model.input_shape[1:3]}
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
            raise ValueError(
                "There is nothing to measure the model on; give --dataset."
            )
        return self._data_of("", model, test.dataset, test)

    def measure_to_publish(self, name, model, dataset, data):
        split, names = _matched(name, model, dataset)
        found = multi_label.measure(model, split)
        metrics = {key: found[key] for key in ("mean_average_precision", "f1")}
        own = {
            "images": dataset.test.first(16).images,
            "class_names": names,
            "crop_fraction": data.crop_fraction,
        }
        options = {"separator": data.separator, "crop_fraction": data.crop_fraction}
        notes = f"{dataset.description}, {found['images']} test images"
        return metrics, found["images"], notes, options, own


def _matched(name, model, dataset):
    """The test images with labels that are the model's classes, and their names."""
    names = getattr(model, "class_names", None)
    split, _, _ = matched(Classifier(name, model, names), None, dataset)
    return split, names or dataset.class_names
