import lzma

import numpy as np
import pytest

from steepest.train import baselines
from steepest.train.baselines import KneserNey, compute_baselines
from tests.reference import kneser_ney as reference


def words(seed: int, length: int, alphabet: int = 6) -> bytes:
    """Text with structure: a seeded Markov chain of order 2 over a few letters."""
    rng = np.random.default_rng(seed)
    table = np.cumsum(rng.dirichlet(np.full(alphabet, 0.3), size=(alphabet, alphabet)), axis=-1)
    out = [0, 1]
    for draw in rng.random(length):
        out.append(min(alphabet - 1, int(np.searchsorted(table[out[-2], out[-1]], draw))))
    return bytes(97 + symbol for symbol in out[2:])


@pytest.mark.parametrize("order", baselines.ORDERS)
def test_probabilities_equal_the_dictionary_reference(order):
    train = words(0, 400)
    plain, fast = reference.KneserNey(train, order), KneserNey(train)
    contexts = [train[i : i + 5] for i in range(0, 60, 7)] + [b"aabbz", b"\x00\xff\x00\xff\x00", b"zzzab", b"fffff"]
    for context in contexts:
        want = [plain.probability(context, symbol) for symbol in range(256)]
        np.testing.assert_allclose(fast.distribution(context, order=order), want, rtol=1e-12)


@pytest.mark.parametrize("order", baselines.ORDERS)
def test_bits_per_byte_equal_the_reference(order):
    train, val = words(1, 300), words(2, 40) + b"!?"
    plain = reference.KneserNey(train, order)
    whole = train + val
    places = range(len(train), len(whole))
    want = -np.mean([np.log2(plain.probability(whole[i - order : i], whole[i])) for i in places])
    assert KneserNey(train).bits_per_byte(val, train, order=order) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("train", [b"aaaaaa", b"abcdef", bytes(range(256)), words(3, 5000), b"ab" * 500])
def test_probabilities_sum_to_one_in_any_context(train):
    model = KneserNey(train)
    rng = np.random.default_rng(4)
    contexts = [rng.integers(0, 256, 5, dtype=np.uint8).tobytes() for _ in range(10)]
    contexts += [train[i : i + 5] for i in range(min(10, len(train) - 5))]
    for order in baselines.ORDERS:
        for context in contexts:
            p = model.distribution(context, order=order)
            assert p.min() > 0
            assert p.sum() == pytest.approx(1, abs=1e-12)


def test_a_context_never_seen_falls_back_to_the_shorter_one():
    model = KneserNey(words(5, 2000))
    np.testing.assert_array_equal(model.distribution(b"ZZabc", order=5), model.distribution(b"QQabc", order=5))
    assert not np.array_equal(model.distribution(b"abcab", order=5), model.distribution(b"bbcab", order=5))


def test_counting_in_blocks_changes_nothing(monkeypatch):
    train, val = words(6, 3000), words(7, 500)
    whole = KneserNey(train).bits_per_byte(val, train, order=5)
    monkeypatch.setattr(baselines, "_KEYS", 257)
    monkeypatch.setattr(baselines, "_QUERIES", 100)
    assert KneserNey(train).bits_per_byte(val, train, order=5) == pytest.approx(whole, rel=1e-12)


def test_a_model_approaches_the_entropy_of_a_source_it_can_express():
    rng = np.random.default_rng(8)
    text = rng.choice(np.frombuffer(b"abcd", dtype=np.uint8), 200_000, p=[0.5, 0.25, 0.125, 0.125])
    bits = KneserNey(text[:-20_000]).bits_per_byte(text[-20_000:], text[:-20_000], order=3)
    assert 1.73 < bits < 1.78  # the entropy is 1.75 bits; 20,000 draws have a standard error of 0.005


def test_all_baselines_with_their_names():
    train, val = words(9, 20_000), words(9, 22_000)[20_000:]
    found = compute_baselines(train, np.frombuffer(val, dtype=np.uint8))
    assert list(found) == ["xz -9", "xz -9 alone", "order-3 n-gram", "order-4 n-gram", "order-5 n-gram"]
    size = lambda text: len(lzma.compress(text, preset=9))  # noqa: E731
    assert found["xz -9"] == (size(train + val) - size(train)) * 8 / len(val)
    assert found["xz -9"] < found["xz -9 alone"]
    model = KneserNey(train)
    assert found["order-4 n-gram"] == model.bits_per_byte(val, train, order=4)


def test_long_texts_are_cut_as_documented(monkeypatch):
    monkeypatch.setattr(baselines, "TRAIN_LIMIT", 1000)
    monkeypatch.setattr(baselines, "XZ_LIMIT", 1000)
    monkeypatch.setattr(baselines, "VAL_LIMIT", 100)
    train, val = words(10, 3000), words(11, 300)
    assert compute_baselines(train, val) == compute_baselines(train[-1000:], val[:100])


def test_a_fingerprint_keeps_the_result(tmp_path, monkeypatch):
    train, val = words(12, 500), words(13, 50)
    first = compute_baselines(train, val, cache=str(tmp_path), fingerprint="f")
    monkeypatch.setattr(baselines, "_compute", None)
    assert compute_baselines(train, val, cache=str(tmp_path), fingerprint="f") == first


def test_bad_input():
    with pytest.raises(ValueError, match="at least 6 bytes of training text, got 5"):
        compute_baselines(b"abcde", b"abc")
    with pytest.raises(ValueError, match="at least 1 bytes of validation text, got 0"):
        compute_baselines(b"abcdef", b"")
    with pytest.raises(TypeError, match="uint8"):
        compute_baselines(np.zeros(10), b"abc")
    model = KneserNey(b"abcdefgh")
    with pytest.raises(ValueError, match="order"):
        model.probabilities(np.zeros(1, dtype=np.uint64), order=2)
    with pytest.raises(ValueError, match="at least 4 bytes, got 3"):
        model.distribution(b"abc", order=4)
