"""The text LLM on tiny random models: one answer whatever the batch, the padding or the route."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from test_llms_prompt import GEMMA, QWEN3, build_tokenizer

from toolkit.component import count_parameters
from toolkit.interleavers import Response, Side, Span, Speech, Text, assemble
from toolkit.llms import CausalLM, Prompt, generation

COMMON = {
    "vocab_size": 406,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,  # pad is eos, as in SmolLM2
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}, QWEN3),
    "qwen3": (transformers.Qwen3Config, {"tie_word_embeddings": True}, QWEN3),
    # sliding window shorter than the inputs, soft cap, embeddings scaled in the lookup
    "gemma3": (
        transformers.Gemma3TextConfig,
        {
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 8,
        },
        GEMMA,
    ),
    "granite": (
        transformers.GraniteConfig,
        {"logits_scaling": 4.0, "embedding_multiplier": 3.0},
        QWEN3,
    ),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folders = {}
    for name, (config, extra, template) in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config(**{**COMMON, **extra}))
        model.save_pretrained(folder)
        build_tokenizer(template).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture(params=list(FAMILIES))
def llm(request, sources):
    return CausalLM(sources[request.param]).materialise()


def batch(llm, seed=0):
    """Three rows that share text at the start, with speech of different lengths and one without."""
    generator = torch.Generator().manual_seed(seed)

    def speech(n):
        return torch.randn(n, llm.dim, generator=generator) * llm.embedding_table().std()

    head = Text((10, 11, 12, 13, 14, 15), Span.TEMPLATE)
    plans = [
        [head, Speech(), Text((20, 21)), Response((30, 31, 32))],
        [head, Text((22,)), Speech(), Side((23, 24)), Speech(), Response((33, 34))],
        [head, Text((25, 26, 27)), Response((35, 36, 37, 38))],
    ]
    return plans, [[speech(3)], [speech(7), speech(2)], []]


def states(llm, plans, speech, side="right", **kwargs):
    return llm.states(assemble(plans, speech, llm.embed, padding_side=side), **kwargs)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_states_do_not_depend_on_batch_padding_or_prefix_reuse(llm):
    plans, speech = batch(llm)
    right = states(llm, plans, speech, use_prefix=False)
    assembled = assemble(plans, speech, llm.embed)
    assert assembled.prefix_ids == (10, 11, 12, 13, 14, 15)
    close(llm.states(assembled), right)
    close(states(llm, plans, speech, "left"), right)
    alone = [states(llm, [p], [s], use_prefix=False) for p, s in zip(plans, speech, strict=True)]
    close(torch.cat(alone), right)
    close(torch.cat([states(llm, [p], [s]) for p, s in zip(plans, speech, strict=True)]), right)


@torch.no_grad()
def test_prefix_is_run_once_at_batch_one(llm):
    plans, speech = batch(llm)
    shapes = []
    hook = llm.body.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    states(llm, plans, speech)
    states(llm, plans, speech, use_prefix=False)
    hook.remove()
    assert shapes == [(1, 6), (3, 14), (3, 20)]


def test_prefix_reuse_keeps_the_gradients(llm):
    plans, speech = batch(llm)
    grads = []
    for use_prefix in (False, True):
        inputs = [[vector.clone().requires_grad_() for vector in row] for row in speech]
        llm.logits(states(llm, plans, inputs, use_prefix=use_prefix)).logsumexp(-1).sum().backward()
        grads.append(torch.cat([vector.grad for row in inputs for vector in row]))
    assert grads[0].abs().max() > 1e-4
    close(grads[1], grads[0])
    assert all(p.grad is None for p in llm.parameters())


@torch.no_grad()
def test_logits_are_those_of_the_whole_model(llm):
    prompt = [Text((10, 11, 12)), Side((13, 14)), Text((15,))]
    response = (16, 17, 18)
    assembled = assemble([[*prompt, Response(response)]], [[]], llm.embed)
    logits = llm.logits(llm.states(assembled))
    ids = torch.tensor([[10, 11, 12, 13, 14, 15, *response]])
    assert logits.dtype == torch.float32
    close(logits, llm.model(ids).logits[0, 5:8])


@torch.no_grad()
def test_speech_made_of_transcript_embeddings_gives_the_text_logits(llm):
    prompt = Prompt("{instruction}\n{audio}")
    rendered = prompt.render(llm.tokenizer, {"instruction": "Repeat the text:"}, "Hello there")
    end = Response((40, *prompt.end_ids(llm.tokenizer)))
    first, last = rendered.slot
    heard = llm.embed(torch.tensor(rendered.ids[first:last]))
    text = assemble([[*rendered.as_text(), end]], [[]], llm.embed)
    plan = [*rendered.before(), Speech(), *rendered.after(), end]
    speech = assemble([plan], [[heard]], llm.embed)
    assert torch.equal(speech.inputs_embeds, text.inputs_embeds)
    assert torch.equal(
        llm.logits(llm.states(speech, use_prefix=False)),
        llm.logits(llm.states(text, use_prefix=False)),
    )
    expected = llm.model(torch.tensor([[*rendered.ids, *end.ids]])).logits[0, -3:-1]
    close(llm.logits(llm.states(speech, use_prefix=False)), expected)


def test_greedy_answers_do_not_depend_on_the_batch(llm):
    plans, speech = batch(llm)
    plans = [[s for s in plan if not isinstance(s, Response)] for plan in plans]
    together = llm.generate(
        assemble(plans, speech, llm.embed, padding_side="left"), max_new_tokens=12
    )
    alone = [
        llm.generate(assemble([p], [s], llm.embed, padding_side="left"), max_new_tokens=12)[0]
        for p, s in zip(plans, speech, strict=True)
    ]
    assert together == alone
    assert any(together)
    # Step by step with full logits, no cache: what greedy decoding means.
    ids = [i for segment in plans[2] for i in segment.ids]
    answer = []
    while len(answer) < 12:
        best = int(llm.model(torch.tensor([ids + answer])).logits[0, -1].argmax())
        if best in llm.eos_ids:
            break
        answer.append(best)
    assert together[2] == answer


def test_generation_stops_at_every_eos_id(llm):
    plan = [Text((10, 11, 12, 13))]
    assembled = assemble([plan], [[]], llm.embed, padding_side="left")
    answer = llm.generate(assembled, max_new_tokens=8)[0]
    assert len(answer) > 2
    stop = next(i for i, token in enumerate(answer) if token not in answer[:i] and i > 0)
    llm.eos_ids = (*llm.eos_ids, answer[stop])
    assert llm.generate(assembled, max_new_tokens=8)[0] == answer[:stop]


def test_generation_stops_behind_a_stop_string(llm, monkeypatch):
    """Each row at its own place, as transformers' own loop has it; the others go on."""
    assembled = assemble(
        [[Text((i, i + 1))] for i in range(10, 40)], [[]] * 30, llm.embed, padding_side="left"
    )
    free = llm.generate(assembled, max_new_tokens=8)
    texts = [[llm.tokenizer.decode(ids[: k + 1]) for k in range(len(ids))] for ids in free]
    # Something that a few rows say, somewhere in the middle, in letters.
    words = {text[-1] for said in texts for text in said[2:6] if text[-1:].isalpha()}
    stop = min(w for w in words if w.isascii())

    def end(said):
        return next((k + 1 for k, text in enumerate(said) if stop in text), len(said))

    expected = [ids[: end(said)] for ids, said in zip(free, texts, strict=True)]
    assert 0 < sum(a != b for a, b in zip(expected, free, strict=True)) < len(free)
    assert llm.generate(assembled, max_new_tokens=8, stop_strings=[stop]) == expected
    monkeypatch.setattr("toolkit.llms.generation.plain_attention", lambda config: False)
    assert llm.generate(assembled, max_new_tokens=8, stop_strings=[stop]) == expected


def test_sampling_is_seeded_and_leaves_the_global_state(llm):
    assembled = assemble([[Text((10, 11))]], [[]], llm.embed, padding_side="left")
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def draw(seed):
        return llm.generate(assembled, 12, do_sample=True, temperature=1.5, top_p=0.95, seed=seed)

    first = draw(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert draw(1) == first
    assert any(draw(seed) != first for seed in range(2, 6))


def test_generation_padding_and_the_common_prefix_change_no_answer(llm, monkeypatch):
    """Either side, with or without a shared prefix, and as transformers' own loop has it."""
    plans, speech = batch(llm)
    plans = [[s for s in plan if not isinstance(s, Response)] for plan in plans]
    left = assemble(plans, speech, llm.embed, padding_side="left")
    right = assemble(plans, speech, llm.embed)
    assert len(right.prefix_ids) == 6
    expected = generation.continue_by_transformers(llm, left, 12)
    assert llm.generate(left, 12) == expected
    assert any(expected)
    if llm.generation_padding == "left":
        with pytest.raises(ValueError, match="padding_side='left'"):
            llm.generate(right, 12)
        return
    widths = []
    hook = llm.body.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    assert llm.generate(right, 12) == expected
    hook.remove()
    prefix = len(right.prefix_ids)
    assert widths[:2] == [(1, prefix), (len(plans), right.inputs_embeds.shape[1] - prefix)]


def test_prompts_are_read_once_for_answers_and_for_given_responses(llm):
    """Scores after one reading are those of the whole rows, and a reading can be used again."""
    if llm.generation_padding == "left":
        pytest.skip("no reading is kept")
    plans, speech = batch(llm)
    responses = [plan[-1] for plan in plans]
    prompts = [plan[:-1] for plan in plans]
    for side in ("right", "left"):
        reading = generation.read(llm, assemble(prompts, speech, llm.embed, padding_side=side))
        first = generation.continue_rows(llm, reading, 8)
        scored = generation.response_nll(llm, reading, [r.ids for r in responses])
        assert generation.continue_rows(llm, reading, 8) == first
        whole = assemble(plans, speech, llm.embed)
        logits = llm.logits(llm.states(whole, use_prefix=False))
        nll = torch.nn.functional.cross_entropy(logits, whole.label_ids(), reduction="none")
        expected = torch.zeros(3).index_add(0, whole.label_positions()[0], nll)
        close(scored, expected)
    lone = generation.response_nll(llm, reading, [[7], [8], [9, 10]])
    again = generation.response_nll(llm, reading, [[7], [8, 11, 12], [9, 10]])
    close(lone[[0, 2]], again[[0, 2]])
    assert float(again[1]) > float(lone[1])


def test_rows_that_ended_cost_nothing_more(llm):
    if llm.generation_padding == "left":
        pytest.skip("transformers' own loop")
    rows = [[Text((10, 11, 12, 13))], [Text((14, 15, 16))], [Text((17, 18))]]
    assembled = assemble(rows, [[]] * 3, llm.embed)
    free = llm.generate(assembled, 8)
    stop = next(t for t in free[0] if t not in free[1])
    llm.eos_ids = (*llm.eos_ids, stop)
    sizes = []
    hook = llm.body.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    stopped = llm.generate(assembled, 8)
    hook.remove()
    assert stopped == [
        answer[: answer.index(stop)] if stop in answer else answer for answer in free
    ]
    assert sum(sizes[-7:]) < 3 * 7


def test_table_read_from_disk_is_the_models(llm):
    on_disk = CausalLM(llm.source)
    ids = torch.tensor([[3, 4], [5, 6]])
    assert torch.equal(on_disk.embedding_table(), llm.embedding_table())
    assert torch.equal(on_disk.embed(ids), llm.embed(ids))
    assert torch.equal(llm.embedding_table()[ids], llm.embed(ids))
    assert not on_disk.materialised


def test_files_alone_give_sizes_and_stops(llm):
    unbuilt = CausalLM(llm.source)
    assert (unbuilt.dim, unbuilt.vocab_size) == (32, 406)
    turn_end = "<end_of_turn>" if "gemma" in llm.source else "<|im_end|>"
    assert set(unbuilt.eos_ids) == {1, unbuilt.tokenizer.convert_tokens_to_ids(turn_end)}
    shapes = CausalLM(llm.source).materialise("meta")
    assert shapes.device.type == "meta"
    assert count_parameters(shapes) == count_parameters(llm)


def test_generation_config_eos_joins_the_stops(sources, tmp_path):
    llm = CausalLM(sources["llama"])
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        with open(f"{sources['llama']}/{name}") as source:
            (tmp_path / name).write_text(source.read())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert {7, 9} < set(CausalLM(str(tmp_path)).eos_ids)
    assert 7 not in llm.eos_ids


def test_frozen_by_default_and_in_evaluation_mode(llm):
    assert not any(p.requires_grad for p in llm.parameters())
    llm.train()
    assert llm.training and not any(m.training for m in llm.model.modules())
    llm.requires_grad_(True)
    assert all(p.requires_grad for p in llm.parameters())
    assert all(m.training for m in llm.model.modules())


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def test_lora_adapters(llm):
    plain = llm
    torch.manual_seed(1)
    adapted = CausalLM(llm.source, dtype="bfloat16", lora=LORA).materialise("cpu", "float32")
    plans, speech = batch(plain)
    with torch.no_grad():
        expected = states(plain, plans, speech)
        assert (states(adapted, plans, speech) - expected).abs().max() > 1e-3
        with adapted.text_mode():
            close(states(adapted, plans, speech), expected)
        assert (states(adapted, plans, speech) - expected).abs().max() > 1e-3
    # frozen adapters stay frozen through text_mode, open ones stay open
    assert not any(p.requires_grad for p in adapted.parameters())
    adapted.requires_grad_(True)
    with adapted.text_mode():
        pass
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert len(trained) == 2 * 2 * 3
    # a training LLM reuses no prefix, and its gradients are whole
    grads = []
    for use_prefix in (True, False):
        adapted.zero_grad()
        states(adapted, plans, speech, use_prefix=use_prefix).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in adapted.parameters() if p.requires_grad]))
    assert torch.equal(*grads) and grads[0].abs().max() > 0


def test_adapters_stay_float32_and_exact_when_the_llm_moves(sources):
    llm = CausalLM(sources["llama"], lora=LORA).materialise("cpu", "bfloat16")
    adapters = {n: p.clone() for n, p in llm.named_parameters() if "lora_" in n}
    llm.materialise("cpu", "float16")
    for name, p in llm.named_parameters():
        assert p.dtype == (torch.float32 if "lora_" in name else torch.float16)
        assert name not in adapters or torch.equal(p, adapters[name])


def test_gradient_checkpointing_changes_memory_alone(llm):
    plans, speech = batch(llm)
    grads, calls = [], []
    for checkpointing in (False, True):
        model = CausalLM(llm.source, gradient_checkpointing=checkpointing).materialise().train()
        hook = model.body.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
        inputs = [[vector.clone().requires_grad_() for vector in row] for row in speech]
        calls.clear()
        states(model, plans, inputs, use_prefix=False).square().sum().backward()
        assert len(calls) == 1 + checkpointing
        hook.remove()
        grads.append(torch.cat([vector.grad for row in inputs for vector in row]))
    close(*grads)


def test_weights_are_asked_for_before_use(sources):
    llm = CausalLM(sources["llama"])
    with pytest.raises(RuntimeError, match=r"call materialise\(\) first"):
        llm.logits(torch.zeros(1, 32))
    with pytest.raises(ValueError, match="unknown dtype"):
        CausalLM(sources["llama"], dtype="int3")


def test_chat_template_defaults_of_the_llm(sources):
    off = CausalLM(sources["qwen3"], chat_template_kwargs={"enable_thinking": False})
    prompt = Prompt("{audio}")
    rendered = prompt.render(off.tokenizer, {}, "Hello")
    assert off.tokenizer.decode(rendered.ids).endswith("assistant\n<think>\n\n</think>\n\n")
