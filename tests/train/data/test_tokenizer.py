import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.train.data import BPETokenizer, ByteTokenizer, iter_documents, load_tokenizer
from steepest.train.data.tokenizer import next_cut, pieces


@pytest.fixture(scope="module")
def english() -> bytes:
    return b"\n\n".join(document for document, _ in zip(iter_documents(), range(6), strict=False))


@pytest.fixture(scope="module")
def bpe(english) -> BPETokenizer:
    return BPETokenizer.train(pieces(english), 600)


@given(text=st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_any_bytes_come_back(bpe, text):
    for tokenizer in (ByteTokenizer(), bpe):
        ids = tokenizer.encode(text)
        assert ids.dtype == tokenizer.dtype
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids.tolist()) == text
        assert tokenizer.count_bytes(ids) == len(text)


@given(text=st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_any_characters_come_back_and_equal_the_library(bpe, text):
    ids = bpe.encode(text.encode())
    assert bpe.decode(ids) == text.encode()
    assert ids.tolist() == bpe.model.encode(text).ids


def test_cutting_into_pieces_changes_no_token(bpe, english):
    text = english[:200_000]
    assert len(pieces(text)) > 5
    assert bpe.encode(text).tolist() == bpe.model.encode(text.decode()).ids


@given(
    words=st.lists(st.sampled_from([b"a", b"Bc", b"don't", b"12", b".", b"\xc3\xa9", b" ", b"  ", b"\n", b"\t", b"!?"]))
)
@settings(deadline=None, max_examples=300)
def test_a_cut_never_falls_inside_what_the_pre_tokenizer_joins(bpe, words):
    import re

    from steepest.train.data import tokenizer as module

    text = b"".join(words)
    whole = bpe.model.encode(text.decode()).ids
    for match in re.finditer(module._SAFE_CUT, text):
        left, right = text[: match.start()], text[match.start() :]
        assert bpe.model.encode(left.decode()).ids + bpe.model.encode(right.decode()).ids == whole


def test_pieces_are_bounded_and_join_to_the_text():
    rng = np.random.default_rng(0)
    for text in (
        b"x" * 100_000,
        "語".encode() * 40_000,
        rng.integers(0, 256, 200_000, np.uint8).tobytes(),
        b" " * 70_000,
    ):
        cut = pieces(text)
        assert b"".join(cut) == text
        assert max(map(len, cut)) <= 1 << 15
    for piece in pieces("語".encode() * 40_000):
        piece.decode()
    assert next_cut(b"y" * 30_000 + b" " + b"y" * 30_000, 0) == 30_000


def test_bpe_shortens_english(bpe, english):
    assert bpe.vocab_size == 600
    assert len(bpe.encode(english[:100_000])) < 50_000
    assert bpe.dtype == np.uint16


def test_training_is_deterministic(english):
    first, second = (BPETokenizer.train(pieces(english[:100_000]), 400).model.to_str() for _ in range(2))
    assert first == second


def test_training_text_that_is_not_utf8_or_short_is_no_error():
    tokenizer = BPETokenizer.train([b"\xff\xfe abc abc", b""], 1000)
    assert 256 <= tokenizer.vocab_size < 270
    assert tokenizer.decode(tokenizer.encode(b"\xff abc")) == b"\xff abc"
    assert BPETokenizer.train([], 300).vocab_size == 256


def test_save_and_load(bpe, tmp_path):
    for tokenizer in (bpe, ByteTokenizer()):
        tokenizer.save(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert type(loaded) is type(tokenizer)
        assert loaded.vocab_size == tokenizer.vocab_size
        text = b"Fellow-Citizens of the Senate \xff"
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_the_saved_file_is_the_one_of_hugging_face(bpe, tmp_path):
    from transformers import PreTrainedTokenizerFast

    bpe.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "Gentlemen of the Senate, 1790 — the naïve view."
    assert theirs(text)["input_ids"] == bpe.encode(text.encode()).tolist()
    assert theirs.decode(bpe.encode(text.encode()).tolist()) == text


def test_bad_input(bpe, tmp_path):
    with pytest.raises(ValueError, match="tokens from 0 to 599, got 600 to 600"):
        bpe.decode([600])
    with pytest.raises(ValueError, match="tokens from 0 to 255, got -1"):
        ByteTokenizer().decode([-1, 3])
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ broken")
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(tmp_path)
    content = json.loads(bpe.model.to_str())
    del content["model"]["vocab"]["!"]
    content["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks 1 of the 256"):
        load_tokenizer(tmp_path)
