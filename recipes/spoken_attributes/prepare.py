"""Many-voice speech whose attributes are known exactly, and recorded speech to test on.

``eSpeak NG`` and ``hibari`` speak sentences of Debian's ``fortunes`` in made-up rooms, noises and
loudnesses. Gender and accent are those of the synthesiser's voice list; speaking rate, level,
signal-to-noise ratio and C50 follow from how the sound is made; pitch is the median measured on the
dry voice before room and noise. ``dev`` has the training voices and accents, other texts and rooms;
``test`` has voices, accents, texts and rooms that training has not, which is asserted.
``test_recorded`` is the recorded telephone prompts in five languages: gender and language are their
package's, the rest is computed from the audio and no exact label. ``benchmarks`` holds small sets
about the test clips in the formats of Dynamic-SUPERB, Speech-IFEval and AIR-Bench-Chat.

Text policy: raw, as given to the synthesiser.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recipes.asterisk_sounds.prepare import prepare as prepare_recorded
from recipes.spoken_attributes.calibrate import errors
from recipes.spoken_attributes.scenes import DEV, TEST, TRAIN, Scene, attributes, draw, render
from recipes.spoken_text.texts import fortune_sentences
from toolkit.data.audio import AudioError, read_audio
from toolkit.data.labeller import AttributeLabeller, describe_row
from toolkit.data.manifest import read_manifest, write_manifest
from toolkit.data.parallel import facts_path, make_audio
from toolkit.data.report import PrepareReport, histogram, part_summary
from toolkit.data.rows import Row
from toolkit.data.splits import assign_groups, group_key, spread, template_groups
from toolkit.data.synthesis import check_engines
from toolkit.evaluation.benchmarks import write_embedded

RECORDED = "test_recorded"
LANGUAGES = ("en", "es", "fr", "it", "ru")
WORDED = ("gender", "accent", "pitch", "volume", "speaking_speed", "noise_level", "reverberation")
NUMBERS = {
    "pitch_hz": "median pitch, Hz",
    "level_db": "speech level, dB below full scale",
    "syllables_per_second": "syllables per second",
    "snr_level": "signal-to-noise ratio, dB",
    "c50_value": "C50, dB",
}


def plan(
    texts: Sequence[str], counts: Mapping[str, int], seed: int = 0, barred: Sequence[str] = ()
) -> list[Scene]:
    """Decide what is said in which part, by whom and where.

    Parameters
    ----------
    texts : sequence of str
        Divided 80 : 8 : 12; texts of one template stay together.
    counts : mapping of str to int
        Utterances of train, dev and test.
    seed : int
    barred : sequence of str
        Nothing of these texts' templates is spoken in training.

    Returns
    -------
    list of Scene

    Example
    -------
    >>> texts = [f"Sentence about {w}." for w in "abcdefghijklmnopqrstuvwxyz"]
    >>> scenes = plan(texts, {"train": 9, "dev": 2, "test": 2})
    >>> len({s.text for s in scenes if s.part == "train"} & {s.text for s in scenes[9:]})
    0
    """
    groups = template_groups(list(texts))
    part_of = assign_groups(groups, {TRAIN: 0.8, DEV: 0.08, TEST: 0.12}, seed)
    left_out = {group_key(text) for text in barred}
    scenes = []
    for part in (TRAIN, DEV, TEST):
        own = [t for t, g in zip(texts, groups, strict=True) if part_of[g] == part]
        own = [t for t in own if part != TRAIN or group_key(t) not in left_out]
        if counts[part] and not own:
            raise ValueError(f"no text is left for {part}: {len(texts)} texts are too few")
        # A text's place depends on nothing but itself: a larger corpus holds the smaller one.
        own.sort(key=lambda text: draw(part, text, seed).seed)
        scenes += [draw(part, own[i % len(own)], seed, i // len(own)) for i in range(counts[part])]
    return scenes


def assert_disjoint(parts: Mapping[str, Sequence[Scene]]) -> dict[str, int]:
    """Check that test shares no voice, accent, text template or room with training, nor dev a text.

    Parameters
    ----------
    parts : mapping of str to sequence of Scene

    Returns
    -------
    dict of str to int
        What was compared, for the report.

    Raises
    ------
    AssertionError
        Naming what is shared.
    """
    kinds = {
        "voices": lambda s: s.speaker,
        "accents": lambda s: s.accent,
        "text templates": lambda s: group_key(s.text),
        "rooms": lambda s: s.room,
    }
    facts = {}
    for name, value in kinds.items():
        train = {value(scene) for scene in (*parts[TRAIN], *parts[DEV])}
        test = {value(scene) for scene in parts[TEST]}
        if name == "text templates":
            train, dev = ({value(s) for s in parts[p]} for p in (TRAIN, DEV))
            if train & dev:
                raise AssertionError(f"dev and train share {name}: {sorted(train & dev)[:5]}")
        if train & test:
            raise AssertionError(f"test and train share {name}: {sorted(map(str, train & test))}")
        facts |= {f"{name} in train": len(train), f"{name} in test": len(test)}
        facts[f"{name} in both"] = 0
    return facts


def prepare(
    work: str | Path,
    train: int = 2400,
    dev: int = 200,
    test: int = 400,
    recorded: int = 60,
    recorded_genders: Mapping[str, str] | None = None,
    seed: int = 0,
    nj: int = 2,
    benchmark_items: int = 40,
) -> PrepareReport:
    """Write ``<work>/data/spoken_attributes/{train,dev,test,test_recorded}.jsonl`` and a report.

    A killed run keeps the finished files and ends with the same bytes.

    Parameters
    ----------
    work : path
    train, dev, test : int
        Generated utterances.
    recorded : int
        Recorded prompts of each of the five languages; with 0 the manifest is empty.
    recorded_genders : mapping of str to str, optional
        Language to the gender of its recorded speaker; by default the letter in the package's own
        folder name (``en_US_f_Allison``).
    seed : int
    nj : int
        Processes.
    benchmark_items : int
        Of each classification task in ``benchmarks``; 0 writes no benchmarks.

    Returns
    -------
    PrepareReport

    Raises
    ------
    toolkit.data.synthesis.SynthesisError
        If an engine is missing: the message has the command that installs it.
    """
    check_engines(("hibari", "espeak"))
    root = Path(work).absolute() / "data" / "spoken_attributes"
    report = PrepareReport("spoken_attributes", root)
    real, folder = [], {}
    if recorded:
        folder = prepare_recorded(work, LANGUAGES, seed).manifests
        real = _recorded(folder, recorded, recorded_genders or {}, report)
    texts, left_out = fortune_sentences()
    report.dropped.update({f"text {reason}": count for reason, count in left_out.items()})
    counts = {TRAIN: train, DEV: dev, TEST: test}
    scenes = plan(texts, counts, seed, [row.text for row in real])
    already = sum(scene.path(root).exists() for scene in scenes)
    start = time.monotonic()
    results, cpu_seconds = make_audio(scenes, root, render, nj, "scenes")
    wall = time.monotonic() - start
    rows: dict[str, list[Row]] = {part: [] for part in counts}
    kept: dict[str, list[Scene]] = {part: [] for part in counts}
    for scene in scenes:
        seconds = results[scene.id]
        if isinstance(seconds, str):
            report.dropped[seconds] += 1
            continue
        kept[scene.part].append(scene)
        rows[scene.part].append(_row(scene, root, seconds))
    report.facts["Disjoint"] = assert_disjoint(kept)
    if real:
        rows[RECORDED] = real
    else:
        # Empty, so that a recipe may name it whether or not recordings are asked for.
        write_manifest(root / f"{RECORDED}.jsonl", [])
    for part, listed in rows.items():
        report.manifests[part] = root / f"{part}.jsonl"
        write_manifest(report.manifests[part], listed)
        report.parts[part] = part_summary(listed)
        report.facts[f"Classes ({part})"] = _classes(listed)
    report.facts["Text policy"] = "raw: cased and punctuated, as given to the synthesiser"
    if rows[TEST]:
        report.facts["Labeller against the exact labels (test)"] = {
            name: ", ".join(f"{key} {value:.2f}" for key, value in numbers.items())
            for name, numbers in errors(rows[TEST]).items()
        }
    if benchmark_items and rows[TEST]:
        write_embedded(rows[TEST], root / "benchmarks", benchmark_items, seed)
    report.write(rows)
    _draw(report, rows)
    # After writing: how fast this machine was is no property of the data.
    report.facts["Speed"] = {
        "utterances made": len(scenes) - already,
        "utterances kept from before": already,
        "wall seconds": round(wall, 1),
        "CPU seconds": round(cpu_seconds, 1),
    }
    return report


def _row(scene: Scene, root: Path, seconds: float) -> Row:
    path = scene.path(root)
    facts = json.loads(facts_path(path).read_bytes())
    return Row(
        id=f"attributes-{scene.id}",
        audio=str(path),
        duration=round(seconds, 4),
        text=scene.text,
        language="en",
        speaker=scene.speaker,
        attributes=attributes(scene, facts, seconds),
    )


def _recorded(
    manifests: Mapping[str, Path], count: int, genders: Mapping[str, str], report: PrepareReport
) -> list[Row]:
    """Spread evenly over each language's prompts, described by the labeller."""
    labeller, out = AttributeLabeller(), []
    for language in LANGUAGES:
        names = [name for name in manifests if name.startswith(f"{language}/")]
        rows = sorted((r for n in names for r in read_manifest(manifests[n])), key=lambda r: r.id)
        rows = [row for row in rows if 1.0 <= row.duration <= 15.0]
        for row in spread(rows, count):
            own = {"gender": genders.get(language, row.attributes["gender"])}
            own["accent"] = row.attributes["accent"]
            own["intent"] = row.attributes.get("intent")
            own = {name: value for name, value in own.items() if value}
            try:
                wave = read_audio(row.audio, row.offset, row.duration)
            except AudioError as error:
                report.dropped[f"recorded audio_{error.reason}"] += 1
                continue
            own = describe_row(replace(row, attributes=own), wave, labeller)
            out.append(replace(row, attributes={**own, "source": "measured"}))
    report.facts["Labels of test_recorded"] = {
        "gender": "as declared in the recipe"
        if genders
        else "the letter in the package's own folder name, e.g. en_US_f_Allison",
        "pitch, volume, speed, noise, reverberation": "computed by the labeller, not exact",
    }
    return out


def _classes(rows: Sequence[Row]) -> dict[str, str]:
    found = {n: Counter(r.attributes[n] for r in rows if n in r.attributes) for n in WORDED}
    return {n: ", ".join(f"{k} {v}" for k, v in sorted(c.items())) for n, c in found.items() if c}


def _draw(report: PrepareReport, rows: Mapping[str, Sequence[Row]]) -> None:
    import importlib.util

    if not importlib.util.find_spec("matplotlib"):
        return
    page = report.folder / "report.md"
    text = page.read_text()
    for name, label in NUMBERS.items():
        values = {
            part: [r.attributes[name] for r in listed if name in r.attributes]
            for part, listed in rows.items()
        }
        histogram(values, label, report.folder / f"{name}.png")
        text += f"\n![{label}]({name}.png)\n"
    page.write_text(text)
