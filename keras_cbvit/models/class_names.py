"""What models have in common that know the names of their classes."""

from keras_cbvit.pretrained.classes import checked_names


class HasClassNames:
    """A `keras.Model` with the names of its classes, which its files keep.

    A subclass has `_number_of_classes`, and puts `class_names` into its configuration.
    """

    _class_names = None

    @property
    def class_names(self):
        """Names of the classes in the order of the predictions; `None` if not known.

        A tuple of strings, all different, as many as the model predicts classes; in
        Unicode's NFC, without space around them. It may be set.

        Raises:
            ValueError: on setting other names.
        """
        # TensorFlow wraps what is kept.
        return None if self._class_names is None else tuple(self._class_names)

    @class_names.setter
    def class_names(self, names):
        if names is not None:
            names = checked_names(names, self._number_of_classes)
        self._class_names = names

    @property
    def _number_of_classes(self):
        """How many classes the model predicts; 0 without a head."""
        raise NotImplementedError
