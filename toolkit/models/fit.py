"""Whether the blocks of a model fit each other."""

from __future__ import annotations

from toolkit.encoders.base import Encoder
from toolkit.interleavers.base import Interleaver
from toolkit.llms.causal_lm import CausalLM
from toolkit.projectors.base import Projector


def check_fit(
    encoder: Encoder, projector: Projector, interleaver: Interleaver, llm: CausalLM
) -> None:
    """Refuse blocks that cannot work together; reads no weights.

    Parameters
    ----------
    encoder : Encoder
    projector : Projector
    interleaver : Interleaver
    llm : CausalLM

    Raises
    ------
    ValueError
        With the two settings that contradict each other.
    """
    pairs = (
        ("projector.input_dim", projector.input_dim, "encoder.dim", encoder.dim),
        ("projector.output_dim", projector.output_dim, "llm.dim", llm.dim),
        (
            "projector.input_layers",
            projector.input_layers,
            "encoder.num_layers",
            encoder.num_layers,
        ),
    )
    for left, a, right, b in pairs:
        if a != b:
            raise ValueError(f"{left} is {a} but {right} is {b}: write `{left}: !ref <{right}>`")
    if interleaver.cut == "after_encode" and projector.trims_pads:
        raise ValueError(
            "`pads: trim` looks at a clip's vectors as a whole, but `cut: after_encode` projects it"
            " span by span: use `pads: keep` or `cut: after_project`"
        )
    cuts_by_time = interleaver.needs_words and interleaver.cut == "after_project"
    if cuts_by_time and not projector.has_times:
        raise ValueError(
            f"{type(interleaver).__name__} cuts by time, but the vectors of "
            f"{type(projector).__name__} have no times: use a time-synchronous projector or "
            "`cut: before_encode`"
        )
