import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.train.data import Batches, eval_windows
from steepest.train.data.batches import permute


@given(n=st.integers(1, 3000), key=st.integers(0, 2**70))
@settings(deadline=None)
def test_permute_is_a_permutation(n, key):
    assert sorted(permute(np.arange(n), n=n, key=key)) == list(range(n))


def test_permute_holds_for_lengths_beyond_memory():
    n = 10**15
    index = np.arange(0, n, n // 1000, dtype=np.int64)
    sent = permute(index, n=n, key=3)
    assert len(np.unique(sent)) == len(index)
    assert sent.min() >= 0
    assert sent.max() < n
    assert abs(sent.mean() / n - 0.5) < 0.04  # 1,000 uniform draws: standard error 0.009


def test_permute_spreads_every_index_evenly_over_keys():
    n, keys = 12, 6000
    sent = np.array([permute(np.arange(n), n=n, key=key) for key in range(keys)])
    counts = np.stack([np.bincount(sent[:, i], minlength=n) for i in range(n)])
    # Chi-squared with 11 degrees of freedom for each index: its mean is 11, above 40 once in 30,000.
    assert ((counts - keys / n) ** 2 / (keys / n)).sum(axis=1).max() < 40


def test_permute_leaves_no_order_between_neighbours():
    sent = permute(np.arange(10_000), n=10_000, key=1)
    assert abs(np.corrcoef(sent[1:], sent[:-1])[0, 1]) < 0.04  # standard error 0.01
    assert abs(np.corrcoef(sent, np.arange(10_000))[0, 1]) < 0.04


@pytest.mark.parametrize(("length", "context", "batch"), [(1000, 10, 7), (1003, 16, 8), (65, 32, 2), (33, 32, 1)])
def test_an_epoch_visits_each_window_once(length, context, batch):
    batches = Batches(np.arange(length), context=context, batch=batch, seed=5)
    offsets = set()
    for epoch in range(6):
        starts = np.sort(batches.starts(epoch * batches.windows, batches.windows))
        assert (np.diff(starts) == context).all()
        assert starts[0] >= 0
        assert starts[-1] + context < length
        assert starts[0] < max(context, length - context)
        offsets.add(int(starts[0]))
    assert len(offsets) > 1 or length == context + 1


def test_nearly_all_tokens_are_seen_in_an_epoch():
    batches = Batches(np.zeros(10_000, np.uint8), context=64, batch=4, seed=0)
    assert batches.windows * 64 > 10_000 - 2 * 64


def test_rows_are_windows_and_targets_the_next_tokens():
    tokens = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    batches = Batches(tokens, context=32, batch=6, seed=1)
    inputs, targets = batches.batch(3)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (6, 32)
    for row, start in enumerate(batches.starts(18, 6)):
        np.testing.assert_array_equal(inputs[row], tokens[start : start + 32])
        np.testing.assert_array_equal(targets[row], tokens[start + 1 : start + 33])


def test_a_step_depends_on_the_seed_and_the_step_alone():
    tokens = np.arange(4000)
    used = Batches(tokens, context=16, batch=8, seed=2)
    for step in range(50):
        used.batch(step)
    fresh = Batches(tokens, context=16, batch=8, seed=2)
    assert torch.equal(used.batch(61)[0], fresh.batch(61)[0])
    assert not torch.equal(fresh.batch(61)[0], fresh.batch(62)[0])
    assert not torch.equal(fresh.batch(0)[0], Batches(tokens, context=16, batch=8, seed=3).batch(0)[0])
    assert not torch.equal(fresh.batch(0)[0], fresh.batch(fresh.windows // 8 + 1)[0])


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_share_the_rows_of_one_process(world):
    batches = Batches(np.arange(400), context=16, batch=6, seed=2)  # 24 windows, so that batches cross epochs
    for step in range(9):
        parts = [batches.batch(step, rank, world)[0] for rank in range(world)]
        assert torch.equal(torch.cat(parts), batches.batch(step)[0])


def test_two_epochs_differ_in_order_and_offset():
    batches = Batches(np.arange(100_000), context=100, batch=1, seed=0)
    first, second = (batches.starts(epoch * batches.windows, batches.windows) for epoch in (0, 1))
    assert first[0] % 100 != second[0] % 100
    assert (first // 100 != second // 100).mean() > 0.9


def test_evaluation_windows_are_consecutive_and_fixed():
    tokens = np.arange(103, dtype=np.uint16)
    inputs, targets = eval_windows(tokens, 10)
    assert inputs.shape == (10, 10)
    np.testing.assert_array_equal(inputs.flatten(), np.arange(100))
    np.testing.assert_array_equal(targets.flatten(), np.arange(1, 101))
    assert eval_windows(tokens, 10, 35)[0].shape == (3, 10)
    assert eval_windows(tokens, 10, 5)[0].shape == (1, 10)
    assert eval_windows(tokens[:101], 10)[0].shape == (10, 10)
    assert eval_windows(tokens[:100], 10)[0].shape == (9, 10)


def test_bad_input_says_numbers_and_remedy():
    with pytest.raises(ValueError, match=r"at least context \+ 1 = 9 tokens, got 8; lower the context"):
        Batches(np.arange(8), context=8, batch=1, seed=0)
    with pytest.raises(ValueError, match=r"validation text is too short.*got 0.*val_fraction"):
        eval_windows(np.arange(0), 8)
    with pytest.raises(ValueError, match="context: expected at least 1"):
        Batches(np.arange(8), context=0, batch=1, seed=0)
    with pytest.raises(ValueError, match="batch: expected at least 1"):
        Batches(np.arange(8), context=1, batch=0, seed=0)
    batches = Batches(np.arange(80), context=8, batch=6, seed=0)
    with pytest.raises(ValueError, match="divides the batch of 6 rows"):
        batches.batch(0, rank=0, world=4)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        batches.batch(0, rank=2, world=2)
    with pytest.raises(ValueError, match="step: expected 0 or more"):
        batches.batch(-1)
