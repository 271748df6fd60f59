"""A merged report as one HTML file that opens offline: styles and pictures are inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

from toolkit.evaluation.merge import METRICS, Merged
from toolkit.evaluation.merged_benchmarks import benchmark_tables
from toolkit.evaluation.merged_tables import EXPLANATION, header_of, rows_of
from toolkit.evaluation.tables import LABELS

_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #d8dee6; --paper: #ffffff; --band: #f4f6f9;
        --mark: #1f6feb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf2; --soft: #9aa7b8; --line: #38424f; --paper: #12161c; --band: #1a2029;
          --mark: #6aa5ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; color: var(--ink);
       background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p, li { max-width: 48rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line);
         vertical-align: top; }
th { background: var(--band); font-weight: 600; }
td:first-child { font-weight: 600; overflow-wrap: anywhere; min-width: 12rem; }
img { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg { display: block; width: 46rem; max-width: 46rem; min-width: 34rem; }
details { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem;
          margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
.whole p:has(.picture) { display: grid; gap: 1rem; max-width: none;
                         grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.picture { display: block; background: #fff; color: #333; font-size: .85rem; }
@media (max-width: 44rem) {
  body { padding: .8rem; }
  .cards thead { display: none; }
  .cards tr { display: block; border: 1px solid var(--line); border-radius: .4rem;
              margin: 0 0 .8rem; padding: .2rem .6rem; }
  .cards td { display: flex; gap: 1rem; justify-content: space-between; border: 0;
              padding: .25rem 0; }
  .cards td:first-child { min-width: 0; }
  .cards td::before { content: attr(data-label); color: var(--soft); font-weight: 400; flex: none;
                      max-width: 45%; overflow-wrap: anywhere; }
}
"""


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells know their column, so that narrow windows show rows as cards.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequence of str

    Returns
    -------
    str

    Example
    -------
    >>> '<td data-label="a&lt;b">1</td>' in html_table(["a<b"], [["1"]])
    True
    """
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(header, row, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f"<div class=scroll><table class=cards><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def interval_plot(merged: Merged, name: str, metric: str, kind: str = "speech") -> str:
    """Groups as points with intervals over recordings, an inline SVG; a dashed line is the first.

    Parameters
    ----------
    merged : Merged
    name : str
        Test set.
    metric : str
        Key of `METRICS`.
    kind : str

    Returns
    -------
    str
        Empty where no group has the metric.
    """
    cells = {
        group.name: merged.sets[name].get(kind, {}).get(group.name, {}).get(metric)
        for group in merged.groups
    }
    shown = {label: cell for label, cell in cells.items() if cell is not None}
    if not shown:
        return ""
    low = min(min(cell.low, *cell.values) for cell in shown.values())
    high = max(max(cell.high, *cell.values) for cell in shown.values())
    span = (high - low) or 1.0
    width, left, right, step = 720, 250, 60, 26
    height = step * len(shown) + 34

    def x(value: float) -> float:
        return left + (value - low) / span * (width - left - right)

    title, less = METRICS[metric]
    first = next(iter(shown.values()))
    parts = [
        f'<line x1="{x(first.mean):.1f}" x2="{x(first.mean):.1f}" y1="6" y2="{height - 28}" '
        'stroke="currentColor" stroke-opacity=".35" stroke-dasharray="3 3"/>'
    ]
    for i, (label, cell) in enumerate(shown.items()):
        y = 18 + step * i
        text = label if len(label) <= 34 else f"...{label[-31:]}"
        parts += [
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(text)}</text>',
            f'<line x1="{x(cell.low):.1f}" x2="{x(cell.high):.1f}" y1="{y}" y2="{y}" '
            'stroke="var(--mark)" stroke-width="2"/>',
            *(
                f'<circle cx="{x(value):.1f}" cy="{y}" r="3" fill="none" stroke="var(--mark)"/>'
                for value in cell.values
            ),
            f'<circle cx="{x(cell.mean):.1f}" cy="{y}" r="5" fill="var(--mark)"/>',
            f'<text x="{x(cell.high) + 8:.1f}" y="{y + 4}">{cell.mean:.3f}</text>',
        ]
    better = "less is better" if less else "more is better"
    parts.append(
        f'<text x="{left}" y="{height - 8}">{escape(title)}, {escape(name)} ({better}): '
        f"{low:.3f} to {high:.3f}</text>"
    )
    return (
        f'<div class="scroll"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)} on {escape(name)}">{"".join(parts)}</svg></div>'
    )


def embedded(report: Path) -> str:
    """A Markdown report as HTML that carries its pictures.

    Parameters
    ----------
    report : Path
        Its pictures are named relative to it.

    Returns
    -------
    str
        Wide tables scroll inside the page. A picture that is gone leaves its description.

    Example
    -------
    >>> import tempfile
    >>> report = Path(tempfile.mkdtemp()) / "RESULTS.md"
    >>> _ = report.write_text("# Words\\n\\n![curve](curve.png)\\n")
    >>> print(embedded(report).strip())
    <h1>Words</h1>
    <p>curve</p>
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(self, tokens, i, options, env):
        label = escape(tokens[i].content)
        path = report.parent / unquote(tokens[i].attrGet("src") or "")
        if not path.is_file():
            return label
        data = base64.b64encode(path.read_bytes()).decode()
        picture = f'<img alt="{label}" src="data:image/png;base64,{data}">'
        return f"<span class=picture>{picture}<br>{label}</span>"

    markdown.add_render_rule("image", image)
    markdown.add_render_rule("table_open", lambda *_: "<div class=scroll><table>\n")
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown.render(report.read_text(encoding="utf-8"))


def page(merged: Merged, title: str = "Results") -> str:
    """Tables and plots of all runs side by side, then the whole report of each.

    Parameters
    ----------
    merged : Merged
    title : str

    Returns
    -------
    str
        HTML that refers to nothing outside itself.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(EXPLANATION)}</p>',
    ]
    if merged.notes:
        parts.append(
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in merged.notes) + "</ul>"
        )
    for name, kinds in merged.sets.items():
        parts.append(f"<h2>{escape(name)}</h2>")
        parts += [interval_plot(merged, name, metric) for metric in ("wer", "rouge_l")]
        # What the model hears comes first, what it is compared with can be opened.
        for kind in sorted(kinds, key=lambda kind: kind != "speech"):
            label = LABELS.get(kind, kind).replace("**", "")
            table = html_table(header_of(merged), rows_of(merged, name, kind))
            if kind == "speech":
                parts += [f"<h3>In the audio slot: {escape(label)}</h3>", table]
            else:
                parts.append(
                    f"<details><summary>In the audio slot: {escape(label)}</summary>{table}"
                    "</details>"
                )
    for table in benchmark_tables(merged):
        parts += [f"<h2>{escape(table.title)}</h2>", html_table(table.header, table.rows)]
    whole = []
    for group in merged.groups:
        for report in dict.fromkeys(run.folder.parent / "RESULTS.md" for run in group.runs):
            if report.exists():
                whole.append(
                    f"<details class=whole><summary>{escape(group.name)}</summary>"
                    f"{embedded(report)}</details>"
                )
    if whole:
        parts += ["<h2>Whole reports, with curves and pictures</h2>", *whole]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
