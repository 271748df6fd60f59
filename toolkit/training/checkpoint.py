"""Checkpoints: tensors in safetensors, everything else in JSON, a folder renamed into place."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.training.optimisation import model_modules

WEIGHTS, OPTIMISER, EMA, STATE = (
    "trainable.safetensors",
    "optimiser.safetensors",
    "ema.safetensors",
    "state.json",
)


class CheckpointError(ValueError):
    """A checkpoint does not fit; the message says where and what to do."""


class Checkpoints:
    """The checkpoint folder of a phase.

    A checkpoint is a folder ``step_00000100`` written beside its place and renamed, so it is whole
    or absent whatever kills the writer.

    Parameters
    ----------
    root : path
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def path(self, step: int) -> Path:
        """Folder of a step."""
        return self.root / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        if not self.root.is_dir():
            return []
        return sorted(int(p.name[5:]) for p in self.root.glob("step_*") if (p / STATE).is_file())

    def last(self) -> Path | None:
        """The newest checkpoint."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def save(
        self, name: str, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint.

        Parameters
        ----------
        name : str
            Folder name; one that exists is replaced.
        tensors : mapping of str to mapping of str to Tensor
            File name to tensors.
        state : mapping
            JSON values.

        Returns
        -------
        Path
        """
        from safetensors.torch import save_file

        partial = self.root / f".partial_{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file, content in tensors.items():
            plain = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in content.items()}
            save_file(plain, str(partial / file))
        with open(partial / STATE, "w", encoding="utf-8") as stream:
            json.dump(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        for file in tensors:
            with open(partial / file, "rb") as stream:
                os.fsync(stream.fileno())
        target = self.root / name
        self._remove(target)
        os.replace(partial, target)
        return target

    def keep(self, steps: Iterable[int]) -> None:
        """Remove every step but these."""
        wanted = set(steps)
        for step in self.steps():
            if step not in wanted:
                self._remove(self.path(step))

    def _remove(self, path: Path) -> None:
        # Renamed first: a half-removed folder must not pass for a checkpoint.
        if path.exists():
            trash = self.root / f".trash_{path.name}"
            shutil.rmtree(trash, ignore_errors=True)
            os.replace(path, trash)
            shutil.rmtree(trash, ignore_errors=True)


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the host."""
    from safetensors.torch import load_file

    return load_file(str(path))


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    return json.loads((Path(folder) / STATE).read_text(encoding="utf-8"))


def trained_tensors(
    modules: Mapping[str, nn.Module],
    groups: Mapping[str, Sequence[tuple[str, nn.Parameter]]],
    carried: Collection[str] = (),
) -> dict[str, Tensor]:
    """What training may have changed: trained parameters, the buffers of the modules they are in,
    and those of the projector, which it was fitted to the training data with.

    Parameters
    ----------
    modules : mapping of str to Module
    groups : mapping of str to sequence of (str, Parameter)
    carried : collection of str
        Names that an earlier phase trained.

    Returns
    -------
    dict of str to Tensor
        By full name, ``projector.layer.weight``.
    """
    parameters = {name for named in groups.values() for name, _ in named}
    prefixes = tuple(f"{path}." for path in groups)
    out = {}
    for block, module in modules.items():
        names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        for name, tensor in module.state_dict().items():
            full = f"{block}.{name}"
            trained = full in parameters or full in carried
            kept = block == "projector" or full.startswith(prefixes)
            if trained or (name not in names and kept):
                out[full] = tensor
    return out


def holds_buffers(checkpoint: Path, projector: nn.Module) -> bool:
    """Whether a checkpoint has all that a projector was fitted to, so that it need not be again.

    Parameters
    ----------
    checkpoint : Path
        Its folder.
    projector : nn.Module

    Returns
    -------
    bool
    """
    from safetensors import safe_open

    path = checkpoint / WEIGHTS
    if not path.is_file():
        return False
    with safe_open(path, "pt") as tensors:
        held = set(tensors.keys())
    parameters = dict(projector.named_parameters())
    buffers = {f"projector.{name}" for name in projector.state_dict() if name not in parameters}
    return buffers <= held


def load_tensors(model: object, tensors: Mapping[str, Tensor], source: str = "") -> None:
    """Put saved tensors into a model's blocks.

    A component with buffers whose size depends on the data (a vocabulary learnt by ``fit``) adopts
    the saved ones itself, in ``_load_from_state_dict``.

    Parameters
    ----------
    model : object
        With ``encoder``, ``projector`` and ``llm``.
    tensors : mapping of str to Tensor
    source : str
        For messages.

    Raises
    ------
    CheckpointError
        For names the model does not have, or sizes that differ.
    """
    modules = model_modules(model)
    for block in sorted({name.partition(".")[0] for name in tensors}):
        if block not in modules:
            raise CheckpointError(f"{source}: holds weights of {block!r}, which the model lacks")
        module = modules[block]
        own = {
            name.partition(".")[2]: tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{block}.")
        }
        try:
            outcome = module.load_state_dict(own, strict=False)
        except RuntimeError as error:
            raise CheckpointError(
                f"{source}: {block}: {error}; was it trained with another configuration?"
            ) from error
        if outcome.unexpected_keys:
            raise CheckpointError(
                f"{source}: {block} has no {', '.join(outcome.unexpected_keys[:4])}; was it "
                "trained with another configuration?"
            )


def load_trained(folder: str | os.PathLike[str], model: object) -> None:
    """Load a checkpoint's trained weights into a model, for decoding, export or the next phase.

    Parameters
    ----------
    folder : path
        A checkpoint folder.
    model : object
        Materialised, with ``encoder``, ``projector`` and ``llm``. It remembers the names, so that
        the checkpoints of a later phase carry them too even if that phase leaves them frozen.

    Raises
    ------
    CheckpointError
        If the folder has no weights, or they do not fit.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; run the training stage first")
    tensors = read_tensors(path)
    load_tensors(model, tensors, str(path))
    model.carried_weights = frozenset(tensors)


def load_best(folder: str | os.PathLike[str], model: object) -> None:
    """Load the best checkpoint of a phase's folder; see `load_trained`.

    Parameters
    ----------
    folder : str or path
        The phase's folder, which holds ``best``.
    model : object
        The materialised model that is written to.
    """
    load_trained(Path(folder) / "best", model)


def whole_llm_tensors(model: object) -> dict[str, Tensor]:
    """The LLM's own weights that training changed: none for a frozen LLM or one with adapters.

    Parameters
    ----------
    model : object
        Weights were loaded with `load_trained`.

    Returns
    -------
    dict of str to Tensor
        By name inside the LLM.
    """
    names = {name for name in getattr(model, "carried_weights", ()) if name.startswith("llm.")}
    return {
        name: tensor
        for name, tensor in model.llm.state_dict().items()
        if f"llm.{name}" in names and "lora_" not in name
    }


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """Optimiser state as ``<parameter>|<entry>`` tensors."""
    return {
        f"{name}|{key}": value
        for name, parameter in named
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer,
    named: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put saved optimiser state back, on each parameter's device."""
    parameters = dict(named)
    for full, tensor in tensors.items():
        name, _, key = full.rpartition("|")
        parameter = parameters[name]
        optimiser.state[parameter][key] = tensor.to(parameter.device)


def link(link_path: Path, target: Path) -> None:
    """Point a symbolic link at a folder, atomically."""
    partial = link_path.with_name(f".{link_path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, link_path.parent))
    os.replace(partial, link_path)


def rng_state() -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's generators as JSON values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, next_gauss = random.getstate()
    state = {
        "python": [version, list(internal), next_gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "torch": bytes(torch.get_rng_state().numpy()).hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = bytes(torch.cuda.get_rng_state().numpy()).hex()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put generators back where `rng_state` found them."""
    version, internal, next_gauss = state["python"]
    random.setstate((version, tuple(internal), next_gauss))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(
            torch.tensor(list(bytes.fromhex(state["cuda"])), dtype=torch.uint8)
        )


@contextmanager
def preserved_rng():
    """Leave the generators as they were: validation must not change what training draws."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def seed_everything(seed: int, *more: int) -> None:
    """Seed Python, NumPy and PyTorch from a tuple of numbers."""
    words = np.random.SeedSequence([seed, *more]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
