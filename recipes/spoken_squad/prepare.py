"""Spoken-SQuAD (Lee et al., 2018; CC-BY-SA 4.0) to manifests: text questions on spoken passages.

From https://github.com/Chia-Hsuan-Lee/Spoken-SQuAD, ``source`` holds

- ``spoken_train-v1.1.json`` and ``spoken_test-v1.1.json``: SQuAD's training and development set, of
  which ``context`` is what a recogniser heard (22.8 % word errors), in lower case, and questions
  are kept whose answer it heard: 37,111 and 5,351.
- ``train_wav/`` and ``dev_wav/``, also below ``Spoken-SQuAD_audio/``: the passages by a
  synthesiser, a file a sentence, ``<topic>_<paragraph>_<sentence>.wav``, counted from 0 in the
  order of the JSON file. The archive of 50 GB holds two, ``train_wav.zip`` and ``dev_wav.zip``.

The sentences of a passage become one file. The corpus has no development set: some topics of the
training set are set aside.

Text policy: ``squad`` names the folder of SQuAD 1.1's own ``train-v1.1.json`` and
``dev-v1.1.json``: transcripts and first answers are then SQuAD's, cased and punctuated, and the
recogniser's answers count as right too. Without it transcripts are the recogniser's, so that the
text topline is one of a cascade. Either way ``asr_text`` is what the recogniser heard.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.spoken_squad.passages import Passage, read_passages, recordings, with_original
from toolkit.data.audio import SAMPLE_RATE, read_audio
from toolkit.data.manifest import write_manifest
from toolkit.data.parallel import hashed_path, make_audio
from toolkit.data.report import PrepareReport, part_summary
from toolkit.data.rows import Row
from toolkit.data.splits import assign_groups, spread

#: Part -> questions, folder of recordings, file of SQuAD.
FILES = {
    "train": ("spoken_train-v1.1.json", "train_wav", "train-v1.1.json"),
    "test": ("spoken_test-v1.1.json", "dev_wav", "dev-v1.1.json"),
}
WHERE = "https://github.com/Chia-Hsuan-Lee/Spoken-SQuAD"


@dataclass(frozen=True)
class Joined:
    """The sentences of a passage, to be one file.

    Attributes
    ----------
    files : tuple of str
    pause : float
        Seconds between sentences.
    """

    files: tuple[str, ...]
    pause: float

    @property
    def id(self) -> str:
        """Hash of everything that decides the sound."""
        sizes = [os.path.getsize(name) for name in self.files]
        return hashlib.sha256(f"{self.files}|{sizes}|{self.pause}".encode()).hexdigest()[:32]

    def path(self, root: Path) -> Path:
        """Audio file below ``root``."""
        return hashed_path(root, self.id)


def join(job: Joined) -> np.ndarray:
    """One waveform of a passage's sentences, at 16 kHz.

    Parameters
    ----------
    job : Joined

    Returns
    -------
    numpy.ndarray (N,), float32

    Raises
    ------
    toolkit.data.audio.AudioError
        For a file that cannot be read.
    """
    gap = np.zeros(round(job.pause * SAMPLE_RATE), np.float32)
    parts = [part for name in job.files for part in (gap, read_audio(name))]
    return np.concatenate(parts[1:])


def prepare(
    work: str | os.PathLike[str],
    source: str | os.PathLike[str],
    squad: str | os.PathLike[str] | None = None,
    dev_share: float = 0.03,
    pause: float = 0.0,
    seed: int = 0,
    limit: int | None = None,
    nj: int = 8,
) -> PrepareReport:
    """Write ``<work>/data/spoken_squad/{train,dev,test}.jsonl``, a row a question, and a report.

    Parameters
    ----------
    work : path
        Passages are written here as FLAC: about 20 GB.
    source : path
        Folder of the questions and the recordings.
    squad : path, optional
        Folder of SQuAD 1.1, for gold transcripts and answers.
    dev_share : float
        Share of the training questions to set aside, whole topics.
    pause : float
        Seconds of silence between the sentences of a passage; their files have their own.
    seed : int
        Of the choice of topics.
    limit : int, optional
        For short runs: this many passages of each file, from all over it.
    nj : int
        Processes.

    Returns
    -------
    PrepareReport

    Raises
    ------
    FileNotFoundError
        When files are not there, with where to get them.
    ManifestError
        For an entry that is not in SQuAD's format, or that SQuAD does not have.
    """
    source = Path(source).expanduser().absolute()
    report = PrepareReport("Spoken-SQuAD", Path(work, "data", "spoken_squad").absolute())
    parts: dict[str, list[Row]] = {}
    for part, names in FILES.items():
        parts[part] = _rows(source, part, names, squad, report, pause, limit, nj)
    train = parts.pop("train")
    part_of = assign_groups(
        [row.attributes["title"] for row in train],
        {"train": 1.0 - dev_share, "dev": dev_share}, seed, max_share=1.0,
    )  # fmt: skip
    by_part = {
        name: [row for row in train if part_of[row.attributes["title"]] == name]
        for name in ("train", "dev")
    }
    for name, rows in {**by_part, **parts}.items():
        report.manifests[name] = report.folder / f"{name}.jsonl"
        write_manifest(report.manifests[name], rows)
        report.parts[name] = part_summary(rows)
        passages = {row.audio: row.duration for row in rows}
        report.facts[f"Passages ({name})"] = {
            "passages": len(passages),
            "hours": round(sum(passages.values()) / 3600, 2),
            "longest, seconds": max(passages.values(), default=0.0),
            "of more than 60 s": sum(seconds > 60 for seconds in passages.values()),
        }
    report.facts["Source"] = f"{WHERE}, CC-BY-SA 4.0"
    report.facts["Text policy"] = (
        "SQuAD's own transcripts and answers" if squad else "the recogniser's transcripts: no gold"
    )
    report.write({**by_part, **parts})
    return report


def _rows(
    source: Path,
    part: str,
    names: tuple[str, str, str],
    squad: str | os.PathLike[str] | None,
    report: PrepareReport,
    pause: float,
    limit: int | None,
    nj: int,
) -> list[Row]:
    questions, recorded, original = names
    passages = read_passages(_found(source, questions, f"get it from {WHERE}"))
    pairs: list[tuple[Passage, Passage | None]] = [(passage, None) for passage in passages]
    if squad is not None:
        gold = _found(Path(squad).expanduser().absolute(), original, "get SQuAD 1.1")
        pairs = list(with_original(passages, read_passages(gold), gold))
    unpack = f"unpack {recorded}.zip, which is inside Spoken-SQuAD_audio.zip ({WHERE})"
    files = recordings(_found(source, recorded, unpack))
    dropped: Counter[str] = Counter()
    jobs: dict[tuple[int, int], Joined] = {}
    asked_about = spread([pair for pair in pairs if pair[0].asked], limit)
    for passage, _ in asked_about:
        place = passage.topic, passage.paragraph
        sentences = files.get(place, [])
        if not sentences:
            dropped["passages without a recording"] += 1
        elif [number for number, _ in sentences] != list(range(len(sentences))):
            # What is missing may be the answer.
            dropped["passages with a sentence missing"] += 1
        else:
            jobs[place] = Joined(tuple(str(path) for _, path in sentences), pause)
    if asked_about and not jobs:
        raise FileNotFoundError(
            f"{source}: no passage of {questions} has all of its recordings in {recorded}/, named "
            f"<topic>_<paragraph>_<sentence>.wav from 0; {unpack}"
        )
    made, _ = make_audio(list(jobs.values()), report.folder, join, nj, f"passages of {part}")
    rows = []
    for passage, gold in asked_about:
        job = jobs.get((passage.topic, passage.paragraph))
        if job is None:
            continue
        seconds = made[job.id]
        if isinstance(seconds, str):
            dropped[f"passages: {seconds}"] += 1
            continue
        own = _questions(passage, gold, part, str(job.path(report.folder)), round(seconds, 4))
        dropped["questions without an answer"] += len(passage.asked) - len(own)
        rows += own
    report.dropped.update({f"{part}: {why}": count for why, count in (+dropped).items()})
    return rows


def _found(folder: Path, name: str, remedy: str) -> Path:
    for path in (folder / name, folder / "Spoken-SQuAD_audio" / name):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder / name} is missing; {remedy}")


def _questions(
    passage: Passage, gold: Passage | None, part: str, audio: str, seconds: float
) -> Sequence[Row]:
    """A row for each question of a passage that has an answer."""
    best = {asked.id: asked.answers for asked in gold.asked} if gold else {}
    rows = []
    for asked in passage.asked:
        answers = list(dict.fromkeys([*best.get(asked.id, ()), *asked.answers]))
        if answers and asked.question:
            rows.append(
                Row(
                    id=f"spoken_squad-{asked.id}",
                    audio=audio,
                    duration=seconds,
                    text=gold.text if gold else passage.text,
                    language="en",
                    speaker="synthetic",
                    question=asked.question,
                    answer=answers[0],
                    asr_text=passage.text,
                    attributes={
                        "title": passage.title,
                        "passage": f"{part}_{passage.topic}_{passage.paragraph}",
                        "answers": answers,
                    },
                )
            )
    return rows
