"""What stage 4 found out about the text LLM, as the later stages read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.pipeline.context import RunContext


def best_wording(wordings: Mapping[str, float]) -> str:
    """The wording of repetition that the text LLM obeys best; the first of equals.

    Parameters
    ----------
    wordings : mapping of str to float
        Word error rate by wording, as `BehaviourTeacher.wording_errors` gives them; not empty.

    Returns
    -------
    str

    Example
    -------
    >>> best_wording({"repetition/0": 0.3, "repetition/2": 0.1, "repetition/5": 0.1})
    'repetition/2'
    """
    return min(wordings, key=wordings.__getitem__)


def repeat_wording(context: RunContext) -> int:
    """Index of the wording in which a run asks for repetitions.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    int
        Of `best_wording`; the first where stage 4 compared none.
    """
    path = context.exp / "topline.json"
    wordings = json.loads(path.read_text()).get("wordings") if path.exists() else None
    return int(best_wording(wordings).rsplit("/", 1)[1]) if wordings else 0
