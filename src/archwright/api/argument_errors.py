"""The error that a public function raises for one of its arguments."""

from archwright.errors import ErrorLocation, UsageError


def argument_error(code: str, message: str, name: str, hint: str, nearest: tuple[str, ...] = ()) -> UsageError:
    """`name`: the argument; `hint`: the value to pass instead."""
    return UsageError(code, message, where=ErrorLocation(field=name), hint=hint, nearest=nearest)
