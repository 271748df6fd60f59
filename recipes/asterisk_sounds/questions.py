"""Questions about the facts of English prompts, with exact answers, to manifests.

What is asked comes from `question_templates` alone; questions inherit the split of their prompt.
Besides, each question is spoken (`spoken_questions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from recipes.asterisk_sounds.question_templates import questions_of
from recipes.asterisk_sounds.spoken_questions import spoken_question
from toolkit.data.manifest import Row, read_manifest, write_manifest
from toolkit.data.report import PrepareReport, part_summary
from toolkit.data.synthesis import check_engines


def question_rows(rows: Iterable[Row]) -> tuple[list[Row], Counter[str]]:
    """One row per question: the prompt's audio and transcript, question, answer, all answers.

    Parameters
    ----------
    rows : iterable of Row
        English prompts.

    Returns
    -------
    list of Row
        ``attributes`` gain ``prompt``, ``question_kind`` and ``answers``.
    Counter
        ``ambiguous`` questions and ``prompts_without_a_fact``.

    Example
    -------
    >>> row = Row("p", "/p.wav", 2.0, "Press star to cancel this message.", "en", "s")
    >>> found, _ = question_rows([row])
    >>> found[0].id, found[0].question, found[0].answer
    ('p-q1', 'Which key do you press to cancel this message?', 'star')
    """
    out, counts = [], Counter()
    for row in rows:
        found, dropped = questions_of(row.text)
        counts += dropped
        counts["prompts_without_a_fact"] += not found
        for number, question in enumerate(found, start=1):
            extra = {"prompt": row.id, "question_kind": question.kind}
            out.append(
                replace(
                    row,
                    id=f"{row.id}-q{number}",
                    question=question.text,
                    answer=question.answers[0],
                    # Or a prompt would be translated once for each of its questions.
                    translations={},
                    attributes={**row.attributes, **extra, "answers": list(question.answers)},
                )
            )
    return out, counts


def prepare(
    work: str | Path,
    seed: int = 0,
    spoken: bool = True,
    limit: int | None = None,
    max_seconds: float = 30.0,
) -> PrepareReport:
    """Write ``<work>/data/asterisk_questions/{train,dev,test}.jsonl``, spoken ones, and a report.

    Reads the English manifests of ``recipes.asterisk_sounds.prepare``: list that corpus first.

    Parameters
    ----------
    work : path
    seed : int
        Of the voices.
    spoken : bool
        Also write ``{train,dev,test}_spoken.jsonl`` with synthesised questions.
    limit : int, optional
        Keep this many questions per part, for a quick look.
    max_seconds : float
        Longer spoken questions, recording included, are left out and counted.

    Returns
    -------
    PrepareReport

    Raises
    ------
    toolkit.data.manifest.ManifestError
        When the prompts have not been prepared.
    toolkit.data.synthesis.SynthesisError
        For spoken questions without the extra ``tts``.
    """
    if spoken:
        check_engines(("hibari", "espeak"))
    root = Path(work).absolute() / "data" / "asterisk_questions"
    prompts = Path(work).absolute() / "data" / "asterisk_sounds" / "en"
    report = PrepareReport("asterisk_questions", root)
    shown: dict[str, list[Row]] = {}
    for part in ("train", "dev", "test"):
        given = read_manifest(prompts / f"{part}.jsonl")
        rows, counts = question_rows(given)
        report.dropped.update({f"{part}: {reason}": n for reason, n in counts.items() if n})
        asked = {row.attributes["prompt"] for row in rows}
        kinds = Counter(row.attributes["question_kind"] for row in rows)
        report.facts[f"Coverage ({part})"] = {
            "prompts": len(given),
            "prompts with a question": len(asked),
            "questions": len(rows),
            **{f"questions: {kind}": n for kind, n in sorted(kinds.items())},
            **_majority(rows),
        }
        shown[part] = rows if limit is None else rows[:limit]
        if spoken:
            own = [spoken_question(r, root / "wav", seed, part == "test") for r in shown[part]]
            shown[f"{part}_spoken"] = [r for r in own if r.duration <= max_seconds]
            too_long = len(own) - len(shown[f"{part}_spoken"])
            if too_long:
                report.dropped[f"{part}: spoken, too long"] = too_long
    for name, rows in shown.items():
        report.manifests[name] = root / f"{name}.jsonl"
        write_manifest(report.manifests[name], rows)
        report.parts[name] = part_summary(rows)
    report.facts["Text policy"] = "raw, as the prompts; questions and answers by template"
    report.write(shown)
    return report


def _majority(rows: Sequence[Row]) -> dict[str, str]:
    """The most frequent answer to a question for a key: what a guess that hears nothing gets."""
    keys = Counter(row.answer for row in rows if row.attributes["question_kind"] == "key")
    if not keys:
        return {}
    answer, count = keys.most_common(1)[0]
    return {"most frequent key": f"{answer} ({count} of {sum(keys.values())})"}
