"""What tests look up of published weights."""

from keras_cbvit.pretrained.sources import Folder


def records_in(folder):
    """The records of the weights that are published in a folder, by name."""
    return Folder(folder).records()


def published_file(folder, name, ending=".keras"):
    """The path of the published file of a name, or of its card."""
    return (folder / records_in(folder)[name].filename).with_suffix(ending)
