"""What free descriptions say of a clip: one answer is scored on every attribute that it names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.data.manifest import Row, read_manifest
from toolkit.evaluation.benchmarks.base import (
    SLOT_LABELS,
    Benchmark,
    Decoded,
    against,
    agreement,
    agreement_table,
    macro,
    markdown,
)
from toolkit.evaluation.benchmarks.items import BenchmarkError, BenchmarkItem
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.statistics import by_unit
from toolkit.evaluation.tables import with_interval
from toolkit.teachers.pool import InstructionPool

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
_TOKEN = re.compile(r"\w+(?:'\w+)*|[.,;:!?()\n]")
_BREAKS = frozenset(".,;!?()\n")
_COPULAS = frozenset(("is", "was", "are", "were", "seems", "sounds", "remains", ":"))
_ARTICLES = frozenset(("a", "an", "the", "his", "her", "their", "its", "very", "quite", "and"))
#: Words between the verb and the value: "is rather on the low side".
_REACH = 5

Phrases = dict[tuple[str, ...], str]


def named_values(
    answer: str, options: Mapping[str, Sequence[str]], aspects: Mapping[str, Any] = ASPECTS
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
    """
    tokens = _TOKEN.findall(answer.lower())
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


class Descriptions(Benchmark):
    """Attributes that the model names when it is asked for a description, as it was in training.

    A small LLM often cannot answer a multiple-choice question even where it reads the answer; what
    it says of a clip in its own words can be scored all the same. An attribute is right where the
    description gives it the manifest's value and no other one.

    Parameters
    ----------
    path : str
        A manifest whose rows have the attributes.
    describe : callable (Row) -> str
        What the text LLM reads: the `toolkit.teachers.SeedTranscript` of the targets.
    pool : InstructionPool
        Its first task's first wording is asked.
    attributes : sequence of str
        Out of `ASPECTS`, or other keys of ``Row.attributes`` whose values are words.
    inputs, limit, max_new_tokens, batch_size
        As for `Benchmark`.

    Raises
    ------
    ValueError
        Without attributes.
    """

    kind = "attributes that descriptions name"

    def __init__(
        self,
        path: str,
        describe: Callable[[Row], str],
        pool: InstructionPool,
        attributes: Sequence[str] = tuple(ASPECTS),
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 80,
        batch_size: int = 16,
    ) -> None:
        super().__init__(path, [path], inputs, limit, max_new_tokens, batch_size, describe)
        if not attributes:
            raise ValueError("Descriptions: name at least one attribute")
        self.pool = pool
        self.attributes = list(attributes)

    def read(self) -> list[BenchmarkItem]:
        rows = read_manifest(self.path)
        task = next(iter(self.pool))
        options = {
            name: sorted({str(r.attributes[name]) for r in rows if name in r.attributes})
            for name in self.attributes
        }
        if not any(options.values()):
            raise BenchmarkError(
                self.path, "", f"no row has any attribute of {', '.join(self.attributes)}"
            )
        return [
            BenchmarkItem(
                id=row.id,
                audio=row.audio,
                instruction=task.instruct(0, row),
                group=task.name,
                description=self.describe(row) if self.describe else "",
                metric="accuracy",
                extra={
                    "options": options,
                    "values": {n: str(row.attributes[n]) for n in options if n in row.attributes},
                },
            )
            for row in rows
        ]

    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        options = {name: values for name, values in items[0].extra["options"].items() if values}
        said = {
            name: {i.id: named_values(rows[i.id]["answer"], options) for i in items}
            for name, rows in decoded.items()
        }
        scores: dict[str, Any] = {"kind": "descriptions", "n": len(items), "tasks": {}}
        right: dict[str, dict[str, list[float]]] = {name: {} for name in decoded}
        units: list[str] = []
        for attribute in options:
            own = [i for i in items if attribute in i.extra["values"]]
            if not own:
                continue
            units += [i.id for i in own]
            truth = [i.extra["values"][attribute] for i in own]
            common, count = Counter(truth).most_common(1)[0]
            pairs, named = {}, {}
            for name in decoded:
                values = [said[name][i.id][attribute] for i in own]
                hits = [float(v == {t}) for v, t in zip(values, truth, strict=True)]
                right[name][attribute] = hits
                pairs[name] = [(hit, 1.0) for hit in hits]
                named[name] = interval([(float(bool(v)), 1.0) for v in values], plan)
            scores["tasks"][attribute] = {
                "n": len(own),
                "options": options[attribute],
                "majority": {"label": common, "value": count / len(own)},
                "strict": {name: interval(p, plan) for name, p in pairs.items()},
                "named": named,
                "strict_speech_minus": against(pairs, plan),
            }
        # Attributes of one clip rise and fall together: clips are resampled.
        means = {name: by_unit(units, macro(groups)) for name, groups in right.items()}
        scores["strict"] = {name: interval(p, plan) for name, p in means.items()}
        scores["strict_speech_minus"] = against(means, plan)
        majorities = [entry["majority"]["value"] for entry in scores["tasks"].values()]
        scores["majority"] = sum(majorities) / len(majorities)
        scores["agreement"] = agreement(decoded, plan)
        scores["summary"] = {
            **{name.replace("_", " "): e["strict"] for name, e in scores["tasks"].items()},
            "mean": scores["strict"],
        }
        return scores

    def table(self, scores: Mapping[str, Any]) -> str:
        names = list(scores["strict"])
        header = ["attribute", "n", "majority class", *(SLOT_LABELS.get(n, n) for n in names)]
        header += ["named by speech", "audio adds (p)"]
        lines = []
        for attribute, e in [*scores["tasks"].items(), ("mean of attributes", scores)]:
            blank = e["strict_speech_minus"].get("blank")
            majority = e["majority"]
            majority = majority["value"] if isinstance(majority, Mapping) else majority
            lines.append(
                [
                    attribute.replace("_", " "),
                    str(e["n"]),
                    f"{majority:.2f}",
                    *(with_interval(e["strict"][n], 2) for n in names),
                    f"{e['named']['speech']['value']:.2f}" if "named" in e else "-",
                    f"{blank['difference']:+.2f} (p {blank['p']:.3f})" if blank else "-",
                ]
            )
        return f"{markdown(header, lines)}\n\n{agreement_table(scores['agreement'])}"
