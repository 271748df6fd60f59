"""What a pipeline may add to training."""

from __future__ import annotations

from collections.abc import Mapping


class Hooks:
    """What a pipeline may add to training; subclass and override.

    Any object with some of these methods does as well.
    """

    def on_validation(self, step: int) -> Mapping[str, float]:
        """After the losses of a validation; returned numbers join the metrics."""
        return {}

    def on_step(self, step: int) -> None:
        """After every optimiser step."""
