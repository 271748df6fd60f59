"""What a corpus preparation kept, dropped and why: as numbers, as a page, as pictures."""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.data.rows import Row
from toolkit.data.splits import group_key
from toolkit.files import atomic_write

# Pauses and the file's edges: a one-word prompt is not one word long.
_EDGE_S = 0.4


def part_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Count what one manifest holds.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    dict
        rows, hours, words, distinct words and texts, speakers, median and longest seconds.

    Example
    -------
    >>> row = Row("a", "/a.wav", 1.8, "Thank you, thank you.", "en", "s")
    >>> part_summary([row])["distinct_words"]
    2
    """
    seconds = [row.duration for row in rows]
    words = [word for row in rows for word in group_key(row.text).split()]
    return {
        "rows": len(rows),
        "hours": round(sum(seconds) / 3600, 4),
        "words": len(words),
        "distinct_words": len(set(words)),
        "distinct_texts": len({row.text for row in rows}),
        "speakers": len({row.speaker for row in rows}),
        "median_seconds": round(statistics.median(seconds), 2) if seconds else 0.0,
        "longest_seconds": round(max(seconds, default=0.0), 2),
    }


def rate_outliers(rows: Sequence[Row], low: float = 0.4, high: float = 2.5) -> dict[str, float]:
    """Find utterances whose length does not fit their text: the two may not belong together.

    A text is expected to take 0.4 s plus its characters at the median rate of the longer texts.

    Parameters
    ----------
    rows : sequence of Row
        Of one language.
    low, high : float
        Bounds of actual over expected duration.

    Returns
    -------
    dict of str to float
        Row id to that ratio, for those outside the bounds.

    Example
    -------
    >>> text = "thirty characters of any words"
    >>> rows = [Row(str(i), "/a.wav", 2.4, text, "en", "s") for i in range(9)]
    >>> rate_outliers([*rows, Row("odd", "/a.wav", 20.0, text, "en", "s")])
    {'odd': 8.33}
    """
    paced = [r for r in rows if len(r.text) >= 20 and r.duration > _EDGE_S] or list(rows)
    if not paced:
        return {}
    pace = statistics.median((r.duration - _EDGE_S) / max(len(r.text), 1) for r in paced)
    ratios = {r.id: r.duration / (_EDGE_S + max(pace, 0.01) * len(r.text)) for r in rows}
    return {id: round(ratio, 2) for id, ratio in ratios.items() if not low <= ratio <= high}


@dataclass
class PrepareReport:
    """Outcome of a ``prepare``.

    Attributes
    ----------
    corpus : str
    folder : Path
        Where manifests and report lie.
    manifests : dict of str to Path
        E.g. ``{"en/train": ...}``.
    parts : dict of str to dict
        `part_summary` of each manifest.
    dropped : Counter
        Items left out, by reason.
    facts : dict
        Everything else worth a line: shared templates, outliers, policies, licence.

    Example
    -------
    >>> report = PrepareReport("tones", Path("/tmp"), dropped=Counter(no_text=2))
    >>> "| no_text | 2 |" in report.markdown()
    True
    """

    corpus: str
    folder: Path
    manifests: dict[str, Path] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = ", ".join(f"{n} {p['rows']} rows {p['hours']:.2f} h" for n, p in self.parts.items())
        return f"{parts}; left out {sum(self.dropped.values())}; see {self.folder}/report.md"

    def markdown(self) -> str:
        """The report as a Markdown page."""
        lines = [f"# {self.corpus}: data report", ""]
        if self.parts:
            columns = list(next(iter(self.parts.values())))
            lines += [f"| part | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
            for name, summary in self.parts.items():
                lines.append(f"| {name} | {' | '.join(str(summary[c]) for c in columns)} |")
            lines.append("")
        lines += ["## Left out", "", "| reason | count |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in sorted(self.dropped.items())]
        lines.append("")
        for title, fact in self.facts.items():
            lines += [f"## {title}", ""]
            if isinstance(fact, Mapping):
                lines += [f"- {key}: {value}" for key, value in fact.items()] or ["- none"]
            else:
                lines.append(str(fact))
            lines.append("")
        return "\n".join(lines)

    def write(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Write ``report.md``, ``report.json`` and, with the ``plots`` extra, histograms.

        Parameters
        ----------
        rows : mapping of str to sequence of Row
            The rows of each part, for the histograms.
        """
        data = {
            "corpus": self.corpus,
            "parts": self.parts,
            "dropped": dict(sorted(self.dropped.items())),
            "facts": self.facts,
        }
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        atomic_write(self.folder / "report.json", text.encode())
        durations = {name: [row.duration for row in part] for name, part in rows.items()}
        words = {name: [len(row.text.split()) for row in part] for name, part in rows.items()}
        page = self.markdown()
        if importlib.util.find_spec("matplotlib"):
            histogram(durations, "seconds per utterance", self.folder / "durations.png")
            histogram(words, "words per utterance", self.folder / "words.png")
            page += "\n![durations](durations.png)\n\n![words](words.png)\n"
        else:
            page += "\nHistograms need `pip install 'speechllm-toolkit[plots]'`.\n"
        atomic_write(self.folder / "report.md", page.encode())


def histogram(values: Mapping[str, Sequence[float]], label: str, path: Path) -> None:
    """Draw one histogram per part, side by side on common axes, as a PNG.

    Parameters
    ----------
    values : mapping of str to sequence of float
    label : str
        Of the horizontal axis.
    path : Path
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    shown = {f"{name} ({len(part)})": list(part) for name, part in values.items() if len(part)}
    if shown:
        axes.hist(list(shown.values()), bins=40, stacked=True, label=list(shown))
        axes.legend()
    axes.set_xlabel(label)
    axes.set_ylabel("utterances")
    buffer = io.BytesIO()
    # Without the library's own version tag equal data give equal bytes.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    atomic_write(path, buffer.getvalue())
