"""CoVoST 2 (Wang et al., 2020; translations CC0) to manifests: Common Voice with translations.

The speech is Common Voice, release 4 (2019-12-10): of every language an archive that unpacks to
``clips/`` (MP3) and ``validated.tsv``. The translations are
``covost_v2.<source>_<target>.tsv`` with the columns ``path``, ``translation`` and ``split``, to be
put beside ``validated.tsv``, from https://github.com/facebookresearch/covost. Its script
``get_covost_splits.py`` joins the two on ``path``; that is done here, and what it writes,
``covost_v2.<source>_<target>.{train,dev,test}.tsv``, is read instead where all three lie there.

Rows of one clip in several target languages become one utterance. Training is ``train`` and
``train_covost``, dev and test are those of Common Voice, as in the corpus's own script.

Text policy: raw. Transcripts and translations are cased and punctuated; some stand in quotation
marks, as published.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.data.audio import AudioError, AudioInfo, audio_info
from toolkit.data.importers.base import lines_of
from toolkit.data.manifest import ManifestError, write_manifest
from toolkit.data.report import PrepareReport, part_summary, rate_outliers
from toolkit.data.rows import Row
from toolkit.data.splits import spread

FROM_ENGLISH = "ar ca cy de et fa id ja lv mn sl sv-SE ta tr zh-CN".split()
TO_ENGLISH = [*FROM_ENGLISH, *"es fr it nl pt ru".split()]
#: Values of the column ``split`` that each part consists of.
PARTS = {"train": ("train", "train_covost"), "dev": ("dev",), "test": ("test",)}
WHERE = "https://github.com/facebookresearch/covost"
#: Columns of ``validated.tsv`` that become attributes where they are filled in.
ABOUT_SPEAKERS = ("age", "gender", "accent")


@dataclass
class Clip:
    """A clip of Common Voice and what is known about it.

    Attributes
    ----------
    path : str
        File name below ``clips/``.
    sentence, speaker : str
    table, line : Path, int
        Where it was found first: what messages name.
    part : str
    translations : dict of str to str
        By CoVoST's language code.
    attributes : dict of str to str
    """

    path: str
    sentence: str
    speaker: str
    table: Path
    line: int
    part: str
    translations: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


def language_code(code: str) -> str:
    """CoVoST's code as a two-letter one (ISO 639-1).

    Example
    -------
    >>> language_code("zh-CN"), language_code("de")
    ('zh', 'de')
    """
    return code.partition("-")[0]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    r"""Rows of a table of Common Voice or CoVoST: tabs, no quoting, ``\`` escapes.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Those it must have; others are read too.

    Yields
    ------
    int, dict of str to str
        Line and values by column.

    Raises
    ------
    ManifestError
        For a missing column, or a line with another number of values than the first.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "covost_v2.en_de.tsv")
    ...     _ = path.write_text('path\ttranslation\tsplit\na.mp3\t"Ja", sagt er.\tdev\n')
    ...     list(read_table(path, ["path", "split"]))
    [(2, {'path': 'a.mp3', 'translation': '"Ja", sagt er.', 'split': 'dev'})]
    """
    header: list[str] | None = None
    for number, line in lines_of(path):
        values = next(
            csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"), []
        )
        if header is None:
            header = values
            if missing := [name for name in columns if name not in header]:
                raise ManifestError(
                    path, 1, missing[0], f"no such column; the first line has {', '.join(header)}"
                )
        elif len(values) != len(header):
            raise ManifestError(
                path, number, "",
                f"{len(values)} values where the first line names {len(header)} columns; "
                "download the table again",
            )  # fmt: skip
        else:
            yield number, dict(zip(header, values, strict=True))
    if header is None:
        raise ManifestError(path, 1, "", f"is empty; the first line names {', '.join(columns)}")


def prepare(
    work: str | os.PathLike[str],
    source: str | os.PathLike[str],
    pairs: Sequence[Sequence[str]] = (("en", "de"),),
    limit: int | None = None,
    nj: int = 8,
) -> PrepareReport:
    """Write ``<work>/data/covost2/<source language>/{train,dev,test}.jsonl`` and a report.

    Parameters
    ----------
    work : path
    source : path
        Folder with a folder per source language (``en/clips/``, ``en/validated.tsv``,
        ``en/covost_v2.en_de.tsv``), or such a folder itself where all pairs have one source.
    pairs : sequence of (source, target)
        In CoVoST's codes (``zh-CN``, ``sv-SE``); one of the two is English.
    limit : int, optional
        For short runs: this many utterances of each part, from all over it.
    nj : int
        Threads that open files.

    Returns
    -------
    PrepareReport

    Raises
    ------
    FileNotFoundError
        When clips or tables are not there, with where to get them.
    ManifestError
        For a damaged table, or a clip that a table names and nobody has unpacked.
    ValueError
        For a pair that CoVoST 2 does not have.

    Notes
    -----
    Languages are two-letter codes in manifests: ``translations.zh`` is ``zh-CN``.
    """
    by_source: dict[str, list[str]] = {}
    for first, target in pairs:
        by_source.setdefault(_checked(first, target), []).append(target)
    report = PrepareReport("CoVoST 2", Path(work, "data", "covost2").absolute())
    written: dict[str, list[Row]] = {}
    for language, targets in by_source.items():
        folder = _folder(Path(source).expanduser().absolute(), language, len(by_source) == 1)
        clips, dropped = _clips(folder, language, targets)
        code = language_code(language)
        for part in PARTS:
            chosen = sorted((c for c in clips if c.part == part), key=lambda clip: clip.path)
            rows = _rows(folder / "clips", code, spread(chosen, limit), nj, dropped)
            name = f"{code}/{part}"
            report.manifests[name] = report.folder / code / f"{part}.jsonl"
            write_manifest(report.manifests[name], rows)
            report.parts[name] = part_summary(rows)
            written[name] = rows
        report.dropped.update({f"{code}: {why}": count for why, count in (+dropped).items()})
        every = [row for part in PARTS for row in written[f"{code}/{part}"]]
        report.facts[f"Translations ({code})"] = dict(
            sorted(Counter(lang for row in every for lang in row.translations).items())
        )
        report.facts[f"Length does not fit the text ({code})"] = rate_outliers(every)
        report.facts[f"Speakers of test also in train ({code})"] = len(
            {row.speaker for row in written[f"{code}/test"]}
            & {row.speaker for row in written[f"{code}/train"]}
        )
    report.facts["Source"] = f"{WHERE}; translations CC0, speech of Common Voice CC0"
    report.facts["Text policy"] = "raw"
    report.write(written)
    return report


def _checked(source: str, target: str) -> str:
    """The source language of a pair that exists."""
    known = (source == "en" and target in FROM_ENGLISH) or (target == "en" and source in TO_ENGLISH)
    if not known:
        raise ValueError(
            f"CoVoST 2 has no pair {source}_{target}; it has from English into "
            f"{', '.join(FROM_ENGLISH)}, and into English from {', '.join(TO_ENGLISH)}"
        )
    return source


def _folder(source: Path, language: str, alone: bool) -> Path:
    for folder in (source / language, *([source] if alone else [])):
        if (folder / "clips").is_dir():
            return folder
    raise FileNotFoundError(
        f"{source / language} has no clips/; unpack {language}.tar.gz of Common Voice, release 4 "
        "(https://commonvoice.mozilla.org/datasets), there, and say where with covost2=FOLDER"
    )


def _clips(folder: Path, language: str, targets: Sequence[str]) -> tuple[list[Clip], Counter[str]]:
    """Clips of one source language with their translations, and what was left out."""
    clips: dict[str, Clip] = {}
    dropped: Counter[str] = Counter()
    validated: dict[str, dict[str, str]] = {}
    for target in targets:
        stem = f"covost_v2.{language}_{target}"
        split = {part: folder / f"{stem}.{part}.tsv" for part in PARTS}
        if all(path.is_file() for path in split.values()):
            entries = [entry for part, path in split.items() for entry in _split(path, part)]
        else:
            validated = validated or _validated(folder / "validated.tsv")
            entries = _joined(folder / f"{stem}.tsv", validated, dropped)
        for clip, translation in entries:
            if not clip.sentence.strip() or not translation.strip():
                dropped[
                    f"{target}: no {'translation' if clip.sentence.strip() else 'sentence'}"
                ] += 1
            elif clips.setdefault(clip.path, clip).part != clip.part:
                # One target's training clip must not be another's test clip.
                dropped[f"{target}: in another part for another language"] += 1
            elif target in clips[clip.path].translations:
                raise ManifestError(clip.table, clip.line, "path", f"{clip.path} occurs twice")
            else:
                clips[clip.path].translations[target] = translation.strip()
    return [clip for clip in clips.values() if clip.translations], dropped


def _split(path: Path, part: str) -> Iterator[tuple[Clip, str]]:
    """Entries of a table that the corpus's own script has written."""
    columns = ("path", "sentence", "translation", "client_id")
    for line, row in read_table(path, columns):
        clip = Clip(_name(row, path, line), row["sentence"], row["client_id"], path, line, part)
        yield clip, row["translation"]


def _validated(path: Path) -> dict[str, dict[str, str]]:
    """Lines of ``validated.tsv`` by clip."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it comes with Common Voice, release 4, and its clips"
        )
    columns = ("client_id", "path", "sentence")
    return {_name(row, path, line): row for line, row in read_table(path, columns)}


def _joined(
    path: Path, validated: dict[str, dict[str, str]], dropped: Counter[str]
) -> list[tuple[Clip, str]]:
    """Entries of a table of translations whose clips Common Voice has."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get it from {WHERE} and unpack it there")
    part_of = {value: part for part, values in PARTS.items() for value in values}
    entries, unknown = [], 0
    for line, row in read_table(path, ("path", "translation", "split")):
        name = _name(row, path, line)
        if row["split"] not in part_of:
            dropped[f"split {row['split']!r}"] += 1
        elif name not in validated:
            unknown += 1
        else:
            said = validated[name]
            about = {key: said[key] for key in ABOUT_SPEAKERS if said.get(key)}
            clip = Clip(
                name, said["sentence"], said["client_id"], path, line, part_of[row["split"]],
                attributes=about,
            )  # fmt: skip
            entries.append((clip, row["translation"]))
    if not entries:
        raise ManifestError(
            path, 0, "path",
            f"none of its clips is in {path.parent / 'validated.tsv'}: CoVoST 2 belongs to Common "
            "Voice, release 4",
        )  # fmt: skip
    dropped["not in validated.tsv"] += unknown
    return entries


def _name(row: dict[str, str], path: Path, line: int) -> str:
    name = row["path"].strip()
    if not name or "/" in name:
        raise ManifestError(path, line, "path", f"expected the name of a clip, got {name!r}")
    return name


def _rows(
    folder: Path, language: str, clips: Sequence[Clip], nj: int, dropped: Counter[str]
) -> list[Row]:
    def info(clip: Clip) -> AudioInfo | AudioError:
        try:
            return audio_info(folder / clip.path)
        except AudioError as error:
            return error

    rows = []
    with ThreadPoolExecutor(nj) as pool:
        for clip, header in zip(clips, pool.map(info, clips), strict=True):
            if isinstance(header, AudioError) and header.reason == "missing":
                raise ManifestError(
                    clip.table, clip.line, "path",
                    f"{folder / clip.path} is not there; unpack the archive of clips again",
                )  # fmt: skip
            if isinstance(header, AudioError):
                # Common Voice has some empty files.
                dropped[f"audio_{header.reason}"] += 1
                continue
            rows.append(
                Row(
                    id=f"covost2-{Path(clip.path).stem}",
                    audio=str(folder / clip.path),
                    duration=round(header.duration, 4),
                    text=clip.sentence.strip(),
                    language=language,
                    speaker=clip.speaker or "unknown",
                    attributes=dict(clip.attributes),
                    translations={
                        language_code(code): text
                        for code, text in sorted(clip.translations.items())
                    },
                )
            )
    return rows
