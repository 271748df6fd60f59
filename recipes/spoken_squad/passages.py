"""The files of Spoken-SQuAD: questions in SQuAD's JSON, passages as one WAV file a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.manifest import ManifestError

_WAV = re.compile(r"(?P<topic>\d+)_(?P<paragraph>\d+)_(?P<sentence>\d+)\.wav")


@dataclass(frozen=True)
class Asked:
    """A question about a passage.

    Attributes
    ----------
    id, question : str
    answers : tuple of str
        Right answers, no two the same; empty where the file has none that says anything.
    """

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """A paragraph.

    Attributes
    ----------
    topic, paragraph : int
        Its place in the file, from 0: what its recordings are named by.
    title, text : str
    asked : tuple of Asked
    """

    topic: int
    paragraph: int
    title: str
    text: str
    asked: tuple[Asked, ...]


def read_passages(path: str | Path) -> list[Passage]:
    """Read a file in SQuAD's format, version 1.1.

    Parameters
    ----------
    path : path
        ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
        [{"text", "answer_start"}]}]}]}]}``.

    Returns
    -------
    list of Passage
        All of them, those that nobody asks about too.

    Raises
    ------
    ManifestError
        Naming the entry that is not in this form.

    Example
    -------
    >>> import tempfile
    >>> asked = {"id": "1", "question": "What?", "answers": [{"text": "gold", "answer_start": 0}]}
    >>> topic = {"title": "Metals", "paragraphs": [{"context": "gold shines", "qas": [asked]}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "spoken_test-v1.1.json")
    ...     _ = path.write_text(json.dumps({"data": [topic]}))
    ...     (passage,) = read_passages(path)
    >>> passage.text, passage.asked[0].answers
    ('gold shines', ('gold',))
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ManifestError(
            path, error.lineno, "", f"no valid JSON ({error.msg}, column {error.colno}); get it "
            "again",
        ) from error  # fmt: skip

    def value(entry: Any, name: str, kind: type, place: str) -> Any:
        found = entry.get(name) if isinstance(entry, Mapping) else None
        if not isinstance(found, kind):
            wanted = {str: "a string", list: "a list"}[kind]
            place = f"{place}.{name}" if place else name
            raise ManifestError(
                path, 0, place, f"expected {wanted}, got {found!r}; this is not SQuAD's format"
            )
        return found

    passages, seen = [], set()
    for i, topic in enumerate(value(content, "data", list, "")):
        here = f"data[{i}]"
        title = value(topic, "title", str, here)
        for j, paragraph in enumerate(value(topic, "paragraphs", list, here)):
            at = f"{here}.paragraphs[{j}]"
            asked = []
            for k, entry in enumerate(value(paragraph, "qas", list, at)):
                place = f"{at}.qas[{k}]"
                answers = [
                    " ".join(value(answer, "text", str, f"{place}.answers[{n}]").split())
                    for n, answer in enumerate(value(entry, "answers", list, place))
                ]
                name = value(entry, "id", str, place)
                if name in seen:
                    raise ManifestError(path, 0, f"{place}.id", f"{name!r} occurs twice")
                seen.add(name)
                asked.append(
                    Asked(
                        name,
                        " ".join(value(entry, "question", str, place).split()),
                        tuple(dict.fromkeys(answer for answer in answers if answer)),
                    )
                )
            text = " ".join(value(paragraph, "context", str, at).split())
            passages.append(Passage(i, j, title, text, tuple(asked)))
    return passages


def recordings(folder: Path) -> dict[tuple[int, int], list[tuple[int, Path]]]:
    """Sentences of every passage, in order.

    Parameters
    ----------
    folder : Path
        Of files ``<topic>_<paragraph>_<sentence>.wav``, counted from 0; others are ignored.

    Returns
    -------
    dict of (int, int) to list of (int, Path)
        Topic and paragraph to number and file of each sentence.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("0_0_10.wav", "0_0_9.wav", "0_1_0.wav", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     found = recordings(Path(folder))
    >>> [number for number, _ in found[0, 0]], sorted(found)
    ([9, 10], [(0, 0), (0, 1)])
    """
    found: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    for path in folder.iterdir():
        match = _WAV.fullmatch(path.name)
        if match:
            place = int(match["topic"]), int(match["paragraph"])
            found.setdefault(place, []).append((int(match["sentence"]), path))
    return {place: sorted(sentences) for place, sentences in found.items()}


def with_original(
    passages: Sequence[Passage], originals: Sequence[Passage], path: str | Path
) -> list[tuple[Passage, Passage]]:
    """Pair passages with those of SQuAD, which have the same places.

    Parameters
    ----------
    passages, originals : sequence of Passage
        Of Spoken-SQuAD and of SQuAD.
    path : path
        File of SQuAD, for messages.

    Returns
    -------
    list of (Passage, Passage)

    Raises
    ------
    ManifestError
        Where title or questions differ: then it is another version of SQuAD, or another part.
    """
    places = {(p.topic, p.paragraph): p for p in originals}
    pairs = []
    for passage in passages:
        at = f"data[{passage.topic}].paragraphs[{passage.paragraph}]"
        original = places.get((passage.topic, passage.paragraph))
        known = {asked.id for asked in original.asked} if original else set()
        strange = [asked.id for asked in passage.asked if asked.id not in known]
        if original is None or original.title != passage.title or strange:
            what = f"has no question {strange[0]!r}" if strange else "is another paragraph"
            raise ManifestError(
                path, 0, at,
                f"{what if original else 'is missing'}: take version 1.1 of SQuAD, train-v1.1.json "
                "for the training part and dev-v1.1.json for the test part",
            )  # fmt: skip
        pairs.append((passage, original))
    return pairs
