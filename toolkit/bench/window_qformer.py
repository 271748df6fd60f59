"""The window Q-Former against a loop over its windows: ``python -m toolkit.bench.window_qformer``.

Both ways give the same vectors from the same weights, which is asserted before anything is timed.
One pass runs the batch once in each way, so that a machine that slows down slows both; the reported
ratio is the median of the passes' ratios. No weights are read: the Q-Former is a new one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.pipeline.provenance import processor
from toolkit.projectors import WindowQFormer

#: Absolute and relative difference of the two ways, in float32: sums of other orders.
TOLERANCE = 1e-4
#: What is timed.
KINDS = ("forward", "forward and backward")


@dataclass
class Timing:
    """Seconds of one way against the other, pass by pass.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    batched, looped : list of float
        Seconds of each pass.
    """

    kind: str
    batched: list[float]
    looped: list[float]

    @property
    def ratios(self) -> list[float]:
        """Loop over batch, pass by pass."""
        return [slow / fast for slow, fast in zip(self.looped, self.batched, strict=True)]


def looped(projector: WindowQFormer, frames: Tensor, lengths: Tensor) -> list[Tensor]:
    """The projector's vectors, clip by clip and window by window.

    A last, partial window is as long as its frames, so that nothing needs a mask.

    Parameters
    ----------
    projector : WindowQFormer
        In eval mode: dropout would differ between the two ways.
    frames : (B, L, T, D)
    lengths : (B,) int64

    Returns
    -------
    list of B Tensor (V_b, output_dim)

    Example
    -------
    >>> projector = WindowQFormer(4, 6, hidden_dim=8, num_heads=2, ffn_dim=8).materialise().eval()
    >>> found = looped(projector, torch.randn(2, 1, 40, 4), torch.tensor([40, 5]))
    >>> [tuple(vectors.shape) for vectors in found]
    [(3, 6), (1, 6)]
    """
    counts = projector.output_lengths(lengths) // projector.num_queries
    clips = []
    for clip, length, count in zip(frames, lengths.tolist(), counts.tolist(), strict=True):
        own = clip[None, :, :length]
        values = projector.norm(projector.mixed(own, torch.tensor([length], device=own.device)))
        vectors = []
        for k in range(count):
            read = projector.qformer(
                query_embeds=projector.queries[None],
                encoder_hidden_states=values[:, k * projector.window : (k + 1) * projector.window],
            ).last_hidden_state
            vectors.append(projector.project(read)[0])
        clips.append(torch.cat(vectors))
    return clips


def compare(projector: WindowQFormer, frames: Tensor, lengths: Tensor) -> float:
    """The largest difference between the two ways.

    Parameters
    ----------
    projector : WindowQFormer
    frames : (B, L, T, D)
    lengths : (B,) int64

    Returns
    -------
    float

    Raises
    ------
    AssertionError
        Where they give other lengths, or differ by more than `TOLERANCE`.
    """
    with torch.no_grad():
        out, clips = projector(frames, lengths), looped(projector, frames, lengths)
    if out.lengths.tolist() != [len(vectors) for vectors in clips]:
        raise AssertionError(f"lengths {out.lengths.tolist()} of the batch are not the loop's")
    worst = 0.0
    for row, vectors in zip(out.vectors, clips, strict=True):
        torch.testing.assert_close(row[: len(vectors)], vectors, atol=TOLERANCE, rtol=TOLERANCE)
        worst = max(worst, float((row[: len(vectors)] - vectors).abs().max()))
    return worst


def measure(
    projector: WindowQFormer, frames: Tensor, lengths: Tensor, repeats: int = 5
) -> list[Timing]:
    """Time both ways, interleaved, after one untimed pass of each.

    Parameters
    ----------
    projector : WindowQFormer
    frames : (B, L, T, D)
    lengths : (B,) int64
    repeats : int

    Returns
    -------
    list of Timing
        One for each of `KINDS`.
    """
    if repeats < 1:
        raise ValueError(f"repeats: {repeats} is below 1")

    def batched() -> Tensor:
        return projector(frames, lengths).vectors.square().sum()

    def one_by_one() -> Tensor:
        return torch.stack([v.square().sum() for v in looped(projector, frames, lengths)]).sum()

    timings = []
    for kind in KINDS:
        train = kind != KINDS[0]
        timing = Timing(kind, [], [])
        for number in range(repeats + 1):
            for way, seconds in ((batched, timing.batched), (one_by_one, timing.looped)):
                spent = _seconds(way, train, frames.device)
                projector.zero_grad()
                if number:
                    seconds.append(spent)
        timings.append(timing)
    return timings


def _seconds(way: Callable[[], Tensor], train: bool, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    with torch.set_grad_enabled(train):
        total = way()
        if train:
            total.backward()
        float(total.detach())  # waits for the device
    return time.perf_counter() - started


def batch_of(seconds: Sequence[float], projector: WindowQFormer) -> tuple[Tensor, Tensor]:
    """Random frames of clips of some lengths.

    Parameters
    ----------
    seconds : sequence of float
    projector : WindowQFormer

    Returns
    -------
    Tensor (B, L, T, D), Tensor (B,)
    """
    lengths = torch.tensor([max(1, round(s * projector.frame_rate)) for s in seconds])
    shape = (len(seconds), projector.input_layers, int(lengths.max()), projector.input_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)), lengths


def table(timings: Sequence[Timing]) -> str:
    """Markdown of what `measure` found.

    Parameters
    ----------
    timings : sequence of Timing

    Returns
    -------
    str

    Example
    -------
    >>> print(table([Timing("forward", [0.1, 0.2], [0.5, 0.6])]).splitlines()[-1])
    | forward | 150.0 | 550.0 | 4.00 | 3.00 to 5.00 |
    """
    lines = [
        "| | all windows at once, ms | one window after another, ms | ratio | over passes |",
        "|---|---|---|---|---|",
    ]
    for timing in timings:
        fast, slow = (statistics.median(s) * 1000 for s in (timing.batched, timing.looped))
        ratios = timing.ratios
        lines.append(
            f"| {timing.kind} | {fast:.1f} | {slow:.1f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m toolkit.bench.window_qformer", description=__doc__.partition("\n\n")[0]
    )
    out.add_argument(
        "seconds", nargs="*", type=float, default=[1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0],
        help="lengths of the batch's clips",
    )  # fmt: skip
    out.add_argument("--input-dim", type=int, default=512, help="encoder width (512: base)")
    out.add_argument("--output-dim", type=int, default=576, help="LLM width (576: SmolLM2)")
    out.add_argument("--hidden-dim", type=int, default=768, help="Q-Former width (the paper's)")
    out.add_argument("--ffn-dim", type=int, default=3072)
    out.add_argument("--heads", type=int, default=12)
    out.add_argument("--repeats", type=int, default=7)
    out.add_argument("--device", default="cpu")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    given = parser().parse_args(argv)
    torch.manual_seed(0)
    projector = WindowQFormer(
        given.input_dim, given.output_dim, hidden_dim=given.hidden_dim, num_heads=given.heads,
        ffn_dim=given.ffn_dim,
    )  # fmt: skip
    projector = projector.materialise(given.device).eval()
    frames, lengths = (t.to(given.device) for t in batch_of(given.seconds, projector))
    windows = int(projector.output_lengths(lengths).sum())
    worst = compare(projector, frames, lengths)
    device = processor() if given.device == "cpu" else torch.cuda.get_device_name(given.device)
    print(
        f"{len(given.seconds)} clips of {min(given.seconds):g} to {max(given.seconds):g} s, "
        f"{windows} windows; {device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}. Largest difference of the vectors: {worst:.1e}.\n"
    )
    print(table(measure(projector, frames, lengths, given.repeats)))


if __name__ == "__main__":
    main()
