import pytest
import torch

from steepest.nn import KVCache, Llama, LlamaConfig, generate
from steepest.nn.generate import SamplingConfig, next_token_probabilities


@pytest.fixture
def model() -> Llama:
    config = LlamaConfig(
        vocab_size=50, width=32, layers=2, heads=4, kv_heads=2, context=16, init="normal", init_std=0.3
    )
    return Llama(config, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 1, 4, 1], [12]])
def test_cached_logits_equal_those_of_the_whole_text(model, chunks):
    model.requires_grad_(False).double()
    ids = torch.randint(50, (2, 12), generator=seeded())
    cache = KVCache(2, 2, 2, 8, 16, dtype=torch.float64)
    parts, start = [], 0
    for size in chunks:
        parts.append(model(ids[:, start : start + size], cache))
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=1e-10, atol=1e-12)


def test_a_full_cache_is_an_error(model):
    cache = KVCache(2, 1, 2, 8, 4)
    with pytest.raises(ValueError, match="room for 4"), torch.inference_mode():
        model(torch.zeros(1, 5, dtype=torch.long), cache)


def test_greedy_text_equals_argmax_without_cache(model):
    prompt = torch.tensor([1, 2, 3])
    written = list(generate(model, prompt, tokens=10, config=SamplingConfig(temperature=0)))
    ids = prompt.tolist()
    for token in written:
        assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)


def test_same_seed_same_text_also_past_the_context(model):
    prompt = torch.tensor([7])
    one, two = (list(generate(model, prompt, tokens=60, generator=seeded(4))) for _ in range(2))
    assert one == two
    assert len(one) == 60
    assert one != list(generate(model, prompt, tokens=60, generator=seeded(5)))


def test_generation_gives_the_model_back_in_its_mode_and_trainable(model):
    model.train()
    list(generate(model, torch.tensor([1]), tokens=3))
    assert model.training
    ids = torch.zeros(1, 4, dtype=torch.long)
    model(ids, targets=ids).mean().backward()


def test_top_k_and_top_p_keep_what_they_say():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    k2 = next_token_probabilities(logits, SamplingConfig(temperature=1, top_k=2, top_p=1))
    torch.testing.assert_close(k2, torch.tensor([[0.625, 0.375, 0, 0]]))
    p = next_token_probabilities(logits, SamplingConfig(temperature=1, top_p=0.79))
    torch.testing.assert_close(p, torch.tensor([[0.625, 0.375, 0, 0]]))
    p = next_token_probabilities(logits, SamplingConfig(temperature=1, top_p=0.81))
    torch.testing.assert_close(p, torch.tensor([[0.5, 0.3, 0.15, 0]]) / 0.95)
    cold = next_token_probabilities(logits, SamplingConfig(temperature=0.5, top_p=1))
    squares = torch.tensor([[0.25, 0.09, 0.0225, 0.0025]])
    torch.testing.assert_close(cold, squares / squares.sum())


def test_drawn_tokens_follow_the_distribution():
    logits = torch.tensor([1.0, 0.0, -1.0])
    p = next_token_probabilities(logits, SamplingConfig(temperature=1, top_p=1))
    drawn = torch.multinomial(p, 20000, replacement=True, generator=seeded())
    counts = torch.bincount(drawn, minlength=3) / 20000
    assert (counts - torch.softmax(logits, 0)).abs().max() < 4 * (0.25 / 20000) ** 0.5


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_bad_sampling_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplingConfig(**bad)


def test_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="empty"):
        next(generate(model, torch.tensor([], dtype=torch.long), tokens=1))
