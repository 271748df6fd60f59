"""Splits in which no test item shares its text, or the template of its text, with training."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from toolkit.data.rows import Row

T = TypeVar("T")

# Spoken numbers per language: "press 1" and "press one" are one template.
_NUMBER_WORDS = frozenset(
    """
    zero oh one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty
    ninety hundred thousand million billion first second third fourth fifth sixth seventh eighth
    ninth tenth cero uno una dos tres cuatro cinco seis siete ocho nueve diez once doce trece
    catorce quince veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa cien ciento
    mil primero segundo tercero zéro un une deux trois quatre cinq sept huit neuf dix onze douze
    treize quatorze seize vingt trente quarante cinquante soixante cent mille premier première
    deuxième troisième uno due tre quattro cinque sei sette otto nove dieci undici dodici
    tredici quattordici quindici sedici venti trenta quaranta cinquanta sessanta settanta
    ottanta novanta cento ноль один одна одну два две три четыре пять шесть семь восемь девять
    десять двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто сто
    тысяча
    """.split()
)
_APOSTROPHES = re.compile(r"['’ʼ]")
_TOKEN = re.compile(r"\w+")
# Word pairs that occur in more texts than this link nothing worth comparing.
_MAX_POSTING = 200


def group_key(text: str) -> str:
    """Reduce a text to its template: case, punctuation and the values of numbers are dropped.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        Lower-case words with ``#`` for each run of numbers; a text without words (``"#"``) stays as
        it is.

    Example
    -------
    >>> group_key("Press 1, for English!"), group_key("press twenty two for English")
    ('press # for english', 'press # for english')
    """
    text = unicodedata.normalize("NFKC", text).lower()
    tokens: list[str] = []
    for token in _TOKEN.findall(_APOSTROPHES.sub("", text)):
        if token in _NUMBER_WORDS or any(c.isdigit() for c in token):
            if tokens and tokens[-1] == "#":
                continue
            token = "#"
        tokens.append(token)
    return " ".join(tokens) or text.strip()


class _UnionFind:
    def __init__(self) -> None:
        self.parent: dict[Hashable, Hashable] = {}

    def find(self, item: Hashable) -> Hashable:
        self.parent.setdefault(item, item)
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def union(self, one: Hashable, other: Hashable) -> None:
        one, other = self.find(one), self.find(other)
        if one != other:
            # The smaller name wins, so that groups do not depend on the order of the texts.
            low, high = sorted((one, other), key=str)
            self.parent[high] = low


def template_groups(texts: Sequence[str], threshold: float = 0.5) -> list[str]:
    """Group texts that are the same up to numbers, or nearly the same.

    Two templates join when the Jaccard overlap of their sets of adjacent word pairs reaches
    ``threshold``; joining is transitive.

    Parameters
    ----------
    texts : sequence of str
    threshold : float
        In (0, 1]; 1 joins equal templates only.

    Returns
    -------
    list of str
        A group name per text: equal names mean one group.

    Example
    -------
    >>> groups = template_groups([
    ...     "Press 1 to hear the next message.", "Press two to hear the last message", "Goodbye."])
    >>> groups[0] == groups[1], groups[0] == groups[2]
    (True, False)
    """
    keys = [group_key(text) for text in texts]
    unique = sorted(set(keys))
    groups = _UnionFind()
    pairs = {key: set(zip(key.split(), key.split()[1:], strict=False)) for key in unique}
    posting: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in unique:
        for pair in pairs[key]:
            posting[pair].append(key)
    shared: Counter[tuple[str, str]] = Counter()
    for members in posting.values():
        if len(members) > _MAX_POSTING:
            continue
        for i, one in enumerate(members):
            for other in members[i + 1 :]:
                shared[one, other] += 1
    # Two pairs are three words: a shared "to the" alone is no template.
    for (one, other), common in shared.items():
        if common >= 2 and common / len(pairs[one] | pairs[other]) >= threshold:
            groups.union(one, other)
    return [str(groups.find(key)) for key in keys]


def merge_groups(*labelings: Mapping[Hashable, str]) -> dict[Hashable, str]:
    """Join groupings of the same items, e.g. of a prompt's texts in several languages.

    Parameters
    ----------
    *labelings : mapping of item to group name
        Items may be missing from some.

    Returns
    -------
    dict of item to str
        Items share a name when any grouping, or a chain of them, puts them together.

    Example
    -------
    >>> merged = merge_groups({"a": "x", "b": "y"}, {"b": "z", "c": "z"})
    >>> merged["b"] == merged["c"], merged["a"] == merged["b"]
    (True, False)
    """
    joined = _UnionFind()
    for index, labels in enumerate(labelings):
        for item, name in labels.items():
            joined.union(("item", item), ("group", index, name))
    items = {item for labels in labelings for item in labels}
    return {item: str(joined.find(("item", item))) for item in sorted(items, key=str)}


@dataclass(frozen=True)
class Split:
    """Rows divided by group.

    Attributes
    ----------
    parts : dict of str to list of Row
        In the order of the ratios; rows keep their input order.
    groups : int
        Number of groups.
    sharing : int
        Rows whose group has other rows too: those a split by row could have leaked.
    largest : int
        Rows in the largest group.
    """

    parts: dict[str, list[Row]] = field(default_factory=dict)
    groups: int = 0
    sharing: int = 0
    largest: int = 0


def assign_groups(
    groups: Sequence[str], ratios: Mapping[str, float], seed: int = 0, max_share: float = 0.02
) -> dict[str, str]:
    """Choose a part for each group, by a hash of its name.

    Groups are taken in the order of a hash of (seed, group), so the choice does not depend on the
    order of the items, the platform or the Python version. The part with the largest ratio takes
    what the others leave, and every group too big to be a fair share of a small part.

    Parameters
    ----------
    groups : sequence of str
        A group name per item.
    ratios : mapping of str to float
        E.g. ``{"train": 0.8, "dev": 0.1, "test": 0.1}``; they sum to 1.
    seed : int
    max_share : float
        Groups with more than this share of all items go to the largest part.

    Returns
    -------
    dict of str to str
        Group name to part.

    Raises
    ------
    ValueError
        For ratios that do not sum to 1.

    Example
    -------
    >>> chosen = assign_groups(list("abcdefghij"), {"train": 0.8, "test": 0.2}, max_share=0.1)
    >>> Counter(chosen.values())
    Counter({'train': 8, 'test': 2})
    """
    if abs(sum(ratios.values()) - 1) > 1e-6 or min(ratios.values()) < 0:
        raise ValueError(f"ratios must be at least 0 and sum to 1, got {dict(ratios)}")
    sizes = Counter(groups)
    rest = max(ratios, key=lambda name: ratios[name])
    quota = {name: ratio * len(groups) for name, ratio in ratios.items() if name != rest}
    limit = max(1.0, max_share * len(groups))
    part_of: dict[str, str] = {}
    filled: Counter[str] = Counter()
    for group in sorted(sizes, key=lambda name: _hash(seed, name)):
        part_of[group] = rest
        if sizes[group] > limit:
            continue
        for name in quota:
            # Half a group over or under the quota is the best a whole group can do.
            if filled[name] + sizes[group] / 2 <= quota[name]:
                part_of[group] = name
                filled[name] += sizes[group]
                break
    return part_of


def split_by_group(
    rows: Sequence[Row],
    ratios: Mapping[str, float],
    seed: int = 0,
    groups: Sequence[str] | None = None,
    max_share: float = 0.02,
) -> Split:
    """Divide rows so that no group straddles two parts, as `assign_groups` chooses.

    Parameters
    ----------
    rows : sequence of Row
    ratios : mapping of str to float
        E.g. ``{"train": 0.8, "dev": 0.1, "test": 0.1}``; they sum to 1.
    seed, max_share
        As for `assign_groups`.
    groups : sequence of str, optional
        A group name per row; `template_groups` of the texts by default.

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        For ratios that do not sum to 1, or group names that do not match the rows.

    Example
    -------
    >>> texts = [f"Item {'abcdefghij'[i % 10]} costs {i}" for i in range(40)]
    >>> rows = [Row(str(i), "/a.wav", 1.0, text, "en", "s") for i, text in enumerate(texts)]
    >>> split = split_by_group(rows, {"train": 0.8, "dev": 0.1, "test": 0.1}, max_share=0.1)
    >>> {name: len(part) for name, part in split.parts.items()}, split.groups, split.sharing
    ({'train': 32, 'dev': 4, 'test': 4}, 10, 40)
    """
    if groups is None:
        groups = template_groups([row.text for row in rows])
    if len(groups) != len(rows):
        raise ValueError(f"{len(groups)} group names for {len(rows)} rows: give one per row")
    sizes = Counter(groups)
    part_of = assign_groups(groups, ratios, seed, max_share)
    parts: dict[str, list[Row]] = {name: [] for name in ratios}
    for row, group in zip(rows, groups, strict=True):
        parts[part_of[group]].append(row)
    return Split(
        parts=parts,
        groups=len(sizes),
        sharing=sum(size for size in sizes.values() if size > 1),
        largest=max(sizes.values(), default=0),
    )


def split_by_speaker(rows: Sequence[Row], ratios: Mapping[str, float], seed: int = 0) -> Split:
    """Divide rows so that no speaker is in two parts, and no part is empty where that is possible.

    Parts follow the ratios as well as whole speakers allow. Where speakers are too few for that, a
    part that would stay empty gets the smallest speaker of the largest part.

    Parameters
    ----------
    rows : sequence of Row
    ratios : mapping of str to float
    seed : int

    Returns
    -------
    Split
        ``groups`` is the number of speakers.

    Raises
    ------
    ValueError
        For ratios that do not sum to 1.

    Example
    -------
    >>> rows = [Row(str(i), "/a.wav", 1.0, "", "en", "abc"[i % 3]) for i in range(9)]
    >>> split = split_by_speaker(rows, {"train": 0.8, "dev": 0.1, "test": 0.1})
    >>> [len(part) for part in split.parts.values()]
    [3, 3, 3]
    """
    speakers = [row.speaker for row in rows]
    sizes = Counter(speakers)
    part_of = assign_groups(speakers, ratios, seed, max_share=1.0)
    rest = max(ratios, key=lambda name: ratios[name])
    for name in ratios:
        own = [speaker for speaker, part in part_of.items() if part == rest]
        if ratios[name] > 0 and name not in part_of.values() and len(own) > 1:
            part_of[min(own, key=lambda speaker: (sizes[speaker], _hash(seed, speaker)))] = name
    parts: dict[str, list[Row]] = {name: [] for name in ratios}
    for row in rows:
        parts[part_of[row.speaker]].append(row)
    return Split(
        parts=parts,
        groups=len(sizes),
        sharing=sum(size for size in sizes.values() if size > 1),
        largest=max(sizes.values(), default=0),
    )


def spread(items: Sequence[T], count: int | None) -> list[T]:
    """So many items at even distances, or all where there are no more.

    Parameters
    ----------
    items : sequence
    count : int, optional
        None takes all.

    Returns
    -------
    list

    Example
    -------
    >>> spread("abcdefg", 3), spread("ab", 3), spread("ab", None)
    (['a', 'c', 'e'], ['a', 'b'], ['a', 'b'])
    """
    count = len(items) if count is None else min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()
