"""Answers to benchmarks' items, written by hand."""

from __future__ import annotations

import numpy as np

from toolkit.data.audio import write_audio
from toolkit.evaluation import ScorePlan

PLAN = ScorePlan(bootstrap=200)


def decoded(items, **answers):
    """Input -> item id -> row; an answer is a text, or a function of the item."""
    return {
        name: {
            item.id: {"answer": a(item) if callable(a) else a, "nll": 2.0, "tokens": 4}
            for item in items
        }
        for name, a in answers.items()
    }


def wav(path, seconds=0.5):
    write_audio(path, np.full(int(16000 * seconds), 0.1, np.float32))
