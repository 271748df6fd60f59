"""Training: phases, the loop, exact resume.

Names are imported on first use: reading a `Phase` from YAML does not load the training loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Phase": "phase",
    "SpeechLLMBrain": "brain",
    "Hooks": "hooks",
    "TrainingDiverged": "monitor",
    "NoUsableAudio": "monitor",
    "REQUEUE_EXIT": "signals",
    "CheckpointError": "checkpoint",
    "load_best": "checkpoint",
    "load_trained": "checkpoint",
    "whole_llm_tensors": "checkpoint",
    "draw_curves": "curves",
    "draw_layer_weights": "curves",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
