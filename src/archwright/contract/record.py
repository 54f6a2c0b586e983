"""The base class of every record that is read, written or passed between packages."""

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import msgspec

if TYPE_CHECKING:
    # Type checkers forget `frozen` and `kw_only` in subclasses of a Struct; this states both for all records.
    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
    class Record:
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init_subclass__(
            cls,
            *,
            array_like: bool = False,
            dict: bool = False,  # noqa: A002
            forbid_unknown_fields: bool = True,
            omit_defaults: bool = False,
        ) -> None: ...

else:

    class KeywordOnly(type(msgspec.Struct)):
        """Gives every subclass `kw_only`, which a Struct subclass does not inherit."""

        def __new__(cls, name, bases, namespace, **options):
            return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **options})

    class Record(msgspec.Struct, metaclass=KeywordOnly, frozen=True, forbid_unknown_fields=True):
        """Immutable and keyword-only; refuses unknown fields."""


R = TypeVar("R", bound=Record)


def replace(record: R, **changes: object) -> R:
    """Return a copy of `record` with some fields changed."""
    changed: R = msgspec.structs.replace(record, **changes)  # type: ignore[type-var]
    return changed


def as_dict(record: Record) -> dict[str, Any]:
    """Return the fields of `record` by name, in its order; nested records stay records."""
    return msgspec.structs.asdict(record)  # type: ignore[arg-type]
