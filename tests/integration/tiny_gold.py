"""Tasks with references, whose scores decide whether the text LLM carries them."""

from __future__ import annotations

from toolkit.teachers import InstructionPool
from toolkit.teachers.pool import Task


def pool() -> InstructionPool:
    """One task whatever the LLM answers, one that no answer does, one that no row is for."""
    wordings = ("Say it:", "Once more:")
    echo = Task("echo", wordings, bool, target="text", score=lambda right, answer: 1.0)
    beyond = Task("beyond", wordings, bool, target="text", score=lambda right, answer: 0.2)
    nobody = Task("nobody", wordings, bool, target="answer", score=lambda right, answer: 1.0)
    return InstructionPool([echo, beyond, nobody])
