import keras
import numpy as np
import pytest
from keras import ops

from recipes.training import states


def variables(model):
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


@pytest.mark.slow
def test_all_variables_are_there_before_the_first_step():
    inputs = keras.Input((4,))
    heads = {name: keras.layers.Dense(3, name=name)(inputs) for name in ("one", "two")}
    model = keras.Model(inputs, heads)
    losses = dict.fromkeys(heads, "categorical_crossentropy")
    model.compile("adam", losses, weighted_metrics={"two": ["accuracy"]})
    states.build(model, dict.fromkeys(heads, ops.zeros((1, 3))))
    before = variables(model)
    for variable in model.metrics_variables:
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), 0)
    labels = dict.fromkeys(heads, np.eye(3, dtype="float32"))
    model.fit(np.ones((3, 4), "float32"), labels, verbose=0)
    assert [*map(id, variables(model))] == [*map(id, before)]
    # The loss, that of each head, and the accuracy: a sum and a count of each.
    assert len(model.metrics_variables) == 8
