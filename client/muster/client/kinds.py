"""Kinds of error that a client may report.

The list is closed, because error texts and names of custom classes may quote data.
"""

from __future__ import annotations

import builtins

from muster.wire.problems import ProblemError

_BUILTIN = frozenset(
    item for item in vars(builtins).values() if isinstance(item, type) and issubclass(item, BaseException)
)
# tf.errors, whose classes need no import of TensorFlow to be recognized:
# https://www.tensorflow.org/api_docs/python/tf/errors
_TENSORFLOW_MODULE = "tensorflow.python.framework.errors_impl"
_TENSORFLOW = frozenset(
    {
        "AbortedError",
        "AlreadyExistsError",
        "CancelledError",
        "DataLossError",
        "DeadlineExceededError",
        "FailedPreconditionError",
        "InternalError",
        "InvalidArgumentError",
        "NotFoundError",
        "OpError",
        "OutOfRangeError",
        "PermissionDeniedError",
        "ResourceExhaustedError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnimplementedError",
        "UnknownError",
    }
)


def kind_of(error: BaseException) -> str:
    """Returns the kind of an error: the name of its nearest built-in or TensorFlow error class.

    A problem counts as the TensorFlow error that it was raised from, or else as its own type.
    """
    if isinstance(error, ProblemError):
        cause = error.__cause__
        return (None if cause is None else _tensorflow_kind(cause)) or error.type.value
    return _tensorflow_kind(error) or next(item.__name__ for item in type(error).__mro__ if item in _BUILTIN)


def _tensorflow_kind(error: BaseException) -> str | None:
    for item in type(error).__mro__:
        if item.__module__ == _TENSORFLOW_MODULE and item.__name__ in _TENSORFLOW:
            return item.__name__
    return None
