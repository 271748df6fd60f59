"""The prompts' training texts again, by synthesis in many voices, in any of their languages.

One recorded speaker a language, some 20 minutes each, is little to learn a language's sounds from.
Only texts of the training part are spoken, so nothing of dev and test is heard. Rows keep the
translations of their prompt.

Text policy: raw, as the prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from toolkit.data.manifest import Row, read_manifest, write_manifest
from toolkit.data.parallel import hashed_path, make_audio
from toolkit.data.report import PrepareReport, part_summary, rate_outliers
from toolkit.data.synthesis import Take, check_engines, random_take, synthesise

#: Language -> eSpeak NG's voice; its variants (``+f2``) are added.
VOICES = {"en": "en-us", "es": "es", "fr": "fr", "it": "it", "ru": "ru"}


@dataclass(frozen=True)
class Spoken:
    """A text in a voice.

    Attributes
    ----------
    row : Row
        The prompt.
    take : Take
    """

    row: Row
    take: Take

    @property
    def id(self) -> str:
        """Hash of everything that decides the sound."""
        source = f"{self.row.language}|{self.row.text}|{sorted(asdict(self.take).items())}"
        return hashlib.sha256(source.encode()).hexdigest()[:20]

    def path(self, root: Path) -> Path:
        """Audio file below ``root``."""
        return hashed_path(root, self.id)


def takes_of(row: Row, takes: int, seed: int = 0) -> list[Spoken]:
    """Voices for a prompt, all of the training voices' variants.

    Parameters
    ----------
    row : Row
    takes : int
    seed : int

    Returns
    -------
    list of Spoken

    Example
    -------
    >>> row = Row("a", "/a.wav", 1.0, "Pulse uno.", "es", "s")
    >>> [job.take.voice.partition("+")[0] for job in takes_of(row, 2)]
    ['es', 'es']
    """
    jobs = []
    for turn in range(takes):
        drawn = random_take(seed, f"{row.language}|{turn}|{row.text}", engines=("espeak",))
        variant = drawn.voice.partition("+")[2]
        jobs.append(Spoken(row, replace(drawn, voice=f"{VOICES[row.language]}+{variant}")))
    return jobs


def render(job: Spoken) -> np.ndarray:
    """The waveform of a job: (N,) float32 at 16 kHz."""
    return synthesise(job.row.text, job.take)


def prepare(
    work: str | Path,
    languages: Sequence[str] = ("es", "fr", "it", "ru"),
    takes: int = 2,
    seed: int = 0,
    nj: int = 2,
    limit: int | None = None,
) -> PrepareReport:
    """Write ``<work>/data/spoken_prompts/<language>/train.jsonl`` and a report.

    Reads the manifests of ``recipes.asterisk_sounds.prepare``: list that corpus first.

    Parameters
    ----------
    work : path
    languages : sequence of str
    takes : int
        Voices that say each text.
    seed : int
        Of the voices.
    nj : int
        Processes.
    limit : int, optional
        Speak this many utterances of each language, for a quick look.

    Returns
    -------
    PrepareReport

    Raises
    ------
    ValueError
        For a language that has no voice here.
    toolkit.data.manifest.ManifestError
        When the prompts have not been prepared.
    toolkit.data.synthesis.SynthesisError
        Without the extra ``tts``.
    """
    if unknown := sorted(set(languages) - set(VOICES)):
        raise ValueError(f"no voice for {unknown}; there are {', '.join(VOICES)}")
    check_engines(("espeak",))
    data = Path(work).absolute() / "data"
    root = data / "spoken_prompts"
    report = PrepareReport("spoken_prompts", root)
    shown = {}
    for language in languages:
        prompts = read_manifest(data / "asterisk_sounds" / language / "train.jsonl")
        # Some prompts share a text.
        texts = list({row.text: row for row in prompts}.values())
        jobs = [job for row in texts for job in takes_of(row, takes, seed)][:limit]
        made, _ = make_audio(jobs, root, render, nj, f"prompts in {language}")
        rows = []
        for job in jobs:
            seconds = made[job.id]
            if isinstance(seconds, str):
                report.dropped[f"{language}: {seconds}"] += 1
                continue
            attributes = {**job.take.attributes(), "prompt": job.row.id}
            rows.append(
                replace(
                    job.row,
                    id=f"spoken-{language}-{job.id}",
                    audio=str(job.path(root)),
                    offset=0.0,
                    duration=round(seconds, 4),
                    speaker=job.take.speaker,
                    words=None,
                    asr_text=None,
                    attributes=attributes,
                )
            )
        odd = rate_outliers(rows)
        report.dropped[f"{language}: length_does_not_fit_text"] += len(odd)
        rows = [row for row in rows if row.id not in odd]
        report.manifests[f"{language}/train"] = root / language / "train.jsonl"
        write_manifest(report.manifests[f"{language}/train"], rows)
        report.parts[f"{language}/train"] = part_summary(rows)
        shown[f"{language}/train"] = rows
    report.dropped = +report.dropped
    report.facts["Text policy"] = "raw, as the prompts"
    report.write(shown)
    return report
