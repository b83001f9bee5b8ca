"""Which feeds go with which settings; `test_tf_data.py` has the one of TensorFlow."""

import pytest

from recipes.data.feed import Feed
from recipes.experiment import Run
from recipes.train import train
from recipes.training.hand_over import build_feed, check_feed
from tests.recipes.small import small

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feed": "tf.data"}, "KERAS_BACKEND=tensorflow, but the backend is torch"),
        ({"data_service": "grpc://a:1"}, "'grpc://a:1' requires --feed tf.data"),
        ({"feed": "threads"}, "feed='threads' is unknown; use one of 'grain', 'tf.d"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path, options, message
):
    with pytest.raises(ValueError, match=message):
        train(small(tmp_path / "run", **options))
    assert not list(tmp_path.iterdir())


def test_grain_is_the_feed_of_any_batches():
    run = Run(workers=2)
    check_feed(run)
    feed = build_feed(object(), run)
    assert isinstance(feed, Feed)
    assert feed.workers == 2


def test_tf_data_is_for_the_batches_of_classifiers():
    with pytest.raises(ValueError, match="--feed tf.data only supports classific"):
        build_feed(object(), Run(feed="tf.data"))
