import numpy as np
import pytest

from keras_cbvit.classes import check_names, difference, join_names


@pytest.mark.parametrize(
    "names",
    [
        ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "tea"],
        ("cafe\N{COMBINING ACUTE ACCENT}", " tea\n"),
        np.array(["cafe\N{COMBINING ACUTE ACCENT}", "tea "]),
    ],
)
def test_names_that_look_the_same_are_the_same(names):
    found = check_names(names, 2)
    assert found == ("caf\u00e9", "tea")
    assert [type(name) for name in found] == [str, str]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ab", "class_names='ab' must be a list of names"),
        (None, "class_names=None must be a list"),
        ({"a", "b"}, "must be a list"),
        ({"a": 0, "b": 1}, "must be a list"),
        (np.array("ab"), "must be a list"),
        (["a"], "class_names has 1 names, but the model predicts 2 classes"),
        (["a", "a"], "class_names has 'a' twice; class names"),
        (["a", " a"], r"class_names has 'a' twice \('a' and ' a'\)"),
        (["\u00e9", "e\u0301"], r"twice \('\\xe9' and 'e\\u0301'\)"),
        (["a", " "], r"class_names\[1\] is empty"),
        (["a", b"b"], r"class_names\[1\] is b'b', not a string"),
        (["a", "\udce9"], r"class_names\[1\] is '\\udce9', which is not valid Unicode"),
    ],
)
def test_what_are_no_names_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_names(names, 2)


def test_messages_are_short():
    for names in (["a" * 10**6] * 2, ["a", "\udce9" * 10**6], "a" * 10**6, [10**4000]):
        with pytest.raises(ValueError) as caught:
            check_names(names)
        assert len(str(caught.value)) < 400
    assert len(join_names(["a" * 10**6] * 10**6)) < 300


def test_lists_of_names_are_compared():
    names = ("a", "b", "c")
    assert difference("one", names, "two", names) is None
    for other, expected in (
        (("a", "c", "b"), "number 1 is 'b' in one, 'c' in two"),
        (("a", "b"), "one has c, but two does not"),
        (("a", "b", "c", "d", "e"), "two has d, e, but one does not"),
    ):
        assert difference("one", names, "two", other) == expected
    assert join_names([*"abcdefg"]) == "a, b, c, d, e and 2 more"
