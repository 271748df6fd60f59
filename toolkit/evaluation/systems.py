"""Foreign systems on the recipe's own items: other LLMs on text, servers, speech LLMs of a hub.

Each gives one answer per item; what was answered is stored item by item, so a killed run goes on.
"""

from __future__ import annotations

import base64
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.data.audio import SAMPLE_RATE, read_audio
from toolkit.data.manifest import Row
from toolkit.evaluation.decoding import decoded_row
from toolkit.evaluation.plans import DecodeItem
from toolkit.files import atomic_write
from toolkit.llms import CausalLM, Prompt
from toolkit.teachers.answers import AnswerStore, TeachItem, ask
from toolkit.teachers.endpoint import Endpoint, body_key

#: What a system may be given: the gold transcript, the recogniser's, or the recording.
READS = ("text", "asr", "speech")
#: Stands for the audio while a prompt is filled in; no template writes it.
_MARK = "\ue0f3audio\ue0f4"


class ForeignSystemError(RuntimeError):
    """A foreign system cannot answer the items: the message says which and what to do."""


class System(ABC):
    """Something that answers decode items.

    Attributes
    ----------
    name : str
        Row of the tables and stem of its file.
    """

    name: str

    @abstractmethod
    def answers(self, items: Sequence[DecodeItem], max_new_tokens: int) -> list[str]:
        """Answer a chunk of items.

        Parameters
        ----------
        items : sequence of DecodeItem
        max_new_tokens : int

        Returns
        -------
        list of str
            In order.
        """


def text_of(row: Row, reads: str) -> str:
    """The transcript a system reads instead of hearing.

    Raises
    ------
    ForeignSystemError
        When the recogniser has not heard the row.
    """
    if reads == "text":
        return row.text
    if row.asr_text is None:
        raise ForeignSystemError(
            f"row {row.id!r} has no asr_text: let the recipe's `annotate` block transcribe the "
            "test sets, and run stage 3"
        )
    return row.asr_text


def read_of(item: DecodeItem, reads: str, describe: Callable[[Row], str] | None = None) -> str:
    """What a system reads about an item instead of hearing: as the run's own text branch does.

    Parameters
    ----------
    item : DecodeItem
    reads : str
        ``text`` or ``asr``.
    describe : callable, optional
        `DecodePlan.describe`. What is to be repeated is the sentence itself.

    Raises
    ------
    ForeignSystemError
        See `text_of`.
    """
    if describe is not None and not item.repeat:
        return describe(item.row)
    return text_of(item.row, reads)


class TextSystem(System):
    """A local LLM on transcripts: the topline (``text``) or the cascade (``asr``).

    Parameters
    ----------
    name : str
    llm : CausalLM
        Materialised.
    prompt : Prompt
        The recipe's own.
    store : AnswerStore
    reads : str
        ``text`` or ``asr``.
    batch_size : int
    describe : callable, optional
        What it reads about a row instead (`DecodePlan.describe`), for a topline.
    """

    def __init__(
        self,
        name: str,
        llm: CausalLM,
        prompt: Prompt,
        store: AnswerStore,
        reads: str = "text",
        batch_size: int = 24,
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        self.name = name
        self.llm, self.prompt, self.store = llm, prompt, store
        self.reads = reads
        self.batch_size = batch_size
        self.describe = describe

    def answers(self, items: Sequence[DecodeItem], max_new_tokens: int) -> list[str]:
        """Greedy answers, as the teacher's."""
        asked = [
            TeachItem(
                replace(i.row, text=read_of(i, self.reads, self.describe)),
                i.task,
                i.wording,
                i.instruction,
            )
            for i in items
        ]
        found = ask(
            asked, self.llm, self.prompt, self.store, max_new_tokens, self.batch_size, False
        )
        return [answer["response"] for answer in found]


def wav_bytes(row: Row) -> bytes:
    """A row's recording as a 16 kHz, 16 bit WAV file."""
    import soundfile

    buffer = io.BytesIO()
    wave = read_audio(row.audio, row.offset, row.duration)
    soundfile.write(buffer, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


class EndpointSystem(System):
    """A served model, given the recording (``input_audio``) or a transcript.

    Parameters
    ----------
    name : str
    endpoint : Endpoint
    prompt : Prompt
        The recipe's own, as messages.
    store : AnswerStore
    reads : str
        One of `READS`.
    describe : callable, optional
        What it reads about a row where it reads ``text`` (`DecodePlan.describe`).
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        prompt: Prompt,
        store: AnswerStore,
        reads: str = "speech",
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        self.name = name
        self.endpoint, self.prompt, self.store = endpoint, prompt, store
        self.reads = reads
        self.describe = describe

    def messages(self, item: DecodeItem) -> list[dict[str, Any]]:
        """An item's conversation; the recording stands as a part of its own in its slot."""
        fields = item.example().fields
        if self.reads != "speech":
            return self.prompt.messages(fields, read_of(item, self.reads, self.describe))
        messages = self.prompt.messages(fields, _MARK)
        for message in messages:
            before, mark, after = message["content"].partition(_MARK)
            if mark:
                data = base64.b64encode(wav_bytes(item.row)).decode()
                audio = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
                texts = [{"type": "text", "text": t.strip()} for t in (before, after)]
                message["content"] = [p for p in (texts[0], audio, texts[1]) if p.get("text", "-")]
        return messages

    def answers(self, items: Sequence[DecodeItem], max_new_tokens: int) -> list[str]:
        """Greedy answers of the server."""
        bodies = [self.endpoint.request(self.messages(item), max_new_tokens) for item in items]
        return [reply.text for reply in self.endpoint.replies(bodies, self.store)]


class HubSystem(System):
    """A published speech LLM that transformers loads, by its own processor and chat template.

    It gets the instruction and the recording in the order of the recipe's prompt. Items are
    answered one by one: how such models treat padding is theirs.

    Parameters
    ----------
    name : str
    folder : str or Path
        Of weights and processor.
    prompt : Prompt
    store : AnswerStore
    device, dtype : str

    Raises
    ------
    ForeignSystemError
        For a model that is no speech LLM.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        prompt: Prompt,
        store: AnswerStore,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

        self.name = name
        self.prompt, self.store = prompt, store
        config = AutoConfig.from_pretrained(folder)
        if type(config) not in AutoModelForMultimodalLM._model_mapping:
            raise ForeignSystemError(
                f"{name}: {config.model_type} is no multimodal model of transformers; an LLM that "
                "reads transcripts is --system text:SOURCE or cascade:SOURCE"
            )
        self.processor = AutoProcessor.from_pretrained(folder)
        loaded = AutoModelForMultimodalLM.from_pretrained(folder, dtype=dtype)
        self.model = loaded.to(device).eval()

    def conversation(self, item: DecodeItem) -> list[dict[str, Any]]:
        """Messages with the recording as a part of its own, in its slot."""
        messages: list[dict[str, Any]] = self.prompt.messages(item.example().fields, _MARK)
        for message in messages:
            before, mark, after = message["content"].partition(_MARK)
            parts = [{"type": "text", "text": before.strip()}]
            if mark:
                wave = read_audio(item.row.audio, item.row.offset, item.row.duration)
                parts += [{"type": "audio", "audio": wave}, {"type": "text", "text": after.strip()}]
            message["content"] = [part for part in parts if part.get("text", "-")]
        return messages

    def answers(self, items: Sequence[DecodeItem], max_new_tokens: int) -> list[str]:
        """Greedy answers, one by one."""
        found = []
        for item in items:
            asked = self.prompt.messages(item.example().fields, _MARK)
            key = body_key(
                {"model": self.name, "asked": asked, "audio": item.row.audio_key()}
                | {"max_tokens": max_new_tokens}
            )
            if key not in self.store.answers:
                self.store.add([{"key": key, "text": self._answer(item, max_new_tokens)}])
            found.append(self.store.answers[key]["text"])
        return found

    def _answer(self, item: DecodeItem, max_new_tokens: int) -> str:
        import torch

        inputs = self.processor.apply_chat_template(
            self.conversation(item),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0]
        new = ids[inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def decode_system(
    system: System,
    items: Sequence[DecodeItem],
    path: Path,
    max_new_tokens: int = 40,
    chunk: int = 32,
    progress: Callable[[int], object] | None = None,
) -> list[dict]:
    """Answer every item. A killed run goes on where it was: each system keeps what it answered.

    Parameters
    ----------
    system : System
    items : sequence of DecodeItem
    path : Path
        Decoded file, written whole at the end.
    max_new_tokens, chunk : int
    progress : callable, optional
        Called with the number of items done.

    Returns
    -------
    list of dict
        Decoded rows in the order of the items, without likelihoods.
    """
    rows: list[dict] = []
    for start in range(0, len(items), chunk):
        part = items[start : start + chunk]
        answers = system.answers(part, max_new_tokens)
        rows += [decoded_row(i, system.name, a) for i, a in zip(part, answers, strict=True)]
        if progress is not None:
            progress(len(part))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write(path, lines.encode())
    return rows
