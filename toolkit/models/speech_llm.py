"""An encoder, a projector, an interleaver and an LLM composed into one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.data.example import Batch
from toolkit.encoders.base import Encoder, EncoderOutput
from toolkit.interleavers.assemble import Assembled, assemble
from toolkit.interleavers.base import Interleaver
from toolkit.llms import generation
from toolkit.llms.causal_lm import CausalLM
from toolkit.llms.prompt import Prompt
from toolkit.losses.base import LLM_NEEDS, LossInput
from toolkit.models.fit import check_fit
from toolkit.models.spans import deal, frame_spans, vector_spans
from toolkit.projectors.base import Projector, ProjectorOutput
from toolkit.segments import Response, Segment

#: Needs that run the LLM on speech.
LLM_INPUT_NEEDS = LLM_NEEDS - {"teacher_logits"}
#: Needs that run the projector.
PROJECTOR_NEEDS = LLM_INPUT_NEEDS | {"vectors", "aux"}


class Answer(NamedTuple):
    """What the LLM said.

    Attributes
    ----------
    text : str
    finish : str
        ``stop`` where the LLM ended by itself, ``length`` where it was cut.
    """

    text: str
    finish: str


class SpeechLLM(nn.Module):
    """A text LLM with ears.

    Parameters
    ----------
    encoder : Encoder
    projector : Projector
    interleaver : Interleaver
    llm : CausalLM
    prompt : Prompt

    Raises
    ------
    ValueError
        When the blocks do not fit: widths, number of layers, or an interleaver that cuts by time on
        a projector whose vectors have no times.
    """

    def __init__(
        self,
        encoder: Encoder,
        projector: Projector,
        interleaver: Interleaver,
        llm: CausalLM,
        prompt: Prompt,
    ) -> None:
        super().__init__()
        check_fit(encoder, projector, interleaver, llm)
        self.encoder = encoder
        self.projector = projector
        self.interleaver = interleaver
        self.llm = llm
        self.prompt = prompt

    def encode(self, batch: Batch) -> EncoderOutput:
        """Frames of the batch's clips: cached ones as they are, waveforms through the encoder.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        EncoderOutput
            (A, L, T, D) frames; no gradient unless an encoder parameter trains.
        """
        if batch.frames is not None:
            return EncoderOutput(batch.frames, batch.frame_lengths)
        trains = any(p.requires_grad for p in self.encoder.parameters())
        with nullcontext() if trains else torch.no_grad():
            return self.encoder(batch.waveforms, batch.wave_lengths)

    def project(self, encoded: EncoderOutput, aux: bool = True) -> ProjectorOutput:
        """Vectors of the clips in the LLM's embedding space; the projector keeps its own dtype.

        Parameters
        ----------
        encoded : EncoderOutput
        aux : bool
            Whether the projector's named extras are wanted too.

        Returns
        -------
        ProjectorOutput
        """
        frames = encoded.frames.to(next(self.projector.parameters()).dtype)
        run = self.projector if aux else self.projector.vectors
        return run(frames, encoded.lengths)

    def project_aux(self, encoded: EncoderOutput) -> ProjectorOutput:
        """The projector's named extras alone; no vectors are made."""
        dtype = next(self.projector.parameters()).dtype
        frames = encoded.frames.to(dtype)
        aux = self.projector.aux(frames, encoded.lengths)
        empty = frames.new_zeros(len(frames), 0, self.projector.output_dim)
        return ProjectorOutput(empty, torch.zeros_like(encoded.lengths), None, aux)

    def speech_vectors(
        self,
        batch: Batch,
        encoded: EncoderOutput | None,
        projected: ProjectorOutput | None,
    ) -> list[list[Tensor]]:
        """The vectors of every speech segment of every plan, in order.

        Parameters
        ----------
        batch : Batch
        encoded : EncoderOutput or None
            Frames of the clips, None for text alone; re-projected span by span when the interleaver
            cuts after encoding.
        projected : ProjectorOutput or None
            Vectors of the whole clips; None when cutting after encoding.

        Returns
        -------
        list of list of Tensor (S, D_llm)
        """
        if encoded is None:
            return [[] for _ in batch.plans]
        if self.interleaver.cut == "after_encode":
            spans = frame_spans(batch, encoded, self.encoder.frame_rate)
            if spans is None:
                return [[] for _ in batch.plans]
            return deal(batch, self.project(spans, aux=False))
        # Waveforms cut before encoding make one clip per segment, whole by construction.
        return vector_spans(batch, projected, cut=self.interleaver.cut != "before_encode")

    def assemble(
        self,
        plans: list[list[Segment]],
        speech: list[list[Tensor]],
        padding_side: str = "right",
    ) -> Assembled:
        """One LLM input from plans and speech vectors (cast to the LLM's dtype)."""
        dtype = self.llm.embed(torch.zeros(1, dtype=torch.long, device=self.llm.device)).dtype
        speech = [[vectors.to(dtype) for vectors in row] for row in speech]
        return assemble(plans, speech, self.llm.embed, padding_side=padding_side)

    def forward(self, batch: Batch, needs: frozenset[str], progress: float = 0.0) -> LossInput:
        """Compute what the losses need, and nothing else.

        Parameters
        ----------
        batch : Batch
        needs : frozenset of str
            Union of the ``needs`` of the terms of non-zero weight.
        progress : float
            Share of the phase's optimiser steps done, in [0, 1].

        Returns
        -------
        LossInput
            Only what ``needs`` names is filled.
        """
        out = LossInput(batch=batch, progress=progress)
        if "embedding_table" in needs:
            out.embedding_table = self.llm.embedding_table()
        encoded = None
        # A batch of text alone has no clips.
        hears = batch.waveforms is not None or batch.frames is not None
        if hears and needs & (PROJECTOR_NEEDS | {"frames"}):
            encoded = self.encode(batch)
            out.frames, out.frame_lengths = encoded.frames, encoded.lengths
        cuts_frames = self.interleaver.cut == "after_encode"
        if hears and ("vectors" in needs or (needs & LLM_INPUT_NEEDS and not cuts_frames)):
            out.projected = self.project(encoded, aux="aux" in needs)
        elif hears and "aux" in needs:
            out.projected = self.project_aux(encoded)
        if needs & LLM_INPUT_NEEDS:
            speech = self.speech_vectors(batch, encoded, out.projected)
            assembled = self.assemble(batch.plans, speech)
            out.logits = self.llm.logits(self.llm.states(assembled))
            out.labels = assembled.label_ids()
            out.label_item, _ = assembled.label_positions()
        if "teacher_logits" in needs:
            out.teacher_logits = self.teacher_logits(batch)
        return out

    def llm_input(self, batch: Batch, padding_side: str = "right") -> Assembled:
        """Encode, project and put a batch together: what the LLM reads at inference.

        Parameters
        ----------
        batch : Batch
            Plans without speech are plain text prompts.
        padding_side : str
            ``"left"`` for generation.

        Returns
        -------
        Assembled
        """
        speech = [[] for _ in batch.plans]
        if batch.has_speech():
            encoded = self.encode(batch)
            cuts_frames = self.interleaver.cut == "after_encode"
            projected = None if cuts_frames else self.project(encoded, aux=False)
            # The table of some LLMs is computed when it is asked for.
            if projected is not None and type(self.projector).finish is not Projector.finish:
                projected = self.projector.finish(projected, self.llm.embedding_table())
            speech = self.speech_vectors(batch, encoded, projected)
        return self.assemble(batch.plans, speech, padding_side)

    @torch.no_grad()
    def teacher_logits(self, batch: Batch) -> Tensor:
        """The frozen text branch's logits for the same response tokens.

        Parameters
        ----------
        batch : Batch
            ``text_plans`` are read: the same prompt with the transcript in the slot.

        Returns
        -------
        Tensor (N, V), float32
        """
        plans = [
            [*text, *(s for s in plan if isinstance(s, Response))]
            for text, plan in zip(batch.text_plans, batch.plans, strict=True)
        ]
        with self.llm.text_mode():
            assembled = self.assemble(plans, [[] for _ in plans])
            return self.llm.logits(self.llm.states(assembled))

    @torch.no_grad()
    def heard(self, batch: Batch) -> list[str] | None:
        """What the projector recognised, written with the LLM's tokens, without running the LLM.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        list of str or None
            One per clip; None for text alone and for projectors that recognise no tokens.
        """
        # Most projectors recognise nothing: then nothing is encoded a second time to be told so.
        if not batch.has_speech() or type(self.projector).heard is Projector.heard:
            return None
        projected = self.project(self.encode(batch))
        tokens = self.projector.heard(projected, self.llm.embedding_table())
        if tokens is None:
            return None
        return [self.llm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]

    def generate(self, batch: Batch, max_new_tokens: int = 64, **sampling) -> list[str]:
        """Answer each example of the batch.

        Parameters
        ----------
        batch : Batch
            Plans without `Response`; plans without speech are plain text prompts.
        max_new_tokens : int
        **sampling
            ``do_sample, temperature, top_p, seed`` of `CausalLM.generate`; greedy by default.

        Returns
        -------
        list of str
            Stripped of surrounding white space.
        """
        return [answer.text for answer in self.answers(batch, max_new_tokens, **sampling)]

    @torch.no_grad()
    def answers(self, batch: Batch, max_new_tokens: int = 64, **sampling) -> list[Answer]:
        """As `generate`, and whether the LLM came to an end.

        Parameters
        ----------
        batch : Batch
        max_new_tokens : int
        **sampling
            As of `generate`.

        Returns
        -------
        list of Answer
        """
        assembled = self.llm_input(batch, padding_side=self.llm.generation_padding)
        ids = self.llm.generate(assembled, max_new_tokens=max_new_tokens, **sampling)
        return self._answers(ids, max_new_tokens)

    @torch.no_grad()
    def answer_and_score(
        self,
        batch: Batch,
        respond: Callable[[list[Answer]], Sequence[Sequence[int]]],
        max_new_tokens: int = 64,
    ) -> tuple[list[Answer], Sequence[Sequence[int]], list[float]]:
        """Answer greedily, and score responses to the same prompts, which are read only once.

        Parameters
        ----------
        batch : Batch
            Plans without `Response`. The model is in eval mode.
        respond : callable
            Token ids to score, from the answers: at least one per example.
        max_new_tokens : int

        Returns
        -------
        list of Answer
        sequence of sequence of int
            The responses.
        list of float
            Negative log-likelihood of each response, in nats.
        """
        if not generation.plain_attention(self.llm.config):
            answers = self.answers(batch, max_new_tokens)
            responses = respond(answers)
            plans = [
                [*plan, Response(tuple(ids))]
                for plan, ids in zip(batch.plans, responses, strict=True)
            ]
            return answers, responses, self.response_nll(replace(batch, plans=plans))
        assembled = self.llm_input(batch, padding_side=self.llm.generation_padding)
        reading = generation.read(self.llm, assembled)
        ids = generation.continue_rows(self.llm, reading, max_new_tokens)
        answers = self._answers(ids, max_new_tokens)
        responses = respond(answers)
        nll = generation.response_nll(self.llm, reading, responses)
        return answers, responses, nll.tolist()

    @torch.no_grad()
    def response_nll(self, batch: Batch) -> list[float]:
        """Negative log-likelihood of each example's response, as the model reads at inference.

        Parameters
        ----------
        batch : Batch
            Plans that end with `Response`.

        Returns
        -------
        list of float
            Nats, summed over the tokens.
        """
        assembled = self.llm_input(batch)
        logits = self.llm.logits(self.llm.states(assembled))
        nll = nn.functional.cross_entropy(logits, assembled.label_ids(), reduction="none")
        totals = nll.new_zeros(len(batch.plans))
        return totals.index_add(0, assembled.label_positions()[0], nll).tolist()

    def _answers(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        decode = self.llm.tokenizer.decode
        # Rows come without their end, so that one of full length has none.
        return [
            Answer(
                decode(row, skip_special_tokens=True).strip(),
                "stop" if len(row) < max_new_tokens else "length",
            )
            for row in ids
        ]
