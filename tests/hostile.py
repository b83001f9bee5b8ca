"""Values that an argument may not take, for property-based tests."""

import decimal
import fractions

import keras
import numpy as np
from hypothesis import strategies as st

# Whether a backend builds models fast enough to try many.
IS_FAST = keras.backend.backend() == "torch"


class Evil:
    """What fails whatever is done with it, by hypothesis, too."""

    def _fail(self, *_):
        raise RuntimeError("evil")

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = _fail
    __index__ = __int__ = __float__ = __array__ = __hash__ = _fail


# Not what is large and could be built: a test would take all memory.
hostile = st.one_of(
    st.sampled_from([-(10**9), -1, 0, 10**9, 2**63, 10**30, 10**400, -(10**400)]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300, -0.5, 0.0]),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.complex_numbers(),
    st.lists(st.integers(-3, 3) | st.text(max_size=2), max_size=5),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.builds(
        lambda value: value,
        st.sampled_from(
            [
                "x" * 10_000,
                ["x" * 100] * 10_000,
                range(10**12),
                np.zeros((200, 200)),
                np.array([]),
                np.array([1, 2]),
                np.array(["a"], object),
                np.float32("nan"),
                np.bool_(False),
                np.datetime64("2023-01-01"),
                decimal.Decimal("NaN"),
                fractions.Fraction(1, 3),
                object(),
                int,
                len,
                {1, 2},
            ]
        ),
    ),
)


def assert_one_sentence(error, *names):
    """A message is short, on one line, and has one of the arguments' names."""
    message = str(error)
    assert len(message) < 500, message
    assert "\n" not in message, message
    assert any(name in message for name in names), message
