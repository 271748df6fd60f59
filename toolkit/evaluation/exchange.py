"""Files for systems that run elsewhere: the questions out, their answers in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from toolkit.evaluation.decoding import decoded_row
from toolkit.evaluation.plans import DecodeItem
from toolkit.evaluation.systems import ForeignSystemError


def write_items(path: Path, items: Sequence[DecodeItem]) -> None:
    """Write the questions for a system that runs elsewhere.

    Parameters
    ----------
    path : Path
        JSON lines: ``id, audio, offset, duration, task, instruction``; no transcript.
    items : sequence of DecodeItem
    """
    lines = [
        {
            "id": item.id,
            "audio": item.row.audio,
            "offset": item.row.offset,
            "duration": item.row.duration,
            "task": item.task,
            "instruction": item.instruction,
        }
        for item in items
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_answers(path: Path, items: Sequence[DecodeItem], name: str) -> list[dict]:
    """Answers that another system wrote, matched to the items.

    Parameters
    ----------
    path : Path
        JSON lines with ``id`` and ``answer``; other items' lines are ignored, so that one file can
        answer several test sets.
    items : sequence of DecodeItem
    name : str
        Of the system.

    Returns
    -------
    list of dict
        Decoded rows in the order of the items.

    Raises
    ------
    ForeignSystemError
        Naming file, line and field; or the first item without an answer.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "theirs.jsonl")
    ...     _ = path.write_text('{"id": "a|title/0"}\\n')
    ...     try:
    ...         read_answers(path, [], "theirs")
    ...     except ForeignSystemError as error:
    ...         print(str(error).rpartition("theirs.jsonl")[2])
    :1: field 'answer' is missing or no text
    """
    answers: dict[str, str] = {}
    # Not `splitlines`: answers may hold U+2028 and its like unescaped.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ForeignSystemError(f"{path}:{number}: not valid JSON ({error.msg})") from error
        for key in ("id", "answer"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise ForeignSystemError(f"{path}:{number}: field {key!r} is missing or no text")
        if entry["id"] in answers:
            raise ForeignSystemError(
                f"{path}:{number}: field 'id': {entry['id']!r} was answered before"
            )
        answers[entry["id"]] = entry["answer"]
    absent = [item.id for item in items if item.id not in answers]
    if absent:
        raise ForeignSystemError(
            f"{path}: no answer to {absent[0]!r} ({len(absent)} of {len(items)} items lack one); "
            "`toolkit score RECIPE --items FILE` writes the questions"
        )
    return [decoded_row(item, name, answers[item.id]) for item in items]
