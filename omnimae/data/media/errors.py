"""Errors of files that cannot be used."""

from __future__ import annotations


class BrokenFileError(ValueError):
    """A file that cannot be used, and the reason.

    The reason has a default, because torch's DataLoader re-raises a worker's exception with the message as its only
    argument.
    """

    def __init__(self, path: str, reason: str = '') -> None:
        super().__init__(path, reason)
        self.path = str(path)  # a `File` has more, which is nothing for checkpoints
        self.reason = reason

    def __str__(self) -> str:
        return f'{self.path}: {self.reason}' if self.reason else self.path


class BrokenVideoError(BrokenFileError):
    """A video that is missing, damaged or not a video."""


class BrokenImageError(BrokenFileError):
    """An image file that cannot be read in full."""
