"""Misuse of the command line."""


class UsageError(ValueError):
    """An argument that cannot be used; the message says what to give instead."""
