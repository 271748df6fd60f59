"""Spoken language understanding on English prompts: intents, and spoken questions on passages.

Intents are the families of the prompts' own keys (``vm-goodbye``: voicemail), asked for in the
format of Dynamic-SUPERB; what the families are called is ours. Questions are those of
`recipes.asterisk_sounds.questions`, spoken by synthesis in voices that no training utterance has,
while the prompt that answers them is given as text: a model has to hear the question and to read
the passage. All of it is about the test part, for evaluation alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recipes.asterisk_sounds.questions import question_rows
from recipes.asterisk_sounds.spoken_questions import telephone_take
from toolkit.data.audio import audio_info, write_audio
from toolkit.data.manifest import Row, read_manifest, write_manifest
from toolkit.data.report import PrepareReport, part_summary
from toolkit.data.splits import spread
from toolkit.data.synthesis import check_engines, synthesise
from toolkit.files import atomic_write

TASK = "IntentClassification_AsteriskSounds"
PASSAGES = "passages"


def write_intents(rows: Sequence[Row], folder: Path, min_items: int = 2) -> Counter[str]:
    """Write the prompts' families as a task of Dynamic-SUPERB's format.

    Parameters
    ----------
    rows : sequence of Row
        With ``attributes.intent`` where their key belongs to a family.
    folder : Path
        ``<folder>/IntentClassification_AsteriskSounds/test/metadata.json`` is written; audio is
        named by a relative path.
    min_items : int
        Smaller families are left out, of the options too.

    Returns
    -------
    Counter
        Items of each family.

    Raises
    ------
    ValueError
        With fewer than two families there is nothing to ask.
    """
    named = [(row, row.attributes["intent"].replace("_", " ")) for row in rows
             if row.attributes.get("intent")]  # fmt: skip
    sizes = Counter(label for _, label in named)
    kept = {label: n for label, n in sizes.items() if n >= min_items}
    if len(kept) < 2:
        raise ValueError(
            f"intents: {len(kept)} families have {min_items} prompts or more; there are "
            f"{dict(sizes)}"
        )
    options = sorted(kept)
    instruction = (
        "What is this sentence of a telephone system about? The answer could be "
        f"{', '.join(options[:-1])} or {options[-1]}."
    )
    place = folder / TASK / "test"
    place.mkdir(parents=True, exist_ok=True)
    entries = {
        os.path.relpath(row.audio, place): {"instruction": instruction, "label": label}
        for row, label in named
        if label in kept
    }
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    atomic_write(place / "metadata.json", f"{text}\n".encode())
    return Counter(kept)


def question_on_passage(row: Row, folder: Path, seed: int = 0) -> Row:
    """A row whose audio is its question, and whose transcript is a passage to read.

    Parameters
    ----------
    row : Row
        Of `question_rows`.
    folder : Path
        Where the question's audio goes; a file that is there is kept.
    seed : int
        Of the voice, one that no training utterance has.

    Returns
    -------
    Row
        ``text`` is the question, ``context`` the passage.

    Raises
    ------
    toolkit.data.synthesis.SynthesisError
        Without a synthesiser.
    """
    take = telephone_take(seed, f"passage|{row.question}|{row.id}", held_out=True)
    digest = hashlib.sha256(f"{take}|{row.question}".encode()).hexdigest()
    path = folder / f"{digest[:20]}.wav"
    if not path.exists():
        write_audio(path, synthesise(row.question, take))
    about = ("prompt", "question_kind", "answers")
    return Row(
        id=f"{row.id}-passage",
        audio=str(path),
        duration=round(audio_info(path).duration, 4),
        text=row.question,
        language=row.language,
        speaker=take.speaker,
        attributes={name: row.attributes[name] for name in about},
        answer=row.answer,
        context=row.text,
    )


def prepare(
    work: str | Path, seed: int = 0, limit: int | None = None, min_items: int = 2
) -> PrepareReport:
    """Write ``<work>/data/asterisk_understanding/{passages.jsonl, dynamic_superb}`` and a report.

    Reads the English manifests of ``recipes.asterisk_sounds.prepare``: list that corpus first.

    Parameters
    ----------
    work : path
    seed : int
        Of the voices.
    limit : int, optional
        Keep this many questions, spread evenly.
    min_items : int
        See `write_intents`.

    Returns
    -------
    PrepareReport

    Raises
    ------
    toolkit.data.manifest.ManifestError
        When the prompts have not been prepared.
    toolkit.data.synthesis.SynthesisError
        Without the extra ``tts``.
    """
    check_engines(("espeak",))
    data = Path(work).absolute() / "data"
    root = data / "asterisk_understanding"
    report = PrepareReport("asterisk_understanding", root)
    prompts = read_manifest(data / "asterisk_sounds" / "en" / "test.jsonl")
    asked, dropped = question_rows(prompts)
    report.dropped.update({reason: n for reason, n in dropped.items() if n})
    rows = [question_on_passage(row, root / "wav", seed) for row in spread(asked, limit)]
    report.manifests[PASSAGES] = root / f"{PASSAGES}.jsonl"
    write_manifest(report.manifests[PASSAGES], rows)
    report.parts[PASSAGES] = part_summary(rows)
    families = write_intents(prompts, root / "dynamic_superb", min_items)
    report.facts["Intents"] = {name: n for name, n in families.most_common()}
    report.facts["Questions"] = dict(
        sorted(Counter(row.attributes["question_kind"] for row in rows).items())
    )
    report.facts["Text policy"] = "raw, as the prompts; questions and answers by template"
    report.write({PASSAGES: rows})
    return report
