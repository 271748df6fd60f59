"""Public benchmarks, where their owner has them on disk, as manifests of their clips.

The questions stay in the benchmark's own files, which the decode stage reads. A manifest lets the
stages before it work on the clips: transcripts for models that read one, cached features.

    corpora:
        public_benchmarks: !name:recipes.public_benchmarks.prepare.prepare
            benchmarks:
                speech_ifeval: !new:toolkit.evaluation.benchmarks.InstructionFollowing
                    path: /data/Speech-IFEval/data

``clips.jsonl`` holds the clips of all of them. It is written without any benchmark too, empty, so
that a recipe may have it annotated on machines with and without the files: ``vctk/desta2`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolkit.data.manifest import read_manifest, write_manifest
from toolkit.data.report import PrepareReport, part_summary
from toolkit.data.rows import Row
from toolkit.evaluation.benchmarks import Benchmark

#: Manifest of the clips of all benchmarks.
CLIPS = "clips"


def prepare(work: str | Path, benchmarks: Mapping[str, Benchmark] | None = None) -> PrepareReport:
    """Write ``<work>/data/public_benchmarks/<name>.jsonl`` for each benchmark, and ``clips.jsonl``.

    Parameters
    ----------
    work : path
    benchmarks : mapping of str to Benchmark, optional
        Those that lie on this machine; none by default.

    Returns
    -------
    PrepareReport

    Raises
    ------
    ValueError
        For a benchmark that is called as the manifest of all clips is.
    toolkit.evaluation.benchmarks.BenchmarkError
        Where files are missing or not in their format.
    toolkit.data.audio.AudioError
        Where a clip is missing or unreadable.
    """
    benchmarks = benchmarks or {}
    if CLIPS in benchmarks:
        raise ValueError(
            f"public_benchmarks: {CLIPS!r} is the manifest of all clips; call the benchmark "
            "something else"
        )
    report = PrepareReport(
        "public_benchmarks", Path(work).absolute() / "data" / "public_benchmarks"
    )
    rows: dict[str, list[Row]] = {}
    for name, benchmark in benchmarks.items():
        report.manifests[name] = report.folder / f"{name}.jsonl"
        benchmark.write_manifest(report.manifests[name])
        rows[name] = read_manifest(report.manifests[name])
        groups = [item.group for item in benchmark.items()]
        report.facts[f"Questions ({name})"] = {g: groups.count(g) for g in sorted(set(groups))}
    # Benchmarks may ask about the same files.
    rows[CLIPS] = list({row.audio: row for own in rows.values() for row in own}.values())
    report.manifests[CLIPS] = report.folder / f"{CLIPS}.jsonl"
    write_manifest(report.manifests[CLIPS], rows[CLIPS])
    report.parts = {name: part_summary(own) for name, own in rows.items()}
    report.write(rows)
    return report
