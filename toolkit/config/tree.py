"""The configuration as plain nested data: tagged blocks, JSON encoding, hashes and differences."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Settings that change how a stage runs, never what it makes.
NEUTRAL = frozenset(
    {
        "num_workers",
        "nj",
        "log_every",
        "validate_every",
        "checkpoint_every_seconds",
        "progress",
        "batch_size",
        "optimizer_steps",
    }
)


@dataclass
class Tagged:
    """A tagged block of the YAML, as plain data.

    Parameters
    ----------
    tag : str
        The tag as written, such as ``"!new:toolkit.projectors.ConvAdapter"``.
    value : dict, list or scalar
        The block's content; may hold further ``Tagged`` blocks.

    Example
    -------
    >>> Tagged("!new:collections.Counter", {"a": 1}).target
    'collections.Counter'
    """

    tag: str
    value: Any

    @property
    def kind(self) -> str:
        """The tag's kind: ``!new``, ``!name``, ``!apply``, ..."""
        return self.tag.partition(":")[0]

    @property
    def target(self) -> str:
        """The dotted Python path behind the tag's colon (empty without one)."""
        return self.tag.partition(":")[2]


def map_tree(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild a configuration tree, every part of it changed after the parts inside.

    Parameters
    ----------
    tree : nested data
        ``Config.tree`` or a part of it; stays as it is.
    change : callable
        From a part, of any kind, to what stands in its place.

    Returns
    -------
    nested data

    Example
    -------
    >>> map_tree({"a": [1, 2], "b": "x"}, lambda part: part * 2 if isinstance(part, int) else part)
    {'a': [2, 4], 'b': 'x'}
    """
    if isinstance(tree, Tagged):
        tree = Tagged(tree.tag, map_tree(tree.value, change))
    elif isinstance(tree, dict):
        tree = {key: map_tree(value, change) for key, value in tree.items()}
    elif isinstance(tree, list | tuple):
        tree = type(tree)(map_tree(value, change) for value in tree)
    return change(tree)


def encode_tree(tree: Any) -> Any:
    """Turn a configuration tree into data that ``json`` can write.

    Parameters
    ----------
    tree : nested data
        ``Config.tree`` or a part of it.

    Returns
    -------
    nested data
        Dicts, lists and scalars only. What JSON cannot tell apart becomes a one-key dict with a key
        that starts with ``$``: ``$tagged``, ``$tuple``, ``$date``, and ``$dict`` for dicts with
        other keys than strings.

    Raises
    ------
    TypeError
        If the tree holds something that no YAML file can hold.

    Example
    -------
    >>> encode_tree({"p": Tagged("!new:a.B", {"k": (1, 2)})})
    {'p': {'$tagged': ['!new:a.B', {'k': {'$tuple': [1, 2]}}]}}
    """
    if isinstance(tree, Tagged):
        return {"$tagged": [tree.tag, encode_tree(tree.value)]}
    if isinstance(tree, dict):
        if all(isinstance(k, str) and not k.startswith("$") for k in tree):
            return {k: encode_tree(v) for k, v in tree.items()}
        pairs = [[encode_tree(k), encode_tree(v)] for k, v in tree.items()]
        return {"$dict": sorted(pairs, key=repr)}
    if isinstance(tree, tuple):
        return {"$tuple": [encode_tree(v) for v in tree]}
    if isinstance(tree, list):
        return [encode_tree(v) for v in tree]
    if isinstance(tree, (datetime.date, datetime.datetime)):
        return {"$date": tree.isoformat()}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"a configuration tree cannot hold {type(tree).__name__}: {tree!r}")


def decode_tree(data: Any) -> Any:
    """Invert `encode_tree`.

    Parameters
    ----------
    data : nested data
        What `encode_tree` returned, perhaps after a trip through a JSON file.

    Returns
    -------
    nested data
        The configuration tree.

    Example
    -------
    >>> tree = {"p": Tagged("!new:a.B", {"k": (1, 2)}), "q": {1: None}}
    >>> decode_tree(encode_tree(tree)) == tree
    True
    """
    if isinstance(data, list):
        return [decode_tree(v) for v in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        (key, value), *_ = data.items()
        if key == "$tagged":
            return Tagged(value[0], decode_tree(value[1]))
        if key == "$tuple":
            return tuple(decode_tree(v) for v in value)
        if key == "$dict":
            return {decode_tree(k): decode_tree(v) for k, v in value}
        if key == "$date":
            has_time = len(value) > len("2000-01-01")
            return (datetime.datetime if has_time else datetime.date).fromisoformat(value)
    return {k: decode_tree(v) for k, v in data.items()}


def hash_tree(tree: Any) -> str:
    """Return a hash of a configuration tree that ignores key order and number format.

    Parameters
    ----------
    tree : nested data
        ``Config.tree`` or a part of it.

    Returns
    -------
    str
        64 hexadecimal digits (SHA-256 of the canonical JSON).

    Example
    -------
    >>> hash_tree({"a": 1e-4, "b": 2}) == hash_tree({"b": 2, "a": 0.0001})
    True
    >>> hash_tree({"a": 1}) == hash_tree({"a": 2})
    False
    """
    text = json.dumps(encode_tree(tree), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def diff_trees(old: Any, new: Any) -> list[str]:
    """Describe how one configuration tree differs from another, one readable line per difference.

    Parameters
    ----------
    old, new : nested data
        Two trees (``Config.tree`` or what `decode_tree` returned).

    Returns
    -------
    list of str
        Lines such as ``"projector.strides: [2, 2, 2] -> [2, 2]"``, in the order of the keys.

    Example
    -------
    >>> old = {"p": Tagged("!new:a.B", {"k": [2, 2, 2]}), "q": 1}
    >>> diff_trees(old, {"p": Tagged("!new:a.B", {"k": [2, 2]}), "r": 2})
    ['p.k: [2, 2, 2] -> [2, 2]', 'q: 1 -> (absent)', 'r: (absent) -> 2']
    """
    lines: list[str] = []
    _diff("", old, new, lines)
    return lines


_ABSENT = object()


def _diff(path: str, old: Any, new: Any, lines: list[str]) -> None:
    if isinstance(old, Tagged) and isinstance(new, Tagged) and old.tag == new.tag:
        old, new = old.value, new.value
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            sub = f"{path}.{key}" if path else str(key)
            _diff(sub, old.get(key, _ABSENT), new.get(key, _ABSENT), lines)
        return
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new)
        and any(isinstance(v, (dict, Tagged)) for v in [*old, *new])
    ):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            _diff(f"{path}.{index}", a, b, lines)
        return
    if old is _ABSENT or new is _ABSENT or type(old) is not type(new) or old != new:
        lines.append(f"{path or '(root)'}: {_show(old)} -> {_show(new)}")


def _show(value: Any) -> str:
    """Write a value on one line, YAML-like."""
    if value is _ABSENT:
        return "(absent)"
    if isinstance(value, Tagged):
        return f"{value.tag} {_show(value.value)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_show, value)) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)
