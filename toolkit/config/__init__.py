"""YAML configuration: loading, overrides, validation and lazy construction.

The package stands in front of HyperPyYAML. Files keep its syntax (``!new:``, ``!name:``,
``!apply:``, ``!module:``, ``!ref``, ``!copy``, ``!include:``, ``!PLACEHOLDER``, tuples) and it
builds the objects. What is added is strictness (every key at every depth is checked before anything
is built), overrides that can replace, merge and remove blocks, and stable hashes of any part of the
tree.
"""

from __future__ import annotations

from toolkit.config.errors import ConfigError
from toolkit.config.loading import Config, load
from toolkit.config.tree import (
    NEUTRAL,
    Tagged,
    decode_tree,
    diff_trees,
    encode_tree,
    hash_tree,
    map_tree,
)

__all__ = [
    "Config",
    "ConfigError",
    "NEUTRAL",
    "Tagged",
    "decode_tree",
    "diff_trees",
    "encode_tree",
    "hash_tree",
    "load",
    "map_tree",
]
