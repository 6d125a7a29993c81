"""Frozen encoders: protocols and base modules in ``base``, the list of encoders in ``registry``, one file a family."""
