"""Metadata as text: the seed transcript that a text LLM reads instead of hearing the clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.manifest import Row
from toolkit.data.measures import NUMBERS, known_value


@dataclass(frozen=True)
class Attribute:
    """How one attribute is printed.

    Attributes
    ----------
    name : str
        Its name in the text.
    quantity : str
        What a number for it measures, where the name does not say so.
    unit : str
        Of a number, printed behind it.
    digits : int
        Decimals of a number.
    keys : tuple of str
        Further keys of ``Row.attributes`` that hold it as a number.
    """

    name: str
    quantity: str = ""
    unit: str = ""
    digits: int = 0
    keys: tuple[str, ...] = ()


#: The attributes of DeSTA2 beside the spoken text, in the order of its examples, and the language.
ATTRIBUTES: dict[str, Attribute] = {
    "gender": Attribute("Gender"),
    "accent": Attribute("Accent"),
    "age": Attribute("Age", unit="years"),
    "emotion": Attribute("Emotion"),
    "pitch": Attribute("Pitch", "fundamental frequency", "Hz", 0, NUMBERS["pitch"]),
    "volume": Attribute("Volume", "speech level", "dBFS", 0, NUMBERS["volume"]),
    "speaking_speed": Attribute(
        "Speaking speed", "speaking rate", "syllables per second", 1, NUMBERS["speaking_speed"]
    ),
    "noise_level": Attribute(
        "Noise level", "signal-to-noise ratio", "dB", 0, NUMBERS["noise_level"]
    ),
    "reverberation": Attribute(
        "Reverberation", "clarity index C50", "dB", 0, NUMBERS["reverberation"]
    ),
    "duration": Attribute("Duration", unit="s", digits=1),
    "intent": Attribute("Intent"),
    "language": Attribute("Language"),
}


class SeedTranscript:
    """Render a row as ``[00:00:00 - 00:00:02] Text. (Gender: female, Pitch: high, ...)``.

    Step 2 of DeSTA2's data construction (Lu et al., 2024, arXiv:2409.20007). A pure function of the
    row: the twelve attributes in a fixed order (the spoken text is the twelfth), those that the row
    does not have left out.

    A value of ``Row.attributes`` may be a word, which is printed as it is, or a number in the unit
    of the table `ATTRIBUTES`. A measured number may also stand beside the word, under a key of its
    own (``snr_level``): ``Noise level: moderate (signal-to-noise ratio: 15 dB)``. A bare number is
    printed with the name of what it measures. The authors' text says ``Reverberation(C50): 60ms``,
    which their LLM reads as a reverberation time; C50 is a ratio in decibels and is called so here.

    Parameters
    ----------
    attributes : sequence of str, optional
        Keys to print, in this order; all of `ATTRIBUTES` by default. Other keys of
        ``Row.attributes`` may be named too and are printed under their own name.
    spoken_text : bool
        Print the text.
    timestamp : bool
        Print when it is spoken, as ``[HH:MM:SS - HH:MM:SS]``.
    numbers : bool
        Print measured numbers; False keeps words alone.

    Raises
    ------
    ValueError
        When nothing is left to print.

    Example
    -------
    >>> row = Row("a", "/a.wav", 1.6, "These days are long gone.", "en", "p1",
    ...     attributes={"gender": "male", "accent": "Scottish", "noise_level": "moderate",
    ...                 "snr_level": 15.2, "pitch": 118.4, "emotion": "unknown"})
    >>> SeedTranscript(["gender", "accent", "emotion", "pitch", "noise_level"])(row)
    ... # doctest: +NORMALIZE_WHITESPACE
    '[00:00:00 - 00:00:02] These days are long gone. (Gender: male, Accent: Scottish,
     Pitch: 118 Hz (fundamental frequency),
     Noise level: moderate (signal-to-noise ratio: 15 dB))'
    """

    def __init__(
        self,
        attributes: Sequence[str] | None = None,
        spoken_text: bool = True,
        timestamp: bool = True,
        numbers: bool = True,
    ) -> None:
        self.attributes = tuple(ATTRIBUTES if attributes is None else attributes)
        self.spoken_text = spoken_text
        self.timestamp = timestamp
        self.numbers = numbers
        if not (self.attributes or spoken_text):
            raise ValueError(
                "SeedTranscript: nothing to print; name attributes or set spoken_text: true"
            )

    def __call__(self, row: Row) -> str:
        """Render a row.

        Parameters
        ----------
        row : Row
            ``row.attributes["segments"]``, where given, is a list of objects with ``start``,
            ``end`` (seconds), ``text`` and attributes of their own: a line each, in order, for
            clips of several speakers. What a segment does not say is taken from the row.

        Returns
        -------
        str
        """
        facts = {"duration": row.duration, "language": row.language, **row.attributes}
        segments = row.attributes.get("segments")
        if not segments:
            return self._line(row.text, 0.0, row.duration, facts)
        lines = []
        for part in segments:
            start, end = float(part["start"]), float(part["end"])
            own = {**facts, "duration": end - start, **part}
            lines.append(self._line(str(part.get("text", "")), start, end, own))
        return "\n".join(lines)

    def _line(self, text: str, start: float, end: float, facts: Mapping[str, Any]) -> str:
        parts = [f"[{_clock(start)} - {_clock(max(end, start + 1))}]"] if self.timestamp else []
        if self.spoken_text and text.strip():
            parts.append(text.strip())
        printed = [p for key in self.attributes if (p := self._attribute(key, facts))]
        if printed:
            parts.append(f"({', '.join(printed)})")
        return " ".join(parts)

    def _attribute(self, key: str, facts: Mapping[str, Any]) -> str | None:
        known = ATTRIBUTES.get(key) or Attribute(key.replace("_", " ").capitalize())
        word, number = known_value(facts.get(key)), None
        if isinstance(word, float):
            word, number = None, word
        for other in known.keys:
            measured = known_value(facts.get(other))
            if number is None and isinstance(measured, float):
                number = measured
        if not self.numbers and known.quantity:
            number = None
        if number is None:
            return f"{known.name}: {word}" if word else None
        # Rounded to minus nought is nought.
        printed = f"{round(number, known.digits) + 0.0:.{known.digits}f} {known.unit}".strip()
        if word:
            return f"{known.name}: {word} ({known.quantity or 'measured'}: {printed})"
        return f"{known.name}: {printed}" + (f" ({known.quantity})" if known.quantity else "")


def _clock(seconds: float) -> str:
    whole = math.floor(seconds + 0.5)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
