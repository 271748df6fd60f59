"""Generation and teacher-forced agreement for every input, resumable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from toolkit.data.audio import AudioError, read_audio
from toolkit.data.collate import Collator
from toolkit.data.example import Batch
from toolkit.data.fields import stable_hash
from toolkit.data.manifest import Row
from toolkit.evaluation.plans import OTHER_PROJECTORS, TEXT_INPUTS, DecodeItem, DecodeRun
from toolkit.evaluation.text_branch import TextBranch
from toolkit.files import whole_json_lines
from toolkit.models import Answer, SpeechLLM
from toolkit.segments import Response


class Inputs:
    """Builds batches for one kind of input.

    Parameters
    ----------
    collator : Collator
        The model's own; its cache gives the frames of real speech.
    kind : str
        One of `toolkit.evaluation.plans.INPUTS`.
    rows : sequence of Row
        The test set, for shuffling.
    describe : callable, optional
        What the text branch reads about a row; its transcript by default.
    """

    def __init__(
        self,
        collator: Collator,
        kind: str,
        rows: Sequence[Row] = (),
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        self.collator = collator
        self.describe = describe
        self.kind = kind
        self.partner = _partners(rows) if kind == "shuffled" else {}

    def batch(
        self, items: Sequence[DecodeItem], responses: Sequence[Iterable[int]] | None = None
    ) -> Batch:
        """A batch of items, with responses to be scored where given.

        Parameters
        ----------
        items : sequence of DecodeItem
        responses : sequence of iterable of int, optional
            Token ids per item.

        Returns
        -------
        Batch

        Raises
        ------
        ValueError
            When the cascade's transcript is missing.
        """
        # Other projectors hear real speech.
        source = "speech" if self.kind in OTHER_PROJECTORS else self.kind
        donors = [self.partner[item.row.id] for item in items] if self.partner else None
        examples = [item.example() for item in items]
        if self.describe is not None:
            # What is to be repeated is the sentence itself.
            examples = [
                example if item.repeat else replace(example, reads=self.describe(item.row))
                for item, example in zip(items, examples, strict=True)
            ]
        batch = self.collator.for_decoding(examples, source, donors)
        for plan, response in zip(batch.plans, responses or (), strict=False):
            plan.append(Response(tuple(response)))
        return batch


def _partners(rows: Sequence[Row]) -> dict[str, Row]:
    """Another utterance with another text for each row: half the set further on."""
    shift = max(1, len(rows) // 2)
    partners = {}
    for i, row in enumerate(rows):
        for step in range(len(rows)):
            other = rows[(i + shift + step) % len(rows)]
            # Where nobody knows what is said, another clip is all that can be asked for.
            if other.text != row.text or (not row.text and other.id != row.id):
                partners[row.id] = other
                break
    return partners


def usable(rows: Iterable[Row], max_seconds: float) -> tuple[list[Row], Counter[str]]:
    """Rows whose audio is readable and no longer than the encoder reads; the others by reason.

    Parameters
    ----------
    rows : iterable of Row
    max_seconds : float

    Returns
    -------
    list of Row
    Counter
        Rows left out, by reason (`toolkit.data.audio.REASONS`).
    """
    kept, counts = [], Counter()
    for row in rows:
        try:
            read_audio(row.audio, row.offset, row.duration, max_seconds=max_seconds)
        except AudioError as error:
            counts[error.reason] += 1
        else:
            kept.append(row)
    return kept, counts


def response_ids(model: SpeechLLM, text: str, finish: str = "stop") -> tuple[int, ...]:
    """An answer as a response to be scored.

    Parameters
    ----------
    model : SpeechLLM
        Whose LLM reads it.
    text : str
    finish : str
        See `toolkit.models.Answer`. One that was cut has no end: the LLM did not choose it there.

    Returns
    -------
    tuple of int
        At least one token.
    """
    tokenizer = model.llm.tokenizer
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if finish == "length" and ids:
        return ids
    return (*ids, *model.prompt.end_ids(tokenizer))


def decode(
    model: SpeechLLM,
    inputs: Inputs,
    items: Sequence[DecodeItem],
    path: Path,
    references: dict[str, dict] | None = None,
    max_new_tokens: int = 40,
    batch_size: int = 24,
    progress: Callable[[int], object] | None = None,
    branch: TextBranch | None = None,
) -> list[dict]:
    """Answer every item; what an earlier, killed run decoded is kept.

    Parameters
    ----------
    model : SpeechLLM
        In eval mode.
    inputs : Inputs
    items : sequence of DecodeItem
    path : Path
        JSON lines, appended to batch by batch.
    references : dict, optional
        Item id -> decoded row of the text branch, whose answer is scored given this input.
    max_new_tokens, batch_size : int
    progress : callable, optional
        Called with the number of items done after each batch.
    branch : TextBranch, optional
        Where answers to text are found and kept, whichever run was the first to ask.

    Returns
    -------
    list of dict
        ``id, utterance, task, wording, seen_task, seen_wording, repeat, input, transcript,
        answer, finish`` (`toolkit.models.Answer`), ``nll, tokens`` of the text branch's answer, and
        ``heard`` where the projector recognises tokens; in the order of the items. ``reference``,
        ``references``, ``language``, ``instruction``, ``question`` where the item has them.
    """
    done = {row["id"]: row for row in read_decoded(path)}
    todo = [item for item in items if item.id not in done]
    # Similar lengths together: less padding.
    todo.sort(key=lambda item: (item.row.duration, item.id))
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = (model, inputs, references, max_new_tokens)

    def keep(rows: list[dict]) -> None:
        with path.open("a") as handle:
            handle.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        done.update({row["id"]: row for row in rows})
        if progress is not None:
            progress(len(rows))

    keys: dict[str, str] = {}
    if branch is not None and inputs.kind in TEXT_INPUTS and todo:
        keys = _text_keys(branch, todo, *asked)
        known = {item.id: branch.find(keys[item.id]) for item in todo}
        keep([decoded_row(i, inputs.kind, "") | known[i.id] for i in todo if known[i.id]])
        todo = [item for item in todo if item.id not in done]
    for start in range(0, len(todo), batch_size):
        chunk = todo[start : start + batch_size]
        rows = _decode_batch(chunk, *asked)
        if keys:
            branch.keep([keys[item.id] for item in chunk], rows)
        keep(rows)
    return [done[item.id] for item in items]


def _told(
    model: SpeechLLM, items: Sequence[DecodeItem], references: dict[str, dict] | None
) -> list[tuple[int, ...] | None]:
    """The text branch's answers to the items, as responses; None where there is none."""
    found = [(references or {}).get(item.id) for item in items]
    return [f and response_ids(model, f["answer"], f.get("finish", "stop")) for f in found]


def _text_keys(
    branch: TextBranch,
    items: Sequence[DecodeItem],
    model: SpeechLLM,
    inputs: Inputs,
    references: dict[str, dict] | None,
    max_new_tokens: int,
) -> dict[str, str]:
    plans = inputs.batch(items).plans
    keys = branch.keys(model, plans, _told(model, items, references), max_new_tokens)
    return {item.id: key for item, key in zip(items, keys, strict=True)}


def _decode_batch(
    items: Sequence[DecodeItem],
    model: SpeechLLM,
    inputs: Inputs,
    references: dict[str, dict] | None,
    max_new_tokens: int,
) -> list[dict]:
    batch = inputs.batch(items).to(model.llm.device)
    told = _told(model, items, references)

    def respond(answers: Sequence[Answer]) -> list[tuple[int, ...]]:
        return [
            response_ids(model, answer.text, answer.finish) if ids is None else ids
            for ids, answer in zip(told, answers, strict=True)
        ]

    # Topline and cascade are of the LLM as published: its adapters, if any, are off.
    mode = model.llm.text_mode if inputs.kind in TEXT_INPUTS else nullcontext
    with mode(), torch.inference_mode():
        answers, targets, scored = model.answer_and_score(batch, respond, max_new_tokens)
        heard = model.heard(batch)
    rows = [
        decoded_row(item, inputs.kind, answer.text) | {"finish": answer.finish}
        for item, answer in zip(items, answers, strict=True)
    ]
    for row, nll, ids in zip(rows, scored, targets, strict=True):
        row["nll"], row["tokens"] = round(nll, 4), len(ids)
    for row, text in zip(rows, heard or (), strict=False):
        row["heard"] = text
    return rows


def decoded_row(item: DecodeItem, kind: str, answer: str) -> dict:
    """One line of a decoded file: the item, what stood in the slot, and the answer."""
    extra = {
        "instruction": item.instruction,
        "question": item.row.question,
        "reference": item.references[0] if item.references else "",
        "references": list(item.references) if len(item.references) > 1 else None,
        "language": item.language,
        # The recording, or segment, that several questions may share; its path is this machine's.
        "clip": f"{stable_hash(f'{item.row.audio}|{item.row.offset}'):016x}",
    }
    return {
        "id": item.id,
        "utterance": item.row.id,
        "task": item.task,
        "wording": item.wording,
        "seen_task": item.seen_task,
        "seen_wording": item.seen_wording,
        "repeat": item.repeat,
        "input": kind,
        "transcript": item.row.text,
        "answer": answer,
        **{name: value for name, value in extra.items() if value},
    }


def read_decoded(path: Path) -> list[dict]:
    """Rows of a decoded file; a half-written last line is dropped, a missing file is empty."""
    return whole_json_lines(path)


def read_run(folder: Path, run: DecodeRun) -> dict[str, list[dict]]:
    """Decoded rows of every input of a run, the same items in the same order.

    Parameters
    ----------
    folder : Path
        Where ``<run>.<input>.jsonl`` lie.
    run : DecodeRun

    Returns
    -------
    dict of str to list of dict
    """
    decoded = {kind: read_decoded(folder / f"{run.name}.{kind}.jsonl") for kind in run.inputs}
    place = {row["id"]: i for i, row in enumerate(decoded["text"])}
    return {k: sorted(rows, key=lambda row: place[row["id"]]) for k, rows in decoded.items()}
