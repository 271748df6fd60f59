"""What LLMs said to prompts without speech, kept by content for all runs.

Topline and cascade do not depend on who listens: variants, seeds and methods of one LLM on the same
test items would all decode the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from toolkit.models import SpeechLLM
from toolkit.segments import Segment
from toolkit.teachers.answers import AnswerStore
from toolkit.weights import fingerprint

#: Columns of a decoded row that the LLM decides; the others are the item's.
SAID = ("answer", "finish", "nll", "tokens")


class TextBranch:
    """Answers of LLMs as published, with the likelihood of a reference where one was scored.

    A batch of other neighbours may round otherwise, under bfloat16 above all, as it may in the
    answers of the teacher; what was said first stays.

    Parameters
    ----------
    path : Path
        JSON lines, appended to; see `toolkit.teachers.answers.AnswerStore`.
    """

    def __init__(self, path: Path) -> None:
        self.store = AnswerStore(path)

    def keys(
        self,
        model: SpeechLLM,
        plans: Sequence[Sequence[Segment]],
        responses: Sequence[Sequence[int] | None],
        max_new_tokens: int,
    ) -> list[str]:
        """Content keys of everything that decides what is said.

        Parameters
        ----------
        model : SpeechLLM
            Whose LLM reads.
        plans : sequence of sequence of Segment
            Prompts without speech.
        responses : sequence of sequence of int or None
            Token ids that are scored; None for the answer itself.
        max_new_tokens : int

        Returns
        -------
        list of str
        """
        llm = model.llm
        # Devices and dtypes round differently: greedy answers may part.
        dtype = llm.causal.get_input_embeddings().weight.dtype
        reader = [fingerprint(llm.source), str(dtype), llm.device.type, max_new_tokens]
        told = [
            [[i for segment in plan for i in segment.ids], None if ids is None else list(ids)]
            for plan, ids in zip(plans, responses, strict=True)
        ]
        return [sha256(json.dumps([*reader, *text]).encode()).hexdigest()[:24] for text in told]

    def find(self, key: str) -> dict | None:
        """What was said under a key: the columns `SAID`; None where nobody was asked yet."""
        found = self.store.answers.get(key)
        return None if found is None else {name: found[name] for name in SAID}

    def keep(self, keys: Iterable[str], rows: Iterable[dict]) -> None:
        """Add decoded rows under their keys."""
        self.store.add(
            {"key": key, **{name: row[name] for name in SAID}}
            for key, row in zip(keys, rows, strict=True)
        )
