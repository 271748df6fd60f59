"""LibriSpeech (Panayotov et al., 2015; CC-BY 4.0) to manifests.

1,000 hours of read English from audio books, from https://www.openslr.org/12: unpacked, every
``<subset>/<speaker>/<chapter>/`` holds FLAC files and one ``.trans.txt``. The corpus comes with its
split, and no speaker is in two parts of it.

Text policy: ``sentence``. The corpus is in capitals without punctuation; the default here is lower
case with a capital at the beginning, since a text LLM is asked about these very texts. What the
paper did is not known; ``text_case: raw`` keeps the capitals.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit.data.audio import AudioError, AudioInfo, audio_info
from toolkit.data.importers.policies import TEXT_CASES, with_case
from toolkit.data.manifest import ManifestError, write_manifest
from toolkit.data.report import PrepareReport, part_summary, rate_outliers
from toolkit.data.rows import Row
from toolkit.data.splits import spread

PARTS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "dev": ("dev-clean",),
    "test_clean": ("test-clean",),
    "test_other": ("test-other",),
}
SUBSETS = (
    "train-clean-100", "train-clean-360", "train-other-500",
    "dev-clean", "dev-other", "test-clean", "test-other",
)  # fmt: skip


def prepare(
    work: str | os.PathLike[str],
    source: str | os.PathLike[str],
    parts: Mapping[str, Sequence[str]] | None = None,
    text_case: str = "sentence",
    limit: int | None = None,
    nj: int = 4,
) -> PrepareReport:
    """Write a manifest per part below ``<work>/data/librispeech``.

    Parameters
    ----------
    work : path
    source : path
        Folder ``LibriSpeech`` as the archives unpack, or the one it lies in.
    parts : mapping of str to sequence of str, optional
        Manifest name to subsets; all of the training set, dev-clean and both test sets by default.
    text_case : str
        ``sentence``, ``lower`` or ``raw``.
    limit : int, optional
        For short runs: this many utterances of each subset, from all over it.
    nj : int
        Threads that open files.

    Returns
    -------
    PrepareReport

    Raises
    ------
    FileNotFoundError
        When a subset is not there, with where to get it.
    ManifestError
        For a transcript line that is none, or audio that cannot be read.
    ValueError
        For subsets or policies that do not exist.
    """
    if text_case not in TEXT_CASES:
        raise ValueError(f"text_case {text_case!r} is not one of {', '.join(TEXT_CASES)}")
    parts = {name: tuple(subsets) for name, subsets in (parts or PARTS).items()}
    wanted = [subset for subsets in parts.values() for subset in subsets]
    if unknown := sorted(set(wanted) - set(SUBSETS)):
        raise ValueError(f"no subset {', '.join(unknown)}; LibriSpeech has {', '.join(SUBSETS)}")
    if twice := [subset for subset, count in Counter(wanted).items() if count > 1]:
        raise ValueError(f"parts: {', '.join(twice)} would be in two manifests")
    root = _root(Path(source).expanduser())
    if missing := [subset for subset in wanted if not (root / subset).is_dir()]:
        raise FileNotFoundError(
            f"{root} has no {', '.join(missing)}; get the archives from "
            "https://www.openslr.org/12 and unpack them there: "
            + " && ".join(f"tar xf {subset}.tar.gz" for subset in missing)
        )
    folder = Path(work, "data", "librispeech").absolute()
    sexes = read_speakers(root / "SPEAKERS.TXT")
    report = PrepareReport("LibriSpeech", folder)
    written: dict[str, list[Row]] = {}
    for name, subsets in parts.items():
        rows: list[Row] = []
        for subset in subsets:
            found, dropped = _subset(root / subset, sexes, text_case, limit, nj)
            rows += found
            report.dropped.update(dropped)
        report.manifests[name] = folder / f"{name}.jsonl"
        write_manifest(report.manifests[name], rows)
        report.parts[name] = part_summary(rows)
        written[name] = rows
    report.facts["source"] = "https://www.openslr.org/12, CC-BY 4.0"
    report.facts["text policy"] = text_case
    report.facts["subsets"] = {name: ", ".join(subsets) for name, subsets in parts.items()}
    every = [row for rows in written.values() for row in rows]
    report.facts["length does not fit text"] = rate_outliers(every)
    report.write(written)
    return report


def _root(source: Path) -> Path:
    for candidate in (source, source / "LibriSpeech"):
        if any((candidate / subset).is_dir() for subset in SUBSETS):
            return candidate.absolute()
    raise FileNotFoundError(
        f"{source}: no subset of LibriSpeech here; say where it is with "
        "librispeech=FOLDER, and get it from https://www.openslr.org/12"
    )


def read_speakers(path: Path) -> dict[str, str]:
    """Sex of each speaker, from ``SPEAKERS.TXT``.

    Parameters
    ----------
    path : Path
        Lines ``id | sex | subset | minutes | name``; ``;`` starts a comment. Need not exist.

    Returns
    -------
    dict of str to str
        Speaker to ``male`` or ``female``.

    Raises
    ------
    ManifestError
        For a line of another form.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "SPEAKERS.TXT")
    ...     _ = path.write_text(";ID|SEX|...\\n14   | F | train-clean-360  | 25.03 | K. Hardy\\n")
    ...     read_speakers(path)
    {'14': 'female'}
    """
    if not path.exists():
        return {}
    sexes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 4 or fields[1] not in ("M", "F"):
            raise ManifestError(path, number, "sex", "expected `id | M or F | subset | minutes`")
        sexes[fields[0]] = "male" if fields[1] == "M" else "female"
    return sexes


def _subset(
    folder: Path, sexes: Mapping[str, str], text_case: str, limit: int | None, nj: int
) -> tuple[list[Row], Counter[str]]:
    said: dict[str, tuple[Path, int, str]] = {}
    dropped: Counter[str] = Counter()
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            name, _, text = line.strip().partition(" ")
            # SPEAKER-CHAPTER-NUMBER, as the folders say.
            if name.split("-")[:2] != [path.parent.parent.name, path.parent.name]:
                raise ManifestError(
                    path, number, "id", f"{name!r} is no utterance of this chapter; unpack again"
                )
            if not text.strip():
                dropped["no_text"] += 1
            elif not (path.parent / f"{name}.flac").exists():
                raise ManifestError(
                    path, number, "audio", f"{name}.flac is not beside it; unpack again"
                )
            else:
                said[name] = (path, number, text)
    recorded = sum(1 for _ in folder.glob("*/*/*.flac"))
    dropped["no_transcript"] += recorded - len(said) - dropped["no_text"]
    dropped = +dropped
    names = spread(sorted(said), limit)

    def info(name: str) -> AudioInfo:
        path, number, _ = said[name]
        try:
            return audio_info(path.parent / f"{name}.flac")
        except AudioError as error:
            raise ManifestError(path, number, "audio", str(error)) from error

    rows = []
    with ThreadPoolExecutor(nj) as pool:
        for name, header in zip(names, pool.map(info, names), strict=True):
            path, _, text = said[name]
            speaker, chapter, _ = name.split("-")
            attributes = {"subset": folder.name, "chapter": chapter}
            if speaker in sexes:
                attributes["gender"] = sexes[speaker]
            rows.append(
                Row(
                    id=name,
                    audio=str(path.parent / f"{name}.flac"),
                    duration=round(header.duration, 4),
                    text=with_case(text.strip(), text_case),
                    language="en",
                    speaker=speaker,
                    attributes=attributes,
                )
            )
    return rows, dropped
