"""Frozen encoders: protocols in ``base``, rows of data in ``registry``, one file a family."""
