"""The one error that is meant for people: it names the value, what was expected, and the remedy."""


class FusionerError(ValueError):
    """Bad input, told in one or two sentences: the value, what was expected, what to do about it."""
