"""What prompts and sets read of a manifest row, and choices that its id alone decides."""

from __future__ import annotations

import hashlib

from toolkit.data.rows import Row


def stable_hash(text: str) -> int:
    """A 64-bit number that is the same in every process and on every machine.

    Parameters
    ----------
    text : str

    Returns
    -------
    int
        In [0, 2**64).

    Example
    -------
    >>> stable_hash("a") == stable_hash("a"), stable_hash("a") == stable_hash("b")
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def prompt_fields(row: Row, instruction: str = "") -> dict[str, str]:
    """Values a prompt template may use for a row.

    Parameters
    ----------
    row : Row
    instruction : str

    Returns
    -------
    dict of str to str
        ``instruction``, ``language``, and ``question`` and ``context`` where the row has them.

    Example
    -------
    >>> prompt_fields(Row("a", "/a.wav", 1.0, "Hi.", "en", "s", question="Who?"), "Answer.")
    {'instruction': 'Answer.', 'language': 'en', 'question': 'Who?'}
    """
    fields = {"instruction": instruction, "language": row.language}
    for name in ("question", "context"):
        value = getattr(row, name)
        if value is not None:
            fields[name] = value
    return fields


def row_value(row: Row, name: str) -> str:
    """Text of a row field, ``translations.es`` and ``attributes.gender`` included; empty if unset.

    Example
    -------
    >>> row = Row("a", "/a.wav", 1.0, "Hi.", "en", "s", translations={"es": "Hola."})
    >>> row_value(row, "text"), row_value(row, "translations.es"), row_value(row, "answer")
    ('Hi.', 'Hola.', '')
    """
    head, _, key = name.partition(".")
    value = getattr(row, head)
    if key:
        value = value.get(key)
    return "" if value is None else str(value)
