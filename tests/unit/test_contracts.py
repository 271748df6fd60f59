"""What every public projector and every public loss promises, whatever it does inside.

To cover another kind, add its cases to ``KINDS`` and its promises as tests below: a public class
without a case fails ``test_every_public_class_has_a_case``.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.component import count_parameters
from toolkit.data.example import Batch, Example
from toolkit.data.manifest import Row
from toolkit.losses.base import NEEDS, Loss, LossInput
from toolkit.projectors.base import Projector, ProjectorOutput
from toolkit.segments import Response

INPUT_DIM, OUTPUT_DIM, FRAME_RATE = 6, 8, 50.0


@dataclass(frozen=True)
class Kind:
    """Public classes of one package and, for each, the arguments to try."""

    package: str
    base: type
    cases: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def public(self) -> list[str]:
        """Names of the concrete public classes."""
        package = importlib.import_module(self.package)
        classes = ((name, getattr(package, name)) for name in package.__all__)
        return [
            name
            for name, item in classes
            if inspect.isclass(item)
            and issubclass(item, self.base)
            and not inspect.isabstract(item)
            if item is not self.base
        ]

    def parameters(self) -> list[Any]:
        """One pytest parameter a case."""
        return [
            pytest.param(
                getattr(importlib.import_module(self.package), name), arguments, id=f"{name}-{i}"
            )
            for name, cases in self.cases.items()
            for i, arguments in enumerate(cases)
        ]


LLM = "<llm>"  # replaced by a folder with a tiny embedding table
CTC = {
    "embeddings": LLM,
    "hidden_dim": 8,
    "num_heads": 2,
    "ffn_dim": 12,
    "vocabulary": [3, 5, 8, 9],
}
QFORMER = {"num_queries": 2, "hidden_dim": 8, "num_heads": 2, "ffn_dim": 12, "dropout": 0.0}

LAYERWISE = {"num_queries": 3, "num_heads": 2, "ffn_dim": 12, "dropout": 0.0}

PROJECTORS = Kind(
    "toolkit.projectors",
    Projector,
    {
        "FrameStackMLP": [
            {"stride": 5, "hidden_dim": 7},
            {"stride": 1, "hidden_dim": 7, "input_layers": 3},
        ],
        "ConvAdapter": [
            {"bottleneck_dim": 4},
            {"bottleneck_dim": 4, "strides": [3], "kernel_size": 4, "input_layers": 2},
        ],
        "SpeechMapper": [
            {"widths": [8, 10], "num_layers": 2, "num_heads": 2, "ffn_dim": 12},
            {
                "widths": [8, 10, 12],
                "strides": [1, 2, 3],
                "num_layers": 1,
                "num_heads": 2,
                "ffn_dim": 12,
                "norm_first": True,
                "positions": False,
                "output_layers": 1,
                "input_layers": 2,
            },
        ],
        "CTCEmbedding": [
            CTC,
            CTC | {"convolution": 3, "residual": True, "intermediate": True, "input_layers": 2},
            CTC | {"output": "argmax", "collapse": False},
            CTC | {"output": "straight_through", "top_k": 2, "temperature": 0.5, "strides": [2]},
        ],
        # A single query's self-attention has weights without gradient, as its docstring says.
        "WindowQFormer": [
            QFORMER,
            QFORMER | {"num_queries": 3, "window_seconds": 0.1, "input_layers": 2, "tail": "drop"},
        ],
        "LayerwiseQFormer": [
            LAYERWISE,
            LAYERWISE | {"input_layers": 3},
            LAYERWISE | {"input_layers": 2, "standardise": True},
            LAYERWISE | {"input_layers": 2, "num_layers": 1, "attn_implementation": "eager"},
        ],
    },
)
PAD = {"pad_token": "<pad>"}
LOSSES = Kind(
    "toolkit.losses",
    Loss,
    {
        "ResponseCrossEntropy": [{}, {"label_smoothing": 0.1}, {"tasks": ["b"]}],
        "BehaviourKL": [{}, {"direction": "reverse", "temperature": 2.0}, {"top_k": 2}],
        "EmbeddingCTC": [{}, {"intermediate_weight": 0.3}],
        "EmbeddingMSE": [
            PAD,
            PAD | {"positions": "content", "reduction": "sum_dim"},
            PAD | {"positions": "pads", "space": "whitened"},
        ],
        "EmbeddingCosine": [PAD, PAD | {"space": "centred"}],
        "EmbeddingContrast": [PAD, PAD | {"negatives": 4}],
    },
)
KINDS = [PROJECTORS, LOSSES]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.package)
def test_every_public_class_has_a_case(kind: Kind) -> None:
    assert set(kind.public()) == set(kind.cases)


# ---------------------------------------------------------------------------------------- projecto


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("llm")
    (folder / "config.json").write_text("{}")
    table = torch.randn(12, OUTPUT_DIM, generator=torch.Generator().manual_seed(1))
    save_file({"model.embed_tokens.weight": table}, folder / "model.safetensors")
    return folder


@pytest.fixture
def build(llm: Path):
    def build(cls: type[Projector], arguments: dict[str, Any]) -> Projector:
        torch.manual_seed(0)
        filled = {k: str(llm) if v == LLM else v for k, v in arguments.items()}
        return cls(INPUT_DIM, OUTPUT_DIM, frame_rate=FRAME_RATE, **filled)

    return build


def frames_of(projector: Projector, *lengths: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = (len(lengths), projector.input_layers, max(lengths), INPUT_DIM)
    return torch.randn(shape, generator=generator), torch.tensor(lengths)


projectors = pytest.mark.parametrize(("cls", "arguments"), PROJECTORS.parameters())


@projectors
def test_projector_is_lazy(cls, arguments, build) -> None:
    projector = build(cls, arguments)
    assert count_parameters(projector) == 0
    assert count_parameters(projector.materialise()) > 0


@projectors
def test_projector_counts_its_parameters_on_meta_without_weights(cls, arguments, build) -> None:
    on_meta = build(cls, {k: "/nowhere" if v == LLM else v for k, v in arguments.items()})
    on_meta.materialise("meta")
    assert all(p.is_meta for p in on_meta.parameters())
    assert count_parameters(on_meta) == count_parameters(build(cls, arguments).materialise())


@projectors
def test_projector_shapes_lengths_and_times(cls, arguments, build) -> None:
    projector = build(cls, arguments).materialise().eval()
    frames, lengths = frames_of(projector, 23, 1, 10)
    out = projector(frames, lengths)
    size = out.vectors.shape[1]
    assert out.vectors.shape == (3, size, OUTPUT_DIM)
    assert out.lengths.dtype == torch.int64
    assert size == int(out.lengths.max())
    assert (out.lengths >= 1).all()
    assert (out.lengths <= projector.max_output_length(lengths)).all()
    if projector.exact_lengths:
        assert torch.equal(out.lengths, projector.output_lengths(lengths))
    else:
        with pytest.raises(TypeError, match="max_output_length"):
            projector.output_lengths(lengths)
    for i, length in enumerate(out.lengths.tolist()):
        assert (out.vectors[i, length:] == 0).all()
    assert projector.has_times == (out.times is not None)
    if out.times is not None:
        assert out.times.shape == (3, size, 2)
        assert out.times.dtype == torch.float32
        for times, n, frame_count in zip(out.times, out.lengths, lengths, strict=True):
            flat = times[:n].flatten()
            assert (flat.diff() >= 0).all()
            assert (times[:n, 1] > times[:n, 0]).all()
            assert flat[-1] <= frame_count / FRAME_RATE + 1e-6
            assert (times[n:] == 0).all()


@projectors
def test_projector_rows_do_not_depend_on_batch_mates(cls, arguments, build) -> None:
    projector = build(cls, arguments).materialise().eval()
    frames, lengths = frames_of(projector, 23, 1, 10, 16)
    for i, length in enumerate(lengths.tolist()):
        frames[i, :, length:] = float("nan")  # what lies beyond a length must never be read
    together = projector(frames, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = projector(frames[i : i + 1, :, :length], lengths[i : i + 1])
        n = int(alone.lengths)
        assert int(together.lengths[i]) == n
        torch.testing.assert_close(together.vectors[i, :n], alone.vectors[0], atol=1e-5, rtol=0)
        if alone.times is not None:
            assert torch.equal(together.times[i, :n], alone.times[0])


@projectors
@torch.no_grad()
def test_projector_vectors_and_extras_alone_are_those_of_both(cls, arguments, build) -> None:
    projector = build(cls, arguments).materialise().eval()
    frames, lengths = frames_of(projector, 23, 9)
    both, alone = projector(frames, lengths), projector.vectors(frames, lengths)
    assert torch.equal(alone.vectors, both.vectors) and torch.equal(alone.lengths, both.lengths)
    assert (alone.times is None) == (both.times is None)
    assert both.times is None or torch.equal(alone.times, both.times)
    aux = projector.aux(frames, lengths)
    assert aux.keys() == both.aux.keys()
    for name, value in both.aux.items():
        assert torch.equal(aux[name], value), name


@projectors
def test_projector_gradient_reaches_every_trainable_parameter(cls, arguments, build) -> None:
    projector = build(cls, arguments).materialise()
    frames, lengths = frames_of(projector, 23, 9)
    frames[1, :, 9:] = float("nan")
    out = projector(frames, lengths)
    generator = torch.Generator().manual_seed(3)
    floats = [out.vectors, *(v for v in out.aux.values() if v.is_floating_point())]
    sum((v * torch.randn(v.shape, generator=generator)).sum() for v in floats).backward()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


@projectors
def test_projector_state_round_trip(cls, arguments, build) -> None:
    projector = build(cls, arguments).materialise().eval()
    other = build(cls, arguments).materialise().eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(copy.deepcopy(projector.state_dict()))
    frames, lengths = frames_of(projector, 12)
    assert torch.equal(projector(frames, lengths).vectors, other(frames, lengths).vectors)


@projectors
def test_projector_refuses_frames_of_another_encoder(cls, arguments, build) -> None:
    projector = build(cls, arguments).materialise()
    with pytest.raises(ValueError, match="input_dim"):
        projector(torch.zeros(1, projector.input_layers, 4, INPUT_DIM + 1), torch.tensor([4]))


# -------------------------------------------------------------------------------------------- loss


TABLE = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))


def make_loss(cls: type[Loss], arguments: dict[str, Any]) -> Loss:
    """A term that has looked up what it needs of the LLM."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    names = {"<pad>": 9, "</s>": 0} | {f"t{i}": i for i in range(1, 12) if i != 9}
    core = Tokenizer(models.WordLevel(names, unk_token="</s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    loss = cls(**arguments)
    loss.fit(SimpleNamespace(tokenizer=tokenizer, eos_ids=(0,), embedding_table=lambda: TABLE))
    return loss


def loss_input(items: list[int]) -> LossInput:
    """Two or more examples of fixed content; an item keeps its content in any batch."""
    responses = [(1, 2, 0), (3, 0)]
    transcripts = [(5,), (8, 5, 5)]
    generator = torch.Generator().manual_seed(4)
    logits = [torch.randn(len(r), 5, generator=generator) for r in responses]
    teacher = [torch.randn(len(r), 5, generator=generator) for r in responses]
    frames = [torch.randn(2, 6, 4, generator=generator) for _ in responses]
    examples = [Example(Row(t, f"/{t}.wav", 1.0, t, "en", "s"), task=t) for t in "ab"]
    aux = {
        "ctc_lengths": torch.tensor([3 + 3 * i for i in items]),
        "ctc_vocabulary": torch.tensor([3, 5, 8]),
    }
    clips = [torch.randn(3 + 3 * i, 4, generator=generator) for i, _ in enumerate(responses)]
    vectors = torch.nn.utils.rnn.pad_sequence([clips[i] for i in items], batch_first=True)
    for layer, name in enumerate(["ctc_log_probs", "ctc_intermediate_log_probs"]):
        scores = torch.stack([frames[i][layer] for i in items]).requires_grad_()
        aux[name + "_scores"] = scores
        aux[name] = scores.log_softmax(-1)
    return LossInput(
        Batch(
            examples=[examples[i] for i in items],
            plans=[[Response(responses[i])] for i in items],
            text_plans=[[] for _ in items],
            clip_of=[[n] for n in range(len(items))],
            transcript_ids=[transcripts[i] for i in items],
            vector_lengths=[len(clips[i]) for i in items],
        ),
        projected=ProjectorOutput(
            vectors.requires_grad_(), torch.tensor([len(clips[i]) for i in items]), aux=aux
        ),
        embedding_table=TABLE,
        logits=torch.cat([logits[i] for i in items]).requires_grad_(),
        teacher_logits=torch.cat([teacher[i] for i in items]).requires_grad_(),
        labels=torch.tensor([token for i in items for token in responses[i]]),
        label_item=torch.tensor([n for n, i in enumerate(items) for _ in responses[i]]),
    )


losses = pytest.mark.parametrize(("cls", "arguments"), LOSSES.parameters())


@losses
def test_loss_gives_one_float_sum_per_example_and_an_additive_count(cls, arguments) -> None:
    loss = make_loss(cls, arguments)
    assert loss.needs <= NEEDS
    values = loss(loss_input([0, 1]))
    assert values.shape == (2,)
    assert values.dtype == torch.float32
    assert values[1] > 0
    counts = [loss.count(loss_input(items).batch) for items in ([0], [1], [0, 1])]
    assert counts[0] + counts[1] == counts[2] > 0


@losses
def test_loss_of_an_example_does_not_depend_on_its_batch_mates(cls, arguments) -> None:
    loss = make_loss(cls, arguments)
    together = loss(loss_input([0, 1]))
    alone = torch.cat([loss(loss_input([0])), loss(loss_input([1]))])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    swapped = loss(loss_input([1, 0]))
    torch.testing.assert_close(swapped, alone.flip(0), atol=1e-6, rtol=0)


@losses
def test_loss_gradient_reaches_the_student_and_never_the_teacher(cls, arguments) -> None:
    inputs = loss_input([0, 1])
    make_loss(cls, arguments)(inputs).sum().backward()
    students = [
        inputs.logits,
        inputs.projected.vectors,
        inputs.projected.aux["ctc_log_probs_scores"],
    ]
    gradients = [s.grad for s in students if s.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() and (g != 0).any() for g in gradients)
    assert inputs.teacher_logits.grad is None


@losses
def test_loss_weight_may_be_a_schedule(cls, arguments) -> None:
    assert cls(weight=lambda progress: 2 * progress, **arguments).weight_at(0.25) == 0.5
    assert cls(weight=3, **arguments).weight_at(0.25) == 3.0
