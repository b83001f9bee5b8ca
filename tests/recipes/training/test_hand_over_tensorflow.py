"""TensorFlow's datasets of a feed: begun again, and ended by an error."""

import os

import pytest
import tensorflow as tf

from recipes.data.feed import Feed
from recipes.training.hand_over import hand_over
from tests.recipes.data.test_feed import Arrays, children


@pytest.mark.slow
def test_the_feed_is_read_once_when_the_dataset_is_begun_again():
    with hand_over(Feed(Arrays(), 1), 3, 50) as dataset:
        before = iter(dataset)  # as `fit` does with several replicas
        assert next(before).numpy().tolist() == [6, 7]
        found = [next(again := iter(dataset)).numpy().tolist()]
        assert len(children(os.getpid())) == 1
        found += [batch.numpy().tolist() for batch in again]
        assert len(list(before)) < 46
    assert found == [[2 * step, 2 * step + 1] for step in range(3, 50)]
    assert not children(os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_part_is_raised_and_nothing_is_left(workers):
    feed = Feed(Arrays(fail_at=5), workers)
    with (
        pytest.raises(ValueError, match="step 5 cannot be made") as raised,
        hand_over(feed, 0, 50) as dataset,
    ):
        for _ in dataset:
            pass
    assert not isinstance(raised.value, tf.errors.OpError)
    assert not children(os.getpid())
