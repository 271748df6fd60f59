"""Which values a description in free words gives to the attributes of a clip."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Attribute -> how descriptions call it; None for those whose values need no name beside them.
ASPECTS: dict[str, tuple[str, ...] | None] = {
    "gender": None,
    "accent": None,
    "pitch": ("pitch", "pitched"),
    "volume": ("volume", "loudness"),
    "speaking_speed": ("speaking speed", "speech speed", "speed", "speaking rate", "pace"),
    "noise_level": (
        "background noise level", "noise level", "level of noise", "background noise", "noise",
    ),
    "reverberation": ("reverberation", "reverb"),
}  # fmt: skip
#: Other words for a value.
SYNONYMS = {
    "gender": {
        "female": ("woman", "women", "feminine", "girl"),
        "male": ("man", "men", "masculine", "boy"),
    }
}
_WORD = re.compile(r"\w+(?:'\w+)*")
_TOKEN = re.compile(rf"{_WORD.pattern}|[.,;:!?()\n]")
_BREAKS = frozenset(".,;!?()\n")
_MARKS = _BREAKS | {":"}
_COPULAS = frozenset(("is", "was", "are", "were", "seems", "sounds", "remains", ":"))
_ARTICLES = frozenset(("a", "an", "the", "his", "her", "their", "its", "very", "quite", "and"))
#: Words between the verb and the value: "is rather on the low side".
_REACH = 5
#: Words in a row that make a quotation.
_QUOTED = 3
_OPENING, _CLOSING = "\"'`\u2018\u201c\u201e\u00ab", "\"'`\u2019\u201c\u201d\u00bb"

Phrases = dict[tuple[str, ...], str]


def named_values(
    answer: str,
    options: Mapping[str, Sequence[str]],
    aspects: Mapping[str, Any] = ASPECTS,
    spoken: str = "",
) -> dict[str, set[str]]:
    """The values that a description gives to each attribute.

    A value belongs to an aspect that it stands before (`a low pitch`, `low pitch and volume`) or
    that a verb or a colon ties it to (`the pitch is low`, `pitch and volume are low`), within a
    clause. Values of attributes that need no name (gender, accent) count wherever they stand.

    Parameters
    ----------
    answer : str
    options : mapping of str to sequence of str
        Attribute -> its values.
    aspects : mapping of str to tuple of str or None
        Attribute -> names of its aspect; an attribute that is not there goes by its own name.
    spoken : str
        What is said in the clip. Where the answer quotes it, three words or more, it says nothing
        about the voice: `the speaker says "a man must eat"` gives no gender. A shorter text counts
        as quoted where all of it stands between quotation marks.

    Returns
    -------
    dict of str to set of str
        Empty sets for what is not said.

    Example
    -------
    >>> options = {"gender": ["female", "male"], "pitch": ["high", "low"], "volume": ["loud"],
    ...            "noise_level": ["high", "low"]}
    >>> answer = "A woman, with a low pitch and volume. The noise level is high."
    >>> found = named_values(answer, options)
    >>> sorted(found["gender"]), sorted(found["pitch"]), sorted(found["noise_level"])
    (['female'], ['low'], ['high'])
    >>> found["volume"]
    set()
    >>> named_values("She says: a man must eat.", options, spoken="A man must eat!")["gender"]
    set()
    """
    tokens = _tokens(answer, spoken)
    nouns: Phrases = {}
    for attribute in options:
        names = aspects.get(attribute, (attribute.replace("_", " "),))
        nouns |= {tuple(name.split()): attribute for name in names or ()}
    places = _places(tokens, nouns)
    found: dict[str, set[str]] = {}
    for attribute, values in options.items():
        phrases = {tuple(_TOKEN.findall(value.lower())): value for value in values}
        for value, others in SYNONYMS.get(attribute, {}).items():
            phrases |= {(word,): value for word in others if value in values}
        # Longer ones first: "very high" is not "high".
        ordered = sorted((p for p in phrases if p), key=len, reverse=True)
        phrases = {phrase: phrases[phrase] for phrase in ordered}
        if aspects.get(attribute, ()) is None:
            found[attribute] = {value for _, _, value in _places(tokens, phrases)}
        else:
            own = [i for i, (_, _, name) in enumerate(places) if name == attribute]
            said = (_value_of(tokens, places, i, phrases) for i in own)
            found[attribute] = {value for value in said if value is not None}
    return found


def _tokens(answer: str, spoken: str) -> list[str]:
    """Tokens of an answer; full stops stand for words that quote what was said."""
    answer, said = answer.lower(), _WORD.findall(spoken.lower())
    if 0 < len(said) < _QUOTED:
        # So few words are also words of a description ("is", "low"): only quotation marks tell.
        text = r"\W+".join(map(re.escape, said))
        answer = re.sub(rf"(?<!\w)[{_OPENING}]{text}[^\w\s]*[{_CLOSING}](?!\w)", ". ", answer)
    tokens = _TOKEN.findall(answer)
    words = [i for i, token in enumerate(tokens) if token not in _MARKS]
    grams = {tuple(said[i : i + _QUOTED]) for i in range(len(said) - _QUOTED + 1)}
    runs = [words[k : k + _QUOTED] for k in range(len(words) - _QUOTED + 1)]
    quoted = {i for run in runs if tuple(tokens[i] for i in run) in grams for i in run}
    return ["." if i in quoted else token for i, token in enumerate(tokens)]


def _places(tokens: Sequence[str], phrases: Phrases) -> list[tuple[int, int, str]]:
    """Where phrases stand: start, end, what they mean; the longest one at each place."""
    by_length = sorted((p for p in phrases if p), key=len, reverse=True)
    out, i = [], 0
    while i < len(tokens):
        for phrase in by_length:
            if tuple(tokens[i : i + len(phrase)]) == phrase:
                out.append((i, i + len(phrase), phrases[phrase]))
                i += len(phrase)
                break
        else:
            i += 1
    return out


def _value_of(
    tokens: Sequence[str], places: Sequence[tuple[int, int, str]], index: int, phrases: Phrases
) -> str | None:
    """The value tied to the aspect at one place."""
    ends = {start: end for start, end, _ in places}
    start, after = places[index][:2]
    if after < len(tokens) and tokens[after] in _COPULAS:
        return _value_behind(tokens, after + 1, ends, phrases)
    # "low pitch and volume": other aspects may stand between.
    starts = {end: start for start, end in ends.items()}
    while start > 0:
        for phrase, value in phrases.items():
            if tuple(tokens[max(start - len(phrase), 0) : start]) == phrase:
                return value
        if start in starts:
            start = starts[start]
        elif tokens[start - 1] in _ARTICLES:
            start -= 1
        else:
            break
    # "pitch and volume are low": the verb comes behind the last of them.
    while tokens[after : after + 1] == ["and"]:
        noun = after + 2 if tokens[after + 1 : after + 2] == ["the"] else after + 1
        if noun not in ends:
            return None
        after = ends[noun]
    # "the noise level of the recording is low"
    if after < len(tokens) and (tokens[after] in _COPULAS or tokens[after] == "of"):
        return _value_behind(tokens, after + 1, ends, phrases)
    return None


def _value_behind(
    tokens: Sequence[str], start: int, nouns: Mapping[int, int], phrases: Phrases
) -> str | None:
    """The first value behind a verb, before the clause ends or speaks of something else."""
    for place in range(start, min(start + _REACH, len(tokens))):
        if tokens[place] in _BREAKS or place in nouns:
            return None
        for phrase, value in phrases.items():
            if tuple(tokens[place : place + len(phrase)]) == phrase:
                return value
    return None
