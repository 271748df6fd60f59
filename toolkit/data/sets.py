"""Declared data sets: each lists `Example`s, counts what it leaves out, and never reads audio."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.fields import prompt_fields, row_value, stable_hash
from toolkit.data.manifest import Row, read_manifest
from toolkit.data.targets import Target, TargetError, read_targets

if TYPE_CHECKING:
    from toolkit.data.example import Example
    from toolkit.llms.prompt import Prompt

PathLike = str | os.PathLike[str]


class EmptySetError(ValueError):
    """A set lists nothing; the message counts why."""


class ExampleSet(ABC):
    """Base of the sets a recipe declares under ``sets:``.

    Parameters
    ----------
    manifests : sequence of str or path
        Manifest files; their rows are joined.
    min_seconds, max_seconds : float, optional
        Rows outside are dropped and counted, never cut.

    Attributes
    ----------
    dropped : collections.Counter
        Rows or targets left out by the last `examples` call, by reason.
    """

    def __init__(
        self,
        manifests: Sequence[PathLike],
        min_seconds: float = 0.0,
        max_seconds: float | None = None,
    ) -> None:
        if isinstance(manifests, (str, os.PathLike)):
            manifests = [manifests]
        if not manifests:
            raise ValueError(f"{type(self).__name__}: `manifests` is empty; name at least one file")
        self.manifests = [Path(path) for path in manifests]
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds
        self.dropped: Counter[str] = Counter()

    def examples(
        self, tokenizer: Any, prompt: Prompt, rows: Callable[[Path], list[Row]] = read_manifest
    ) -> list[Example]:
        """List the set.

        Parameters
        ----------
        tokenizer : transformers.PreTrainedTokenizerBase
            The LLM's tokenizer.
        prompt : Prompt
            The recipe's prompt: its end-of-turn ids close responses, its fingerprint is checked.
        rows : callable
            Reads a manifest; the pipeline's also merges annotations such as word times.

        Returns
        -------
        list of Example
            In a fixed order.

        Raises
        ------
        EmptySetError
            When nothing is left, with the counts by reason.
        """
        self.dropped = Counter()
        everything = [row for path in self.manifests for row in rows(path)]
        out = list(self._list(everything, tokenizer, prompt))
        if not out:
            counts = ", ".join(f"{why}: {n}" for why, n in self.dropped.most_common()) or "no rows"
            raise EmptySetError(
                f"{type(self).__name__} over {', '.join(map(str, self.manifests))} lists no "
                f"example ({counts}); check the manifests, the targets and the set's filters"
            )
        return out

    def _fits(self, row: Row) -> bool:
        """Whether the row's length is within bounds; counts it if not."""
        if row.duration < self.min_seconds:
            self.dropped["too_short"] += 1
        elif self.max_seconds is not None and row.duration > self.max_seconds:
            self.dropped["too_long"] += 1
        else:
            return True
        return False

    @abstractmethod
    def _list(self, rows: list[Row], tokenizer: Any, prompt: Prompt) -> Iterator[Example]: ...


class SpeechSet(ExampleSet):
    """Utterances with transcripts and no text target: what embedding pretraining reads.

    Parameters
    ----------
    manifests : sequence of str or path
    instruction : str
        For the prompt, where the phase runs the LLM all the same.
    task : str
        Name of the curve.
    keep_empty : bool
        Keep rows without a transcript.
    describe : callable, optional
        Row to the text that losses on the transcript aim at instead of it, such as a
        `toolkit.teachers.SeedTranscript` of its attributes. What the LLM reads is not changed.
    min_seconds, max_seconds : float, optional

    Example
    -------
    >>> import tempfile
    >>> from toolkit.data.manifest import write_manifest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.jsonl")
    ...     rows = [("a", "/a.wav", 1.0, "Hi."), ("b", "/b.wav", 9.0, "Ho.")]
    ...     write_manifest(path, [Row(*row, "en", "s") for row in rows])
    ...     speech = SpeechSet([path], max_seconds=5.0)
    ...     ids = [example.id for example in speech.examples(tokenizer=None, prompt=None)]
    >>> ids, dict(speech.dropped)
    (['a|speech'], {'too_long': 1})
    """

    def __init__(
        self,
        manifests: Sequence[PathLike],
        instruction: str = "",
        task: str = "speech",
        keep_empty: bool = False,
        describe: Callable[[Row], str] | None = None,
        min_seconds: float = 0.0,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(manifests, min_seconds, max_seconds)
        if describe is not None and not callable(describe):
            raise ValueError(
                f"SpeechSet: describe is {describe!r}; give what renders a row as text, such as "
                "`!new:toolkit.teachers.SeedTranscript`"
            )
        self.instruction = instruction
        self.task = task
        self.keep_empty = keep_empty
        self.describe = describe

    def _list(self, rows: list[Row], tokenizer: Any, prompt: Prompt) -> Iterator[Example]:
        from toolkit.data.example import Example

        for row in rows:
            if not self._fits(row):
                continue
            fields = prompt_fields(row, self.instruction)
            aims = None if self.describe is None else self.describe(row)
            example = Example(row, self.task, fields, aims=aims)
            if not example.aim.strip() and not self.keep_empty:
                self.dropped["empty_text"] += 1
                continue
            yield example


class TranscriptionSet(ExampleSet):
    """Utterances whose target is gold text of the manifest: the transcript, a translation, an
    answer.

    Each row gets one of the instructions, chosen by its id, so that the choice survives any change
    of order or size of the manifest.

    Parameters
    ----------
    manifests : sequence of str or path
    instructions : sequence of str
        Wordings of the task.
    task : str
    target : str
        Row field to learn: ``text``, ``answer``, ``translations.es``, ...
    min_seconds, max_seconds : float, optional

    Example
    -------
    >>> import tempfile
    >>> from tokenizers import Tokenizer, models
    >>> from transformers import PreTrainedTokenizerFast
    >>> from toolkit.data.manifest import write_manifest
    >>> from toolkit.llms import Prompt
    >>> words = Tokenizer(models.WordLevel({"Hola.": 0, "</s>": 1}, unk_token="</s>"))
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.jsonl")
    ...     row = Row("a", "/a.wav", 1.0, "Hi.", "en", "s", translations={"es": "Hola."})
    ...     write_manifest(path, [row, Row("b", "/b.wav", 1.0, "Ho.", "en", "s")])
    ...     spanish = TranscriptionSet([path], ["Translate."], target="translations.es")
    ...     (example,) = spanish.examples(tokenizer, Prompt())
    >>> example.fields["instruction"], example.response, dict(spanish.dropped)
    ('Translate.', (0, 1), {'no_translations.es': 1})
    """

    def __init__(
        self,
        manifests: Sequence[PathLike],
        instructions: Sequence[str],
        task: str = "transcription",
        target: str = "text",
        min_seconds: float = 0.0,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(manifests, min_seconds, max_seconds)
        if isinstance(instructions, str):
            instructions = [instructions]
        if not instructions:
            raise ValueError("TranscriptionSet: `instructions` is empty; give at least one wording")
        if target.partition(".")[0] not in Row.__dataclass_fields__:
            raise ValueError(
                f"TranscriptionSet: target {target!r} is not a manifest field; use text, answer, "
                "asr_text, translations.<language> or attributes.<name>"
            )
        self.instructions = list(instructions)
        self.task = task
        self.target = target

    def _list(self, rows: list[Row], tokenizer: Any, prompt: Prompt) -> Iterator[Example]:
        from toolkit.data.example import Example

        end = tuple(prompt.end_ids(tokenizer))
        for row in rows:
            if not self._fits(row):
                continue
            text = row_value(row, self.target).strip()
            if not text:
                self.dropped[f"no_{self.target}"] += 1
                continue
            pick = stable_hash(row.id) % len(self.instructions)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            yield Example(
                row=row,
                task=self.task,
                fields=prompt_fields(row, self.instructions[pick]),
                response=(*ids, *end),
                wording=f"{self.task}/{pick}",
            )


class TargetSet(ExampleSet):
    """Utterances whose target a text LLM wrote.

    Parameters
    ----------
    manifests : sequence of str or path
    targets : str, path or sequence of them
        Target files, or folders of ``*.jsonl``.
    tasks, exclude_tasks : sequence of str, optional
        Patterns of task names to keep and to leave out.
    wordings, exclude_wordings : sequence of str, optional
        The same for wordings (``repetition/3``): how wordings are held out for testing.
    keep_truncated : bool
        Keep responses that hit the length limit; they have no end-of-turn token.
    check_prompt : bool
        Drop targets written under another prompt than the recipe's.
    min_seconds, max_seconds : float, optional

    Example
    -------
    >>> import json, tempfile
    >>> from toolkit.data.manifest import write_manifest
    >>> from toolkit.llms import Prompt
    >>> prompt = Prompt()
    >>> line = {"key": "k", "id": "a", "task": "repetition", "wording": "repetition/0",
    ...     "instruction": "Repeat.", "response_ids": [5, 2], "finish": "stop",
    ...     "prompt": prompt.fingerprint(), "source": "tiny"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, targets = Path(folder, "train.jsonl"), Path(folder, "targets.jsonl")
    ...     write_manifest(path, [Row("a", "/a.wav", 1.0, "Hi.", "en", "s")])
    ...     lines = [line, {**line, "key": "cut", "finish": "length"}]
    ...     _ = targets.write_text("\\n".join(map(json.dumps, lines)))
    ...     taught = TargetSet([path], targets, tasks=["rep*"])
    ...     (example,) = taught.examples(tokenizer=range(9), prompt=prompt)
    >>> example.fields["instruction"], example.response, dict(taught.dropped)
    ('Repeat.', (5, 2), {'truncated': 1})
    """

    def __init__(
        self,
        manifests: Sequence[PathLike],
        targets: PathLike | Sequence[PathLike],
        tasks: Sequence[str] | None = None,
        exclude_tasks: Sequence[str] | None = None,
        wordings: Sequence[str] | None = None,
        exclude_wordings: Sequence[str] | None = None,
        keep_truncated: bool = False,
        check_prompt: bool = True,
        min_seconds: float = 0.0,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(manifests, min_seconds, max_seconds)
        self.targets = [targets] if isinstance(targets, (str, os.PathLike)) else list(targets)
        self.tasks, self.exclude_tasks = tasks, exclude_tasks
        self.wordings, self.exclude_wordings = wordings, exclude_wordings
        self.keep_truncated = keep_truncated
        self.check_prompt = check_prompt

    def target_files(self) -> list[Path]:
        """The target files, folders expanded in name order."""
        files: list[Path] = []
        for path in map(Path, self.targets):
            files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        return files

    def _drop_reason(self, target: Target, fingerprint: str | None) -> str | None:
        if not _selected(target.task, self.tasks, self.exclude_tasks):
            return "task"
        if not _selected(target.wording, self.wordings, self.exclude_wordings):
            return "wording"
        if fingerprint is not None and target.prompt != fingerprint:
            return "other_prompt"
        if not target.response_ids:
            return "empty_response"
        if target.finish != "stop" and not self.keep_truncated:
            return "truncated"
        return None

    def _list(self, rows: list[Row], tokenizer: Any, prompt: Prompt) -> Iterator[Example]:
        from toolkit.data.example import Example

        fingerprint = prompt.fingerprint() if self.check_prompt else None
        by_id = {row.id: row for row in rows}
        seen: set[str] = set()
        for path in self.target_files():
            for target in read_targets(path):
                row = by_id.get(target.id)
                reason = self._drop_reason(target, fingerprint)
                if reason is None and row is None:
                    reason = "not_in_manifests"
                if reason is None and target.key in seen:
                    reason = "repeated_key"
                if reason is not None:
                    self.dropped[reason] += 1
                    continue
                if max(target.response_ids) >= len(tokenizer):
                    raise TargetError(
                        f"{path}: target {target.key} of row {target.id!r} holds token "
                        f"{max(target.response_ids)}, beyond the LLM's {len(tokenizer)} tokens: it "
                        f"was written by another LLM ({target.source}); re-run the teach stage"
                    )
                if not self._fits(row):
                    continue
                seen.add(target.key)
                yield Example(
                    row=row,
                    task=target.task,
                    fields=prompt_fields(row, target.instruction),
                    response=target.response_ids,
                    wording=target.wording,
                    reads=target.reads,
                )


def _selected(name: str, keep: Sequence[str] | None, leave: Sequence[str] | None) -> bool:
    if keep is not None and not any(fnmatchcase(name, pattern) for pattern in keep):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in leave or ())
