"""Any transformers causal LM: embeddings, states at label positions, logits, generation, LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit.component import Component, parse_dtype
from toolkit.llms import files, generation, templates

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from toolkit.interleavers.assemble import Assembled


class CausalLM(Component):
    """The text LLM, frozen unless a phase trains it.

    Construction reads nothing. Configuration and tokenizer come from the files of ``source`` when
    they are first asked for, the weights with `materialise`. With ``lora``, opening the module's
    parameters (``requires_grad_(True)``) opens the adapters alone.

    Parameters
    ----------
    source : str
        A folder with a transformers model, or a name that `toolkit.weights` resolves.
    dtype : str
        Dtype of the weights where `materialise` is not told one. LoRA adapters are always float32.
    lora : dict, optional
        Arguments of ``peft.LoraConfig``, e.g. ``{"r": 16, "target_modules": ["q_proj",
        "v_proj"]}``.
    chat_template_kwargs : dict, optional
        Defaults for the chat template of this LLM; those of a `Prompt` stand above them.
    attn_implementation : str
        As transformers names them: ``"sdpa"``, ``"eager"``, ``"flash_attention_2"``.
    gradient_checkpointing : bool
        Recompute the layers in the backward pass: less memory, more time, no prefix reuse.

    Example
    -------
    >>> import tempfile
    >>> from transformers import LlamaConfig
    >>> folder = tempfile.mkdtemp()
    >>> LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...             num_attention_heads=2).save_pretrained(folder)
    >>> llm = CausalLM(folder)
    >>> llm.dim, llm.vocab_size, llm.materialised
    (8, 16, False)
    >>> llm.materialise("meta").embedding_table().shape
    torch.Size([16, 8])
    """

    #: Arguments that touch the body alone: neither the tokenizer nor the embedding table.
    body_settings = frozenset({"lora", "attn_implementation", "gradient_checkpointing"})

    def __init__(
        self,
        source: str,
        dtype: str = "float32",
        lora: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        parse_dtype(dtype)
        self.source = str(source)
        self.dtype = dtype
        self.lora = dict(lora) if lora else None
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.model: nn.Module | None = None

    @cached_property
    def full_config(self) -> PretrainedConfig:
        """Configuration as published; one of a multimodal model holds that of its text model."""
        return files.config(self.source)

    @property
    def config(self) -> PretrainedConfig:
        """Configuration of the text model."""
        return self.full_config.get_text_config()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The LLM's own tokenizer, with this object's defaults for the chat template."""
        tokenizer = files.tokenizer(self.source)
        setattr(tokenizer, templates.DEFAULTS, self.chat_template_kwargs)
        return tokenizer

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, by generation settings, tokenizer and template."""
        ids = set(files.generation_eos(self.source, self.config))
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        if self.tokenizer.chat_template:
            ids.add(templates.end_of_turn(self.tokenizer, self.chat_template_kwargs)[-1])
        return tuple(sorted(ids))

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.config.hidden_size

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.config.vocab_size

    def materialise(
        self, device: str | torch.device = "cpu", dtype: str | torch.dtype | None = None
    ) -> CausalLM:
        """Load the weights; see `Component.materialise`. ``dtype=None`` takes the constructor's."""
        kept = [parameter.data for parameter in self._adapters()]
        super().materialise(device, self.dtype if dtype is None else dtype)
        adapters = self._adapters()
        for parameter, data in zip(adapters, kept or [p.data for p in adapters], strict=True):
            parameter.data = data.to(device, torch.float32)
        return self

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        model = files.load(self.source, self.full_config, device, dtype, self.attn_implementation)
        model.requires_grad_(False)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.lora:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(**{"task_type": "CAUSAL_LM", **self.lora})
            with device if device.type == "meta" else nullcontext():
                model = get_peft_model(model, config)
        self.model = model
        self.__dict__.pop("_disk_table", None)
        self.requires_grad_(False)
        self.eval()

    def requires_grad_(self, requires_grad: bool = True) -> CausalLM:
        """Open or close the parameters for training: with LoRA the adapters alone, else all.

        Parameters
        ----------
        requires_grad : bool

        Returns
        -------
        CausalLM
            ``self``.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for parameter in self._adapters() if self.lora else self.parameters():
            parameter.requires_grad_(requires_grad)
        return self.train(self.training)

    def train(self, mode: bool = True) -> CausalLM:
        """Set training mode; a frozen LLM's layers stay in evaluation mode, without dropout."""
        super().train(mode and self._trains())
        self.training = mode
        if self.gradient_checkpointing and self.model is not None:
            from transformers.modeling_layers import GradientCheckpointingLayer

            # The flag of the layer itself asks for recomputation, those inside it for dropout.
            for module in self.model.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = mode
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Look token embeddings up, as the LLM's body reads them.

        Before `materialise`, the table alone is read from the weight files.

        Parameters
        ----------
        ids : Tensor (...,), int64
            On any device.

        Returns
        -------
        Tensor (..., D)
        """
        if self.model is None:
            return nn.functional.embedding(ids, self._disk_table.to(ids.device))
        embedding = self.causal.get_input_embeddings()
        return embedding(ids.to(embedding.weight.device))

    def read_table(self, device: str | torch.device = "cpu") -> CausalLM:
        """Read the embedding table alone and put it on a device, for phases without the LLM's body.

        Parameters
        ----------
        device : str or torch.device

        Returns
        -------
        CausalLM
            ``self``; after `materialise` there is nothing to read.
        """
        if self.model is None:
            self._disk_table = self._disk_table.to(device)
        return self

    def embedding_table(self) -> Tensor:
        """Give the embeddings of all tokens, as `embed` returns them.

        Returns
        -------
        Tensor (V, D)
        """
        if self.model is None:
            return self._disk_table
        embedding = self.causal.get_input_embeddings()
        if type(embedding) is nn.Embedding:
            return embedding.weight
        # Some models (Gemma 3) scale inside the lookup.
        return embedding(torch.arange(embedding.num_embeddings, device=embedding.weight.device))

    def states(self, assembled: Assembled, use_prefix: bool = True) -> Tensor:
        """Run the body and keep the hidden states that predict a label.

        The ids that all rows start with are run once, at batch 1, and their keys and values shared,
        where that changes nothing: right padding, no LLM parameter that trains, no checkpointing.

        Parameters
        ----------
        assembled : Assembled
        use_prefix : bool
            False runs every row whole.

        Returns
        -------
        Tensor (N, D)
            Ordered as ``assembled.label_positions()``.
        """
        item, position = assembled.label_positions()
        reuse = use_prefix and assembled.prefix_ids and not self.gradient_checkpointing
        cache = None
        if reuse and not (self._trains() and torch.is_grad_enabled()):
            cache = generation.prefix_cache(self.body, assembled)
        skip = len(assembled.prefix_ids) if cache is not None else 0
        hidden = self.body(
            inputs_embeds=assembled.inputs_embeds[:, skip:],
            attention_mask=assembled.attention_mask,
            position_ids=assembled.position_ids[:, skip:],
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return hidden[item, position - skip]

    def logits(self, states: Tensor) -> Tensor:
        """Score the vocabulary, with the model's own final scaling or soft cap.

        Parameters
        ----------
        states : Tensor (N, D)

        Returns
        -------
        Tensor (N, V), float32
        """
        scores = self.causal.get_output_embeddings()(states).float()
        config = self.config
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            scores = scores * scale
        if (scale := getattr(config, "lm_head_multiplier", None)) is not None:  # Falcon-H1
            scores = scores * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            scores = scores / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
            scores = torch.tanh(scores / cap) * cap
        return scores

    @property
    def generation_padding(self) -> str:
        """Side on which `generate` wants its rows padded: ``"right"`` keeps their common prefix."""
        return "right" if generation.plain_attention(self.config) else "left"

    @torch.no_grad()
    def generate(
        self,
        assembled: Assembled,
        max_new_tokens: int = 64,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_strings: Sequence[str] = (),
    ) -> list[list[int]]:
        """Continue each row until a token of ``eos_ids``, or the end of a stop string.

        The ids that all rows start with run once, and a row that has ended costs nothing more. The
        checkpoint's own generation defaults (repetition penalty, top-k ...) are not applied. Models
        with other memories than full attention (sliding windows, recurrent states) go through
        transformers' own loop, without either saving.

        Parameters
        ----------
        assembled : Assembled
            Padded on the side that `generation_padding` names.
        max_new_tokens : int
        do_sample : bool
            False decodes greedily; a row's answer then does not depend on its batch mates.
        temperature, top_p : float
            For sampling.
        seed : int
            Of this call's draws; the global random state is left as it was.
        stop_strings : sequence of str
            A row ends behind the first of these as well.

        Returns
        -------
        list of list of int
            Without the stop token, but with the tokens of a stop string; a row of
            ``max_new_tokens`` ids that ends in none of these did not end by itself.

        Raises
        ------
        ValueError
            If the rows are padded on the right and the model needs them on the left.
        """
        if len(assembled.attention_mask) == 0:
            return []
        sampling = {"temperature": temperature, "top_p": top_p} if do_sample else None
        was_training = self.training
        self.eval()
        try:
            with generation.seeded(seed if do_sample else None, assembled.inputs_embeds.device):
                if generation.plain_attention(self.config):
                    reading = generation.read(self, assembled)
                    return generation.continue_rows(
                        self, reading, max_new_tokens, sampling, stop_strings
                    )
                return generation.continue_by_transformers(
                    self, assembled, max_new_tokens, sampling, stop_strings
                )
        finally:
            self.train(was_training)

    @contextmanager
    def text_mode(self) -> Iterator[CausalLM]:
        """Switch LoRA adapters off: inside, this is the text LLM as it was published."""
        if not self.lora or self.model is None:
            yield self
            return
        # peft opens adapters for training when it switches them back on, even those that were
        # frozen.
        trained = [parameter.requires_grad for parameter in self._adapters()]
        try:
            with self.model.disable_adapter():
                yield self
        finally:
            for parameter, requires_grad in zip(self._adapters(), trained, strict=True):
                parameter.requires_grad_(requires_grad)

    @property
    def causal(self) -> PreTrainedModel:
        """The transformers model itself, adapters peeled off."""
        if self.model is None:
            raise RuntimeError(f"{self.source}: weights are not loaded; call materialise() first")
        return self.model.get_base_model() if self.lora else self.model

    @property
    def body(self) -> nn.Module:
        """The layers without the head."""
        return self.causal.get_decoder()

    @cached_property
    def _disk_table(self) -> Tensor:
        return files.embedding_table(self.source, self.full_config, parse_dtype(self.dtype))

    def _adapters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if "lora_" in name] if self.lora else []

    def _trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())
