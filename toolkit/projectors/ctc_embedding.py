"""CTC in the LLM's embedding space: recognise tokens, hand their embeddings over."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data.transcript import TranscriptUnits, bpe_pieces, transcript_tokens
from toolkit.projectors.base import LayerMix, Projector, ProjectorOutput
from toolkit.projectors.ctc_network import CTCNetwork
from toolkit.projectors.ctc_runs import Runs, find_runs, token_weights
from toolkit.projectors.spec_augment import SpecAugment
from toolkit.projectors.strided import strided_lengths

if TYPE_CHECKING:
    from toolkit.data.manifest import Row

OUTPUTS = ("posterior", "argmax", "straight_through")
#: Start of the learned scale: cosines in [-1, 1] alone would give a nearly flat posterior.
INITIAL_SCALE = 20.0
#: Start of the blank's bias: most frames are blank once CTC has settled.
INITIAL_BLANK = 4.0
#: State whose size depends on the data.
LEARNT = ("vocabulary", "log_prior", "pieces")


class CTCEmbedding(Projector):
    """Vectors at the rate of text, on the LLM's own embedding manifold.

    A small network scores every frame against a blank and the LLM's input embeddings of the
    vocabulary: ``score(token) = scale * cos(W h, embedding(token) - mean) + prior(token)``,
    ``score(blank) = b . h + c``, with the log unigram frequency of the training transcripts as the
    prior.
    The posterior is trained by CTC (Graves et al., 2006; `toolkit.losses.EmbeddingCTC`), for which
    no LLM body is needed. Frames whose best symbol is the blank are dropped; the others become
    posterior-weighted averages of the LLM's embeddings. No parameter depends on the size of the
    vocabulary, so it may grow.

    ``aux`` holds ``ctc_log_probs`` (A, T, V + 1) float32, column 0 the blank and column ``i + 1``
    the token ``ctc_vocabulary[i]``; ``ctc_lengths`` (A,); ``ctc_vocabulary`` (V,) int64, ascending;
    and ``ctc_intermediate_log_probs`` with ``intermediate``.

    Parameters
    ----------
    input_dim, output_dim, input_layers, frame_rate
        See `Projector`.
    embeddings : str
        Source of the LLM's weights; only the vocabulary's rows of its embedding table are read.
    hidden_dim, num_layers, num_heads, ffn_dim, strides, kernel_size, dropout, convolution
        See `toolkit.projectors.ctc_network.CTCNetwork`.
    mask_time, mask_feature : (int, int)
        Masks on the encoder frames while training, see `SpecAugment`: number and widest.
    vocabulary : list of int, optional
        LLM token ids. Without it `fit` collects the tokens of the training transcripts.
    min_count : int
        Tokens rarer than this in the training transcripts are recognised as the two pieces their
        BPE merge joined, recursively: rare words stay writable and every unit is trained. 1 keeps
        the LLM's own tokens.
    centre : bool
        Score against embeddings less their mean: LLM embeddings share a large common direction.
    output : str
        ``"posterior"``: average weighted by the posterior over the tokens; ``"argmax"``: embedding
        of the best token (no gradient through the vectors); ``"straight_through"``: forward as
        ``argmax``, gradient of ``posterior`` (Bengio et al., 2013, arXiv:1308.3432).
    temperature : float
        Below 1 sharpens the average.
    top_k : int, optional
        Average over the k likeliest tokens only.
    collapse : bool
        Neighbouring frames with the same best token become one vector.
    residual : bool
        Add a linear map of the hidden frames, zero at the start.
    intermediate : bool
        Score the middle block too, for an auxiliary loss (Lee and Watanabe, 2021,
        arXiv:2102.03216).

    Example
    -------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> llm = tempfile.mkdtemp()
    >>> _ = open(f"{llm}/config.json", "w").write("{}")
    >>> save_file({"model.embed_tokens.weight": torch.randn(10, 6)}, f"{llm}/model.safetensors")
    >>> projector = CTCEmbedding(4, 6, embeddings=llm, hidden_dim=8, num_heads=2, vocabulary=[7, 3])
    >>> out = projector.materialise().eval()(torch.randn(1, 1, 9, 4), torch.tensor([9]))
    >>> tuple(out.aux["ctc_log_probs"].shape), out.aux["ctc_vocabulary"].tolist()
    ((1, 3, 3), [3, 7])
    >>> out.vectors.shape[2]
    6
    """

    exact_lengths = False

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings: str,
        hidden_dim: int = 256,
        num_layers: int = 2,
        num_heads: int = 4,
        ffn_dim: int = 1024,
        strides: Sequence[int] = (2, 2),
        kernel_size: int = 5,
        dropout: float = 0.1,
        convolution: int = 0,
        mask_time: Sequence[int] = (0, 0),
        mask_feature: Sequence[int] = (0, 0),
        vocabulary: Sequence[int] | None = None,
        min_count: int = 1,
        centre: bool = True,
        output: str = "posterior",
        temperature: float = 1.0,
        top_k: int | None = None,
        collapse: bool = True,
        residual: bool = False,
        intermediate: bool = False,
        input_layers: int = 1,
        frame_rate: float = 50.0,
    ) -> None:
        super().__init__(input_dim, output_dim, input_layers, frame_rate)
        if output not in OUTPUTS:
            raise ValueError(f"CTCEmbedding output {output!r}: use one of {', '.join(OUTPUTS)}")
        if temperature <= 0:
            raise ValueError(f"CTCEmbedding temperature must be positive, got {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"CTCEmbedding top_k must be at least 1, got {top_k}")
        self.embeddings = embeddings
        self.hidden_dim = hidden_dim
        self.strides = tuple(strides)
        self.network_arguments = {
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "ffn_dim": ffn_dim,
            "strides": self.strides,
            "kernel_size": kernel_size,
            "dropout": dropout,
            "convolution": convolution,
            "intermediate": intermediate,
        }
        self.augment = SpecAugment(mask_time, mask_feature)
        self.output = output
        self.temperature = temperature
        self.top_k = top_k
        self.collapse = collapse
        self.residual = residual
        self.vocabulary_is_given = vocabulary is not None
        self.min_count = min_count
        self.centre = centre
        ids = torch.tensor(sorted(set(vocabulary or ())), dtype=torch.int64)
        self.register_buffer("vocabulary", ids)
        self.register_buffer("log_prior", torch.zeros(len(ids)))
        self.register_buffer("pieces", torch.empty(0, 3, dtype=torch.int64))
        self.register_buffer("embedding_rows", torch.empty(0, output_dim), persistent=False)
        self.register_buffer("keys", torch.empty(0, output_dim), persistent=False)

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        with device:
            self.mix = LayerMix(self.input_layers)
            self.network = CTCNetwork(self.input_dim, **self.network_arguments)
            self.query = nn.Linear(self.hidden_dim, self.output_dim)
            self.blank = nn.Linear(self.hidden_dim, 1)
            nn.init.constant_(self.blank.bias, INITIAL_BLANK)
            self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
            if self.residual:
                self.residual_out = nn.Linear(self.hidden_dim, self.output_dim)
                nn.init.zeros_(self.residual_out.weight)
                nn.init.zeros_(self.residual_out.bias)
        self.to(dtype)
        self._read_embeddings()

    def _read_embeddings(self) -> None:
        """Put the learnt state beside the parameters, with the embeddings of its tokens."""
        if not hasattr(self, "network"):
            return
        target = self.query.weight
        self.vocabulary = self.vocabulary.to(target.device)
        self.pieces = self.pieces.to(target.device)
        self.log_prior = self.log_prior.to(target.device)
        if target.is_meta:
            self.embedding_rows = target.new_empty(len(self.vocabulary), self.output_dim)
            self.keys = torch.empty_like(self.embedding_rows)
            return
        from toolkit.weights import embedding_rows

        rows = embedding_rows(self.embeddings, self.vocabulary.cpu())
        if rows.shape[1] != self.output_dim:
            raise ValueError(
                f"the embeddings of {self.embeddings!r} have width {rows.shape[1]}, but "
                f"output_dim is {self.output_dim}: `embeddings` must name the LLM that reads the "
                "vectors"
            )
        self.embedding_rows = rows.to(target)
        rows = rows - rows.mean(0) if self.centre and len(rows) > 1 else rows
        self.keys = F.normalize(rows.float(), dim=-1).to(target.device)

    def fit(self, rows: Iterable[Row], tokenizer: Any) -> None:
        """Collect the tokens of the transcripts and their frequencies, unless they were given.

        Each text is tokenised as it stands in a prompt (the CTC targets) and with a space in front,
        so that its first word is also known inside a sentence. Tokens already known are kept.

        Parameters
        ----------
        rows : iterable of Row
        tokenizer : transformers.PreTrainedTokenizerBase

        Raises
        ------
        ValueError
            When ``min_count`` is above 1 and the tokenizer has no BPE merges.
        """
        if self.vocabulary_is_given:
            return
        texts = [row.text.strip() for row in rows if row.text.strip()]
        counts: Counter[int] = Counter()
        for text in texts:
            counts.update(transcript_tokens(tokenizer, text))
        for text in set(texts):
            for token in tokenizer(" " + text, add_special_tokens=False)["input_ids"]:
                counts.setdefault(token, 0)
        known = set(self.vocabulary.tolist())
        if self.min_count > 1:
            frequent = known | {token for token, n in counts.items() if n >= self.min_count}
            rare = {t: p for t, p in bpe_pieces(tokenizer).items() if t not in frequent}
            units = TranscriptUnits(rare)
            split: Counter[int] = Counter()
            for token, n in counts.items():
                for piece in units.split((token,)):
                    split[piece] += n
            counts = split
            self.pieces = torch.tensor([[t, *p] for t, p in sorted(rare.items())])
        ids = sorted(known | set(counts))
        self.vocabulary = torch.tensor(ids, dtype=torch.int64)
        prior = torch.tensor([counts[token] + 1.0 for token in ids]).log()
        self.log_prior = prior - prior.mean()
        self._read_embeddings()

    def transcript_units(self) -> TranscriptUnits:
        return TranscriptUnits({t: (a, b) for t, a, b in self.pieces.tolist()})

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        for name in LEARNT:
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, saved.clone())
        if len(self.log_prior) != len(self.vocabulary):
            self.log_prior = torch.zeros(len(self.vocabulary))
        self._read_embeddings()
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Posterior over blank and vocabulary.

        Parameters
        ----------
        hidden : Tensor (A, T, hidden_dim)

        Returns
        -------
        Tensor (A, T, V + 1), float32
            Log probabilities, column 0 the blank.
        """
        query = F.normalize(self.query(hidden).float(), dim=-1) * self.log_scale.float().exp()
        tokens = query @ self.keys.T + self.log_prior
        return torch.cat([self.blank(hidden).float(), tokens], dim=-1).log_softmax(-1)

    def aux(self, frames: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return self._score(frames, lengths)[1]

    def _score(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Hidden states (A, T, hidden_dim) and the scores made of them."""
        if not len(self.vocabulary):
            raise RuntimeError(
                "CTCEmbedding has no vocabulary: call fit(rows, tokenizer), load a trained "
                "checkpoint, or give `vocabulary`"
            )
        mixed = self.augment(self.mixed(frames, lengths), lengths)
        hidden, out_lengths, middle = self.network(mixed, lengths)
        log_probs = self.log_probs(hidden)
        aux = {
            "ctc_log_probs": log_probs,
            "ctc_lengths": out_lengths,
            "ctc_vocabulary": self.vocabulary,
        }
        if middle is not None:
            aux["ctc_intermediate_log_probs"] = self.log_probs(middle)
        return hidden, aux

    def forward(self, frames: Tensor, lengths: Tensor) -> ProjectorOutput:
        hidden, aux = self._score(frames, lengths)
        log_probs = aux["ctc_log_probs"]
        runs = find_runs(log_probs, aux["ctc_lengths"], self.collapse)
        vectors = self.run_vectors(log_probs, runs)
        if self.residual:
            spoken = hidden.flatten(0, 1).index_select(0, runs.frame)
            vectors = vectors + self.residual_out(runs.mean(spoken))
        stride = math.prod(self.strides)
        edges = torch.stack([runs.first, runs.last + 1], dim=1) * stride
        times = edges.minimum(lengths[runs.row][:, None]).float() / self.frame_rate
        return ProjectorOutput(runs.padded(vectors), runs.lengths, runs.padded(times), aux)

    def run_vectors(self, log_probs: Tensor, runs: Runs) -> Tensor:
        """Embedding of each run of frames.

        Parameters
        ----------
        log_probs : Tensor (A, T, V + 1), float32
        runs : Runs
            From `find_runs`.

        Returns
        -------
        Tensor (R, D_llm)
            In the dtype of the embeddings.
        """
        spoken = log_probs.flatten(0, 1).index_select(0, runs.frame)
        probs = runs.mean(spoken.exp())
        best = self.embedding_rows[probs[:, 1:].argmax(1)]
        if self.output == "argmax":
            return best
        weights = token_weights(probs, self.temperature, self.top_k)
        average = weights.to(self.embedding_rows.dtype) @ self.embedding_rows
        if self.output == "posterior":
            return average
        return average + (best - average).detach()

    def heard(self, output: ProjectorOutput, table: Tensor) -> list[list[int]]:
        """The best path of the posterior, blanks and repeats removed; see `Projector.heard`."""
        log_probs, lengths = output.aux["ctc_log_probs"], output.aux["ctc_lengths"]
        runs = find_runs(log_probs, lengths)
        # All frames of a run have the same best symbol. A silent utterance's only run is a blank.
        symbols = log_probs[runs.row, runs.first].argmax(1)
        heard: list[list[int]] = [[] for _ in range(len(lengths))]
        for row, symbol in zip(runs.row.tolist(), symbols.tolist(), strict=True):
            if symbol:
                heard[row].append(int(self.vocabulary[symbol - 1]))
        return heard

    def max_output_length(self, lengths: Tensor) -> Tensor:
        return strided_lengths(lengths, self.strides)
