"""Questions to a text LLM and its answers, here or behind an endpoint, kept by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.fields import prompt_fields
from toolkit.data.manifest import Row
from toolkit.files import whole_json_lines
from toolkit.teachers.endpoint import Endpoint, body_key
from toolkit.teachers.pool import Task

if TYPE_CHECKING:
    from toolkit.llms import CausalLM, Prompt


@dataclass(frozen=True)
class TeachItem:
    """One question to the teacher."""

    row: Row
    task: str
    wording: str
    instruction: str

    def fields(self) -> dict[str, str]:
        """Values of the prompt's fields."""
        return prompt_fields(self.row, self.instruction)


def teach_item(task: Task, row: Row, index: int) -> TeachItem:
    """The question of one wording about one row."""
    return TeachItem(row, task.name, f"{task.name}/{index}", task.instruct(index, row))


class AnswerStore:
    """Content-keyed answers of text LLMs, JSON lines, shared by all runs; survives ``kill -9``.

    Parameters
    ----------
    path : Path
        File appended to. A half-written last line is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.answers: dict[str, dict] = {a["key"]: a for a in whole_json_lines(path)}

    def add(self, answers: Iterable[dict]) -> None:
        """Append answers, one write for all of them."""
        answers = list(answers)
        with self.path.open("a") as handle:
            handle.write("".join(json.dumps(a, ensure_ascii=False) + "\n" for a in answers))
        self.answers.update({a["key"]: a for a in answers})


def ask(
    items: list[TeachItem],
    llm: CausalLM,
    prompt: Prompt,
    store: AnswerStore,
    max_new_tokens: int = 40,
    batch_size: int = 32,
    progress: bool = True,
    reads: Callable[[Row], str] | None = None,
    stop_strings: Sequence[str] = (),
) -> list[dict]:
    """Let the text LLM answer, skipping what the store already has.

    Parameters
    ----------
    items : list of TeachItem
    llm : CausalLM
        Materialised; adapters, if any, are switched off.
    prompt : Prompt
        The student's own prompt: text stands where the speech will.
    store : AnswerStore
    max_new_tokens, batch_size : int
    progress : bool
        Show a bar with rate and time left.
    reads : callable, optional
        What stands in the slot, by row (`BehaviourTeacher.reads`); the transcript by default.
    stop_strings : sequence of str
        An answer ends before the first of these, and counts as ended by the LLM.

    Returns
    -------
    list of dict
        ``key, response_ids, response, finish, prompt, source`` per item, in order.
    """
    import torch
    from tqdm import tqdm

    from toolkit.interleavers.assemble import assemble
    from toolkit.weights import fingerprint

    tokenizer = llm.tokenizer
    end = prompt.end_ids(tokenizer)
    source = fingerprint(llm.source)
    rendered = [
        prompt.render(tokenizer, i.fields(), reads(i.row) if reads else i.row.text) for i in items
    ]
    keys = [answer_key(source, r.ids, max_new_tokens, stop_strings) for r in rendered]
    todo = [i for i, key in enumerate(keys) if key not in store.answers]
    todo = list({keys[i]: i for i in todo}.values())
    # Short prompts together: less padding, and rows of a batch end at similar times.
    todo.sort(key=lambda i: (len(rendered[i].ids), i))
    bar = tqdm(total=len(todo), desc="teacher", unit="answer", disable=not progress)
    for start in range(0, len(todo), batch_size):
        chunk = todo[start : start + batch_size]
        plans = [rendered[i].as_text() for i in chunk]
        with llm.text_mode(), torch.inference_mode():
            inputs = assemble(plans, [[] for _ in plans], llm.embed, llm.generation_padding)
            generated = llm.generate(
                inputs, max_new_tokens=max_new_tokens, stop_strings=stop_strings
            )
        answers = []
        for i, ids in zip(chunk, generated, strict=True):
            said = tokenizer.decode(ids, skip_special_tokens=True)
            text = before(said, stop_strings)
            finished = len(ids) < max_new_tokens or text != said
            if text != said:
                ids = tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]
            answers.append(
                {
                    "key": keys[i],
                    "response_ids": [*ids, *end],
                    "response": text.strip(),
                    "finish": "stop" if finished else "length",
                    "prompt": prompt.fingerprint(),
                    "source": source,
                }
            )
        store.add(answers)
        bar.update(len(chunk))
    bar.close()
    return [store.answers[key] for key in keys]


def ask_endpoint(
    items: list[TeachItem],
    endpoint: Endpoint,
    llm: CausalLM,
    prompt: Prompt,
    store: AnswerStore,
    max_new_tokens: int = 40,
    progress: bool = True,
    reads: Callable[[Row], str] | None = None,
    stop_strings: Sequence[str] = (),
) -> list[dict]:
    """Let a server answer, skipping what was answered before.

    Parameters
    ----------
    items : list of TeachItem
    endpoint : Endpoint
    llm : CausalLM
        The student's: its tokenizer writes the targets; its weights are not needed.
    prompt : Prompt
        As messages; the server applies the chat template.
    store : AnswerStore
        Replies go to ``endpoint.jsonl`` beside it.
    max_new_tokens : int
    progress : bool
    reads, stop_strings
        As of `ask`.

    Returns
    -------
    list of dict
        As of `ask`.
    """
    from tqdm import tqdm

    end = prompt.end_ids(llm.tokenizer)
    told = [reads(i.row) if reads else i.row.text for i in items]
    bodies = [
        endpoint.request(
            prompt.messages(i.fields(), text), max_new_tokens, stop_strings=stop_strings
        )
        for i, text in zip(items, told, strict=True)
    ]
    kept = AnswerStore(store.path.with_name("endpoint.jsonl"))
    with tqdm(total=len(bodies), desc="teacher", unit="answer", disable=not progress) as bar:
        replies = endpoint.replies(bodies, kept, bar.update)
    return [
        {
            "key": body_key(body),
            "response_ids": [
                *llm.tokenizer(reply.text, add_special_tokens=False)["input_ids"],
                *end,
            ],
            "response": reply.text,
            "finish": reply.finish,
            "prompt": prompt.fingerprint(),
            "source": f"endpoint:{endpoint.model}",
        }
        for body, reply in zip(bodies, replies, strict=True)
    ]


def before(text: str, stop_strings: Iterable[str]) -> str:
    """What stands before the first stop string.

    Example
    -------
    >>> before("Pitch: low\\n\\nThe value of each", ["\\n\\n"])
    'Pitch: low'
    """
    places = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def answer_key(
    source: str, ids: tuple[int, ...], max_new_tokens: int, stop_strings: Sequence[str] = ()
) -> str:
    """Content key of everything that decides an answer."""
    # Without stop strings the key is that of stores from before there were any.
    stops = [list(stop_strings)] if stop_strings else []
    text = json.dumps([source, list(ids), max_new_tokens, *stops])
    return sha256(text.encode()).hexdigest()[:24]
