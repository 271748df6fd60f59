"""What every stage is given: configuration, folders, and how to build the model's blocks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.config import Config, Tagged

if TYPE_CHECKING:
    import torch

    from toolkit.data.annotation import AnnotationStore
    from toolkit.data.collate import Collator
    from toolkit.data.feature_store import FeatureCache
    from toolkit.data.manifest import Row
    from toolkit.evaluation.text_branch import TextBranch
    from toolkit.llms import CausalLM
    from toolkit.models import SpeechLLM
    from toolkit.training import Phase

log = logging.getLogger("toolkit")


def strings(tree: Any) -> Iterable[str]:
    """All string leaves of a config tree."""
    if isinstance(tree, Tagged):
        yield from strings(tree.value)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from strings(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from strings(value)
    elif isinstance(tree, str):
        yield tree


@dataclass
class RunContext:
    """One seed of one recipe.

    Attributes
    ----------
    config : Config
    recipe : Path
        The YAML file.
    work : Path
        Root of data, targets, caches and experiments; shared by all runs.
    exp : Path
        This run's own folder, ``<work>/exp/<corpus>/<method>[_tag]/seed<k>``.
    smoke : bool
        A ``--quick`` run: every output says SMOKE.
    device : str
        Where models run.
    num_processes : int
        Processes for data preparation (``--nj``).
    overrides : list of str
        As given on the command line.
    """

    config: Config
    recipe: Path
    work: Path
    exp: Path
    smoke: bool = False
    device: str = "cpu"
    num_processes: int = 2
    overrides: list[str] = field(default_factory=list)
    _caches: dict[tuple, FeatureCache] = field(default_factory=dict, init=False, repr=False)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config.tree.get("seed", 0))

    @property
    def title(self) -> str:
        """``corpus/method``, marked when this is a smoke run."""
        name = f"{self.recipe.parent.parent.name}/{self.recipe.parent.name}"
        return f"{name} [SMOKE]" if self.smoke else name

    @property
    def status(self) -> str:
        """How far the recipe has been tried: ``config-checked`` or ``trained``."""
        return str(self.config.tree.get("status", "status not declared"))

    @cached_property
    def precision(self) -> str:
        """``fp32`` or ``bf16``; ``auto`` in the YAML probes which is faster on this machine."""
        from toolkit.pipeline.probe import faster_precision

        declared = self.config.tree.get("precision", "auto")
        return faster_precision(self.device) if declared == "auto" else declared

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Dtype of frozen weights under the run's precision."""
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def sources(self) -> list[str]:
        """Weight sources the recipe names, in order of appearance."""
        found = [s for s in strings(self.config.tree) if s.startswith(("wheel:", "hub:"))]
        return list(dict.fromkeys(found))

    def manifests(self, kind: str | None = None) -> list[Path]:
        """Manifest files named by the recipe's sets and, with ``kind="decode"``, its test sets."""
        block = self.config.tree.get("decode" if kind == "decode" else "sets")
        paths = [Path(s) for s in strings(block) if s.endswith(".jsonl") and "/data/" in s]
        return list(dict.fromkeys(paths))

    def rows(self, path: str | Path) -> list[Row]:
        """A manifest's rows with the annotations made so far (word times, transcripts)."""
        from toolkit.data.annotation import apply_annotations
        from toolkit.data.manifest import read_manifest

        rows = read_manifest(path)
        for store in self.annotations:
            rows = apply_annotations(rows, store)
        return rows

    @property
    def annotations(self) -> list[AnnotationStore]:
        """Stores of the recipe's annotators, in the order of the YAML."""
        from toolkit.data.annotation import AnnotationStore

        if not self.config.select("annotate"):
            return []
        root = self.work / "annotations"
        blocks = self.config.build("annotate")["annotate"]
        return [AnnotationStore(root, block["annotator"]) for block in blocks]

    def fresh(self, *keys: str) -> dict[str, Any]:
        """Blocks of the recipe as their constructors leave them, whatever other stages did.

        Parameters
        ----------
        *keys : str
            Top-level keys.

        Returns
        -------
        dict of str to object
            References between the blocks are kept.
        """
        return copy.deepcopy(self.config.build(*keys))

    def build_for(self, phase: Phase) -> SpeechLLM:
        """The recipe's model with the weights that a phase needs; see `build_model`.

        Parameters
        ----------
        phase : Phase

        Returns
        -------
        SpeechLLM
        """
        encoder = self.cache() is None or phase.trains("encoder")
        return self.build_model(encoder=encoder, llm=phase.loads_llm())

    def build_model(
        self,
        materialise: bool = True,
        seed: int | None = None,
        encoder: bool = True,
        llm: bool = True,
    ) -> SpeechLLM:
        """The recipe's model.

        Parameters
        ----------
        materialise : bool
            Load weights; False keeps settings only.
        seed : int, optional
            Seed of the projector's initial values; the run's own by default.
        encoder, llm : bool
            False leaves that block's weights on disk: cached frames need no encoder, and some
            losses no more of the LLM than its tokenizer and embedding table.

        Returns
        -------
        SpeechLLM
            Encoder and LLM in the run's frozen dtype, projector in float32, all in eval mode.
        """
        import torch

        from toolkit.models import SpeechLLM

        objects = self.fresh("encoder", "projector", "interleaver", "llm", "prompt")
        model = SpeechLLM(**objects)
        if materialise:
            torch.manual_seed(self.seed if seed is None else seed)
            model.projector.materialise(self.device, torch.float32)
            if encoder:
                model.encoder.materialise(self.device, self.frozen_dtype)
            if llm:
                model.llm.materialise(self.device, self.frozen_dtype)
            else:
                model.llm.read_table(self.device)
            for frozen in (model.encoder, model.llm):
                frozen.requires_grad_(False)
            model.eval()
        return model

    def published_llm(self, model: SpeechLLM) -> CausalLM | None:
        """The LLM before training, where a phase trained all of it; else it can be had back.

        Parameters
        ----------
        model : SpeechLLM
            From `load_trained`.

        Returns
        -------
        CausalLM or None
            Materialised, in eval mode. None for a frozen LLM and for one with LoRA adapters, which
            `CausalLM.text_mode` switches off.
        """
        from toolkit.training import whole_llm_tensors

        if not whole_llm_tensors(model):
            return None
        llm = self.fresh("llm")["llm"].materialise(self.device, self.frozen_dtype)
        return llm.requires_grad_(False).eval()

    def cache(self) -> FeatureCache | None:
        """The feature cache, or None where the recipe has none (``cache: off``)."""
        from toolkit.data.feature_store import FeatureCache

        settings = self.config.tree.get("cache")
        if not isinstance(settings, dict):
            return None
        encoder = self.config.build("encoder")["encoder"]
        dtype = settings.get("dtype", "bfloat16")
        max_bytes = int(float(settings.get("max_gib", 20)) * 2**30)
        key = (encoder.fingerprint(), dtype, max_bytes)
        if key in self._caches:
            # A phase asks several times, and the index of a million clips takes seconds to read.
            self._caches[key].reload()
        else:
            self._caches[key] = FeatureCache(self.work / "cache", *key)
        return self._caches[key]

    def collator(self, model: SpeechLLM, run_llm: bool = True) -> Collator:
        """Turns examples into batches for this model."""
        from toolkit.data.collate import Collator

        return Collator(
            prompt=model.prompt,
            interleaver=model.interleaver,
            tokenizer=model.llm.tokenizer,
            cache=self.cache(),
            seed=self.seed,
            run_llm=run_llm,
            units=model.projector.transcript_units(),
        )

    @cached_property
    def text_branch(self) -> TextBranch:
        """What LLMs said to the test sets' texts, in any run of this work folder."""
        from toolkit.evaluation.text_branch import TextBranch

        return TextBranch(self.work / "targets" / "text_branch.jsonl")

    def phase_folder(self, name: str) -> Path:
        """Folder of a training phase."""
        return self.exp / name

    def trained_phase(self) -> str | None:
        """The phase whose weights are decoded: the last one that has any; None before that."""
        phases = ("train", "pretrain")
        return next((p for p in phases if (self.phase_folder(p) / "best").exists()), None)

    def load_trained(self, model: SpeechLLM) -> str:
        """Load the best weights of the last phase that ran.

        Parameters
        ----------
        model : SpeechLLM
            A materialised model; changed in place.

        Returns
        -------
        str
            Name of the phase.

        Raises
        ------
        FileNotFoundError
            When no phase has been trained, naming the stage to run.
        """
        from toolkit.training import load_best

        phase = self.trained_phase()
        if phase is None:
            raise FileNotFoundError(f"{self.exp}: no trained phase here; run stages 6 and 7 first")
        load_best(self.phase_folder(phase), model)
        return phase
