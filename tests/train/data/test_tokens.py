import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from steepest.train.data import Batches, DataConfig, prepare
from steepest.train.data import tokens as module
from steepest.train.data.cache import cache_root, cached, file_digest


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def config(cache, *names, **settings) -> DataConfig:
    return DataConfig(paths=tuple(map(str, names)), cache=cache, **settings)


def text(seed: int, size: int) -> bytes:
    rng = np.random.default_rng(seed)
    words = [bytes(rng.integers(97, 123, rng.integers(1, 9), dtype=np.uint8)) for _ in range(300)]
    return b" ".join(words[i] for i in rng.integers(0, 300, size // 4))[:size]


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_bytes(text(0, 300_000))
    return tmp_path / "book.txt"


def entries(cache) -> list[str]:
    return sorted(name for name in os.listdir(cache) if not name.endswith(".lock"))


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_tokens_are_the_text_cut_in_two(cache, book, tokenizer):
    data = prepare(config(cache, book, tokenizer=tokenizer, vocab_size=500))
    whole = book.read_bytes()
    for ids, raw in ((data.train, data.train_text), (data.val, data.val_text)):
        assert isinstance(ids, np.memmap)
        assert not ids.flags.writeable
        assert ids.dtype == data.tokenizer.dtype
        assert data.tokenizer.decode(ids) == raw.tobytes()
        np.testing.assert_array_equal(ids, data.tokenizer.encode(raw.tobytes()))
    assert data.train_text.tobytes() + data.val_text.tobytes() == whole
    assert data.train_bytes + data.val_bytes == len(whole)
    assert data.val_bytes / len(whole) == pytest.approx(0.05, abs=0.001)
    assert data.val_text[0] == ord(" ")  # one document: cut at a blank
    assert data.bytes_per_token == pytest.approx(data.tokenizer.count_bytes(data.val) / len(data.val))
    assert f"train {len(data.train):,} tokens ({data.train_bytes:,} bytes)" in data.describe()
    assert Batches(data.train, context=16, batch=2, seed=0).batch(0)[0].shape == (2, 16)


def test_default_corpus_is_split_between_documents(cache):
    data = prepare(DataConfig(cache=cache), progress=False)
    assert data.documents == 233
    assert data.val_bytes / (data.train_bytes + data.val_bytes) == pytest.approx(0.05, abs=0.005)
    assert data.val_text[:24].tobytes() == b"Grover Cleveland, 1887\n\n"
    assert data.train_text[-2:].tobytes() == module.SEPARATOR
    # No sentence of some length of the validation text stands in the training text.
    train, val = data.train_text.tobytes(), data.val_text.tobytes()
    probes = range(0, len(val) - 200, 5003)
    assert not [place for place in probes if val[place : place + 200] in train]


def test_split_falls_at_a_document_if_one_is_near(tmp_path, cache):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_bytes(b"%02d " % i * 100)
    data = prepare(config(cache, tmp_path / "*.txt", val_fraction=0.1))
    assert data.documents == 40
    assert data.val_text[:3].tobytes() == b"36 "
    assert data.val_bytes == 4 * 300 + 3 * len(module.SEPARATOR)


def test_smallest_texts(tmp_path, cache):
    (tmp_path / "a.txt").write_bytes(b"ab")
    data = prepare(config(cache, tmp_path / "a.txt"))
    assert (data.train_bytes, data.val_bytes) == (1, 1)
    (tmp_path / "b.txt").write_bytes(b"a")
    with pytest.raises(ValueError, match="got 1 bytes"):
        prepare(config(cache, tmp_path / "b.txt"))
    assert not [name for name in entries(cache) if "tmp" in name]


def test_bpe_learns_from_the_training_part_alone(tmp_path, cache):
    (tmp_path / "a.txt").write_bytes(b"apple pear " * 500 + b"zebrazebra " * 300)
    data = prepare(config(cache, tmp_path / "a.txt", tokenizer="bpe", vocab_size=300, val_fraction=0.4))
    tokens = [data.tokenizer.decode([i]) for i in range(256, data.tokenizer.vocab_size)]
    assert b" pear" in tokens
    assert not [token for token in tokens if b"z" in token]


def test_streamed_encoding_equals_encoding_at_once(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 100_000)
    content = text(1, 250_000) + "語".encode() * 60_000 + b"\xff\xfe" * 3000 + text(2, 90_000)
    (tmp_path / "a.txt").write_bytes(content)
    data = prepare(config(cache, tmp_path / "a.txt", tokenizer="bpe", vocab_size=400))
    np.testing.assert_array_equal(data.train, data.tokenizer.encode(data.train_text.tobytes()))


def test_second_time_reads_the_cache(cache, book, monkeypatch):
    settings = config(cache, book, tokenizer="bpe", vocab_size=300)
    first = prepare(settings)
    monkeypatch.setattr(module, "_write_text", None)
    monkeypatch.setattr(module.BPETokenizer, "train", None)
    second = prepare(settings)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(first.train, second.train)


def test_fingerprint_tells_texts_splits_and_tokenizers_apart(cache, book, tmp_path):
    same = tmp_path / "copy.txt"
    same.write_bytes(book.read_bytes())
    base = prepare(config(cache, book)).fingerprint
    assert prepare(config(cache, same)).fingerprint == base
    others = [
        prepare(config(cache, book, val_fraction=0.1)).fingerprint,
        prepare(config(cache, book, tokenizer="bpe", vocab_size=300)).fingerprint,
        prepare(config(cache, book, tokenizer="bpe", vocab_size=310)).fingerprint,
    ]
    book.write_bytes(book.read_bytes() + b" changed")
    others.append(prepare(config(cache, book)).fingerprint)
    assert len({base, *others}) == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_cache_is_built_again(cache, book, damage):
    settings = config(cache, book, tokenizer="bpe", vocab_size=300)
    want = np.array(prepare(settings).train)
    for entry in entries(cache):
        folder = os.path.join(cache, entry)
        path = os.path.join(folder, "text.bin" if entry.startswith("text") else "train.bin")
        if damage == "flip":
            with open(path, "r+b") as file:
                file.seek(1000)
                file.write(b"\x01\x02\x03\x04")
        elif damage == "truncate":
            os.truncate(path, 1000)
        elif damage == "remove":
            os.remove(path)
        else:
            with open(os.path.join(folder, "manifest.json"), "w") as file:
                file.write('{"files": [')
    np.testing.assert_array_equal(prepare(settings).train, want)


def test_the_digest_of_a_large_file_feels_its_length_ends_and_middle(tmp_path, monkeypatch):
    from steepest.train.data import cache as cache_module

    monkeypatch.setattr(cache_module, "_WHOLE", 1000)
    monkeypatch.setattr(cache_module, "_BLOCK", 100)
    path = tmp_path / "a"
    content = bytearray(text(3, 50_000))
    digests = set()
    for place in (None, 0, len(content) - 1, (len(content) - 100) * 31 // 63):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 1
        path.write_bytes(changed)
        digests.add(file_digest(path))
    path.write_bytes(content + b"x")
    digests.add(file_digest(path))
    assert len(digests) == 5


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_bytes(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cached(tmp_path, "entry", fail)
    assert entries(tmp_path) == []

    def work(folder):
        (folder / "whole").write_bytes(b"whole")
        return {"answer": 42}

    (tmp_path / "entry.tmp-killed").mkdir()  # what a killed process leaves
    assert cached(tmp_path, "entry", work).info == {"answer": 42}
    assert entries(tmp_path) == ["entry"]
    assert cached(tmp_path, "entry", fail).info == {"answer": 42}


CHILD = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without it
from steepest.train.data import DataConfig, prepare
name, cache = sys.argv[1:]
print("ready", flush=True)
data = prepare(DataConfig(paths=(name,), cache=cache, tokenizer="bpe", vocab_size=300))
print(json.dumps([data.fingerprint, len(data.train)]))
"""


def start(book, cache, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(book), cache]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(("sent", "leaves"), [(signal.SIGINT, False), (signal.SIGKILL, True)])
def test_an_interrupt_leaves_no_entry_half_written(tmp_path, cache, sent, leaves):
    large = tmp_path / "large.txt"
    large.write_bytes(text(4, 1_000_000) * 20)
    child = start(large, cache)
    deadline = time.monotonic() + 60
    while not (os.path.isdir(cache) and any(".tmp-" in name for name in entries(cache))):
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate()
        time.sleep(0.001)
    while child.poll() is None:
        assert time.monotonic() < deadline
        child.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # An interrupt that falls into a finalizer is swallowed by Python, and the user presses the keys again; not
            # sooner, as a second interrupt may end the cleaning up after the first.
            child.wait(timeout=2)
    child.communicate()
    assert child.returncode != 0
    left = [name for name in entries(cache) if ".tmp-" in name]
    assert leaves or not left
    large.write_bytes(large.read_bytes()[:100_000])
    data = prepare(config(cache, large, tokenizer="bpe", vocab_size=300))
    assert data.tokenizer.decode(data.train) == data.train_text.tobytes()


def test_two_processes_at_once_get_the_same(book, cache):
    children = [start(book, cache) for _ in range(3)]
    results = []
    for child in children:
        out, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
        results.append(json.loads(out.splitlines()[-1]))
    assert results[0] == results[1] == results[2]
    assert len(entries(cache)) == 2


def test_a_full_disk_is_one_clear_error(book, cache):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    _, error = (child := start(book, cache, preexec_fn=limit)).communicate(timeout=60)
    assert child.returncode != 0
    assert "ValueError: cannot write the cache folder" in error
    assert "data.cache" in error
    assert entries(cache) == []


def test_an_unwritable_cache_folder_is_one_clear_error(tmp_path, book):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot write the cache folder .*name another one"):
        prepare(config(str(tmp_path / "file" / "cache"), book))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everything")
def test_permissions(tmp_path, book):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot write the cache folder"):
        prepare(config(str(tmp_path / "locked"), book))
    book.chmod(0)
    with pytest.raises(PermissionError):
        prepare(config(str(tmp_path / "cache"), book))


def test_an_error_of_the_users_file_is_not_blamed_on_the_cache(tmp_path, cache):
    (tmp_path / "a.txt").write_bytes(b"fine " * 400_000 + b"\0")
    with pytest.raises(ValueError, match=r"a\.txt: expected text, got a binary"):
        prepare(config(cache, tmp_path / "a.txt"))
    assert entries(cache) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root(None) == tmp_path / "steepest"
    assert cache_root("elsewhere").name == "elsewhere"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/of/someone")
    assert str(cache_root(None)) == "/home/of/someone/.cache/steepest"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"paths": "a.txt"}, "list of file names"),
        ({"paths": ("",)}, "list of file names"),
        ({"column": ""}, "empty one"),
        ({"tokenizer": "words"}, "one of bytes, bpe, got 'words'"),
        ({"vocab_size": 256}, "257 to 1000000, got 256"),
        ({"val_fraction": 0.0}, "above 0"),
        ({"val_fraction": 0.6}, "at most 0.5"),
        ({"val_fraction": float("nan")}, "above 0"),
    ],
)
def test_config_refuses_what_makes_no_sense(settings, match):
    with pytest.raises(ValueError, match=match):
        DataConfig(**settings)


def test_a_list_of_paths_becomes_a_tuple():
    assert DataConfig(paths=["a", "b"]).paths == ("a", "b")  # type: ignore[arg-type]
