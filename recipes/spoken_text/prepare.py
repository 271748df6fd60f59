"""Synthetic speech from sentences: many voices, the telephone band, some noise, exact texts.

Texts are sentences of Debian's ``fortunes`` and, if asked for, the training texts of other
manifests. ``dev`` has the training voices and other texts; ``test_other_voices`` has other texts
and voices of which training has heard none. Text policy: raw, as given to the synthesiser.

Every file's name is a hash of its text, voice and conditions, and is written atomically: after a
kill the finished files are kept, and the manifests, written last, are the same as without it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recipes.spoken_text.texts import fortune_sentences, unique
from toolkit.data.manifest import read_manifest, write_manifest
from toolkit.data.parallel import hashed_path, make_audio
from toolkit.data.report import PrepareReport, part_summary, rate_outliers
from toolkit.data.rows import Row
from toolkit.data.splits import assign_groups, group_key, template_groups
from toolkit.data.synthesis import Take, check_engines, random_take, synthesise

TRAIN, DEV, TEST = "train", "dev", "test_other_voices"
# Seconds a text takes, on average over both engines: only to decide how many texts make `hours`.
_SECONDS_PER_CHARACTER, _EDGE_S = 0.053, 0.36
# Change when the same plan would sound different, so that no old file is taken for a new one.
_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One utterance to make."""

    part: str
    text: str
    take: Take

    @property
    def id(self) -> str:
        """Hash of everything that decides the sound."""
        content = json.dumps([_VERSION, self.text, asdict(self.take)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def path(self, root: Path) -> Path:
        """Audio file, in one of 256 folders."""
        return hashed_path(root, self.id)

    @property
    def expected_seconds(self) -> float:
        """Rough length."""
        return _EDGE_S + _SECONDS_PER_CHARACTER * len(self.text) / self.take.tempo


def _plan_part(
    part: str, texts: Sequence[str], seconds: float, seed: int, engines: tuple[str, ...]
) -> list[Job]:
    """Voice texts in a hashed order, again with other voices when they run out, for ``seconds``."""
    order = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}|{text}".encode()).digest())
    jobs: list[Job] = []
    total, turn = 0.0, 0
    while order and total < seconds:
        for text in order:
            take = random_take(seed, f"{part}|{turn}|{text}", part == TEST, engines)
            jobs.append(Job(part, text, take))
            total += jobs[-1].expected_seconds
            if total >= seconds:
                break
        turn += 1
    return jobs


def plan(
    texts: Sequence[str],
    hours: float,
    seed: int = 0,
    engines: tuple[str, ...] = ("hibari", "espeak"),
    train_texts: Sequence[str] = (),
    held_out_texts: Iterable[str] = (),
    test_hours: float | None = None,
) -> list[Job]:
    """Decide what is said by which voice, in which part.

    Parameters
    ----------
    texts : sequence of str
        Divided between the parts; texts of one template stay together.
    hours : float
        Of training speech.
    seed : int
    engines : tuple of str
        For training and dev; the held-out voices are eSpeak NG's.
    train_texts : sequence of str
        Spoken in training besides.
    held_out_texts : iterable of str
        Texts of test sets elsewhere: nothing of their templates is spoken in training.
    test_hours : float, optional
        Of dev and of test each; 5 % of ``hours``, at most half an hour, by default.

    Returns
    -------
    list of Job

    Example
    -------
    >>> jobs = plan([f"Sentence about {w}." for w in "abcdefghijklmnopqrstuvwxyz"], hours=0.01)
    >>> train = {job.text for job in jobs if job.part == "train"}
    >>> train & {job.text for job in jobs if job.part != "train"}
    set()
    """
    given = set(unique(train_texts))
    texts = list(dict.fromkeys([*texts, *sorted(given)]))
    groups = template_groups(texts)
    forced = {group for text, group in zip(texts, groups, strict=True) if text in given}
    part_of = assign_groups(groups, {TRAIN: 0.9, DEV: 0.05, TEST: 0.05}, seed)
    barred = {group_key(text) for text in held_out_texts}
    by_part: dict[str, list[str]] = {TRAIN: [], DEV: [], TEST: []}
    for text, group in zip(texts, groups, strict=True):
        part = TRAIN if group in forced else part_of[group]
        if part != TRAIN or group_key(text) not in barred:
            by_part[part].append(text)
    seconds = hours * 3600
    tested = min(0.05 * seconds, 1800.0) if test_hours is None else test_hours * 3600
    return [
        *_plan_part(TRAIN, by_part[TRAIN], seconds, seed, engines),
        *_plan_part(DEV, by_part[DEV], tested, seed, engines),
        *_plan_part(TEST, by_part[TEST], tested, seed, engines),
    ]


def _render(job: Job) -> np.ndarray:
    return synthesise(job.text, job.take)


def prepare(
    work: str | Path,
    hours: float = 2.0,
    seed: int = 0,
    nj: int = 2,
    limit: int | None = None,
    engines: Sequence[str] = ("hibari", "espeak"),
    train_manifests: Sequence[str | Path] = (),
    held_out_manifests: Sequence[str | Path] = (),
    test_hours: float | None = None,
    name: str = "spoken_text",
) -> PrepareReport:
    """Write ``<work>/data/<name>/{train,dev,test_other_voices}.jsonl``, audio and a report.

    Parameters
    ----------
    work : path
    hours : float
        Of training speech, roughly.
    seed : int
    nj : int
        Processes.
    limit : int, optional
        Make at most this many training utterances (a tenth for dev and test), for a quick look.
    engines : sequence of str
        ``hibari`` (one natural voice at eight pitches) and ``espeak`` (formant synthesis).
    train_manifests : sequence of path
        English rows' texts are spoken too, in training.
    held_out_manifests : sequence of path
        Their texts are never spoken in training.
    test_hours : float, optional
        Of dev and of test each.
    name : str
        Folder below ``<work>/data``: recipes that want another size do not replace each other's.

    Returns
    -------
    PrepareReport
        ``facts["Speed"]`` has the throughput of this run.

    Raises
    ------
    SynthesisError
        If an engine is missing: the message has the command that installs it.
    """
    engines = tuple(engines)
    # The held-out voices are eSpeak NG's whatever trains.
    check_engines(tuple(dict.fromkeys((*engines, "espeak"))))
    root = Path(work).absolute() / "data" / name
    report = PrepareReport(name, root)
    texts, left_out = fortune_sentences()
    jobs = plan(
        texts,
        hours,
        seed,
        engines,
        _english_texts(train_manifests),
        _english_texts(held_out_manifests),
        test_hours,
    )
    if limit is not None:
        most = {TRAIN: limit, DEV: max(1, limit // 10), TEST: max(1, limit // 10)}
        jobs = [job for part in most for job in [j for j in jobs if j.part == part][: most[part]]]
    already = sum(job.path(root).exists() for job in jobs)
    start = time.monotonic()
    results, cpu_seconds = make_audio(jobs, root, _render, nj)
    wall = time.monotonic() - start
    report.dropped.update({f"text {reason}": count for reason, count in left_out.items()})
    parts: dict[str, list[Row]] = {TRAIN: [], DEV: [], TEST: []}
    for job in jobs:
        seconds = results[job.id]
        if isinstance(seconds, str):
            report.dropped[seconds] += 1
            continue
        parts[job.part].append(
            Row(
                id=f"spoken-{job.id}",
                audio=str(job.path(root)),
                duration=round(seconds, 4),
                text=job.text,
                language="en",
                speaker=job.take.speaker,
                attributes=job.take.attributes(),
            )
        )
    for part, rows in parts.items():
        odd = rate_outliers(rows)
        report.dropped["length_does_not_fit_text"] += len(odd)
        parts[part] = rows = [row for row in rows if row.id not in odd]
        report.manifests[part] = root / f"{part}.jsonl"
        write_manifest(report.manifests[part], rows)
        report.parts[part] = part_summary(rows)
    report.facts["Text policy"] = "raw: cased and punctuated, as given to the synthesiser"
    report.facts["Voices"] = _shared(parts)
    report.write(parts)
    # After writing: how fast this machine was is no property of the data.
    report.facts["Speed"] = {
        "utterances made": len(jobs) - already,
        "utterances kept from before": already,
        "wall seconds": round(wall, 1),
        "CPU seconds": round(cpu_seconds, 1),
    }
    return report


def _english_texts(manifests: Sequence[str | Path]) -> list[str]:
    rows = [row for path in manifests for row in read_manifest(path)]
    return [row.text for row in rows if row.language == "en"]


def _shared(parts: dict[str, list[Row]]) -> dict[str, int]:
    def variants(name: str) -> set[str]:
        return {row.speaker.rpartition("+")[2] for row in parts[name]}

    def templates(name: str) -> set[str]:
        return {group_key(row.text) for row in parts[name]}

    engines = Counter(row.attributes["engine"] for row in parts[TRAIN])
    return {
        **{f"training utterances of {name}": count for name, count in sorted(engines.items())},
        "voices in train": len(variants(TRAIN)),
        "voices in test_other_voices": len(variants(TEST)),
        "of these also in train": len(variants(TRAIN) & variants(TEST)),
        "templates of dev also in train": len(templates(TRAIN) & templates(DEV)),
        "templates of test_other_voices also in train": len(templates(TRAIN) & templates(TEST)),
    }
