"""What to do instead of a change that breaks somebody."""

from typing import Final

from gatelog.schemas.compatibility import Mismatch, Rule
from gatelog.schemas.findings import Breaks

_WIDER: Final = "int → long → float → double, string → bytes"
_NEW_FIELD: Final = "Leave the field as it is, and add one of the new type with a default; an upcaster can fill it."

_FOR_NEW_READERS: Final = {
    Rule.READER_FIELD_MISSING_DEFAULT_VALUE: (
        "Give {field} a default (such as None). If it is an old field under a new name, make the old name its alias."
    ),
    Rule.NAME_MISMATCH: "Keep the name, or add {field} to the aliases of the type.",
    Rule.FIXED_SIZE_MISMATCH: f"Keep the size. {_NEW_FIELD}",
    Rule.MISSING_ENUM_SYMBOLS: "Keep {field} in the enum, since stored events hold it, or give the enum a default.",
    Rule.TYPE_MISMATCH: f"Keep the type, or widen it ({_WIDER}). Otherwise: {_NEW_FIELD}",
    Rule.MISSING_UNION_BRANCH: "Keep {field} in the union: stored events hold it.",
    Rule.AMBIGUOUS_ALIAS: "Remove the alias that is the name of another field.",
    Rule.LOGICAL_TYPE_MISMATCH: _NEW_FIELD,
    Rule.BYTES_READ_AS_TEXT: f"Keep bytes: one event that is no text would be unreadable. {_NEW_FIELD}",
}
_FOR_OLD_READERS: Final = {
    Rule.READER_FIELD_MISSING_DEFAULT_VALUE: (
        "Keep {field}: earlier versions demand it. To get rid of it, first give it a default, bring that version to "
        "all readers, then remove it. A new name needs the old field beside it until then."
    ),
    Rule.NAME_MISMATCH: "Keep the name: earlier versions know no alias for it.",
    Rule.FIXED_SIZE_MISMATCH: f"Keep the size. {_NEW_FIELD}",
    Rule.MISSING_ENUM_SYMBOLS: (
        "Earlier versions do not know {field}. First give the enum a default, bring that version to all readers, "
        "then add the symbol."
    ),
    Rule.TYPE_MISMATCH: (
        "Earlier versions cannot take the new type. Bring the version that reads both to all readers before anything "
        f"writes it (that is BACKWARD). Otherwise: {_NEW_FIELD}"
    ),
    Rule.MISSING_UNION_BRANCH: "Earlier versions do not know {field}. Bring the new version to all readers first.",
    Rule.AMBIGUOUS_ALIAS: "Do not name a field like an alias that an earlier version has.",
    Rule.LOGICAL_TYPE_MISMATCH: _NEW_FIELD,
    Rule.BYTES_READ_AS_TEXT: f"Keep bytes: one event that is no text would be unreadable. {_NEW_FIELD}",
}
UPCAST: Final = "An upcaster of this program takes such events: try it on stored ones with `gatelog schema replay`."
REMOVED: Final = (
    "Keep its model or file: its events stay in the log. If the type has a new name, keep the old event type "
    "(event_type=…) or write an upcaster from the old to the new."
)


def advice_for(mismatch: Mismatch, breaks: Breaks) -> str:
    """Return what to do, in one or two sentences."""
    table = _FOR_NEW_READERS if breaks is Breaks.NEW_READERS else _FOR_OLD_READERS
    return table[mismatch.rule].format(field=mismatch.field)
