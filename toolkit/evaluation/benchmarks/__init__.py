"""Public benchmarks' own formats, and small sets of one's own in them."""

from __future__ import annotations

from toolkit.evaluation.benchmarks.answers import Answers
from toolkit.evaluation.benchmarks.base import Benchmark
from toolkit.evaluation.benchmarks.chat import Chat
from toolkit.evaluation.benchmarks.classification import Classification
from toolkit.evaluation.benchmarks.descriptions import Descriptions
from toolkit.evaluation.benchmarks.embedded import write_embedded
from toolkit.evaluation.benchmarks.following import InstructionFollowing
from toolkit.evaluation.benchmarks.items import BenchmarkError, BenchmarkItem
from toolkit.evaluation.benchmarks.judge import LocalJudge, ServedJudge

__all__ = [
    "Answers",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkItem",
    "Chat",
    "Classification",
    "Descriptions",
    "InstructionFollowing",
    "LocalJudge",
    "ServedJudge",
    "write_embedded",
]
