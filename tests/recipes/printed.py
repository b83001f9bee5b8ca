"""What a command printed, for comparison."""

import re


def without_padding(text):
    """Tables whose cells have one space around what they hold."""
    return re.sub(" {2,}", " ", text)
