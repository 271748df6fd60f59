"""The answers that training writes down at each validation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from toolkit.data.example import Example
from toolkit.data.rows import Row
from toolkit.pipeline.training import SampleWriter


class Stub:
    """A model, its LLM, tokenizer, collator and batch."""

    def __init__(self) -> None:
        self.llm = SimpleNamespace(device="cpu", tokenizer=self)

    def for_decoding(self, examples: list[Example], source: str) -> Stub:
        self.count = len(examples)
        return self

    def to(self, device: str) -> Stub:
        return self

    def decode(self, ids: tuple[int, ...], **options: Any) -> str:
        return " ".join(f"t{i}" for i in ids)

    def generate(self, batch: Stub, max_new_tokens: int) -> list[str]:
        return ["an\nanswer"] * self.count


def test_samples_show_targets_and_what_losses_aim_at(tmp_path) -> None:
    """Either may be missing: sets that describe their rows have no text target."""
    row = Row("a", "/a.wav", 1.0, "Hello.", "en", "s")
    examples = [
        Example(row, "said", response=(1, 2)),
        Example(row, "speech", aims="(Gender: female)"),
    ]
    stub, path = Stub(), tmp_path / "train" / "samples.md"
    writer = SampleWriter(path, examples, stub, stub)
    for step in (4, 8):
        writer.on_validation(step)
    said = "**said** a: Hello.\n\n- target: t1 t2\n- answer: an answer\n"
    aimed = "**speech** a: Hello.\n\n- aims: (Gender: female)\n- answer: an answer\n"
    assert path.read_text() == "".join(f"## Step {n}\n\n{said}\n{aimed}" for n in (4, 8))
