import gzip
import hashlib
import itertools
import json
import lzma
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steepest.train import corpus as shipped
from steepest.train.data import iter_documents
from steepest.train.data.corpus import iter_chunks
from steepest.train.data.sources import find_sources


def write(path, content: bytes = b"some text\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def read(*paths: str, column: str | None = None) -> list[bytes]:
    return list(iter_documents(paths, column=column))


def test_the_shipped_corpus_is_the_recorded_one():
    text = lzma.decompress(shipped.PATH.read_bytes())
    assert hashlib.sha256(text).hexdigest() == shipped.SHA256
    assert shipped.SHA256 in (shipped.PATH.parent / "NOTICE").read_text()
    assert shipped.PATH.stat().st_size < 3_000_000
    documents = list(iter_documents())
    assert len(documents) == 233
    assert documents[0].startswith(b"George Washington, 1790\n\nFellow-Citizens")
    assert len({document.split(b"\n")[0] for document in documents}) == 233
    assert not any(byte < 32 and byte != 10 for byte in set(text.replace(shipped.DOCUMENT_END, b"")))


def test_any_stretch_of_the_shipped_corpus_spans_two_centuries():
    years = [int(document.split(b"\n")[0][-4:]) for document in iter_documents()]
    for start in range(0, 233 - 12, 7):
        stretch = sorted(years[start : start + 12])
        assert stretch[0] < 1830
        assert stretch[-1] > 1980
        assert max(b - a for a, b in itertools.pairwise(stretch)) <= 60


def test_files_folders_and_globs_in_order(tmp_path):
    for name in ("b.txt", "a.md", "deep/er/c.py", "deep/d.rst", ".hidden.txt", ".git/e.txt", "image.png", "empty.txt"):
        write(tmp_path / name, b"" if name == "empty.txt" else name.encode())
    write(tmp_path / "binary.txt", b"a\0b")
    found = find_sources([str(tmp_path)])
    assert [source.path.name for source in found.files] == ["a.md", "b.txt", "d.rst", "c.py"]
    reasons = {".hidden.txt": "hidden", "image.png": "suffix", "empty.txt": "empty", "binary.txt": "binary"}
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in found.skipped), found.skipped
    assert read(str(tmp_path / "*.md"), str(tmp_path / "b.txt")) == [b"a.md", b"b.txt"]
    assert read(str(tmp_path / "**" / "*.py")) == [b"deep/er/c.py"]
    assert read(str(tmp_path / "deep*")) == [b"deep/d.rst", b"deep/er/c.py"]
    assert read(str(tmp_path / "image.png")) == [b"image.png"]  # named itself: any suffix


def test_a_file_named_twice_is_read_once(tmp_path):
    name = write(tmp_path / "a.txt")
    found = find_sources([name, str(tmp_path), str(tmp_path / "*.txt")])
    assert len(found.files) == 1
    assert found.skipped == (f"{name}: given twice",) * 2


def test_a_name_with_glob_characters_that_exists_is_that_file(tmp_path):
    assert read(write(tmp_path / "a[1].txt", b"x")) == [b"x"]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files(tmp_path, suffix, pack):
    text = b"word " * 500_000
    assert read(write(tmp_path / f"a.txt{suffix}", pack(text))) == [text]
    rows = b"".join(json.dumps({"t": f"row {i}"}).encode() + b"\n" for i in range(3))
    assert read(write(tmp_path / f"a.jsonl{suffix}", pack(rows)), column="t") == [b"row 0", b"row 1", b"row 2"]
    for name, column in ((f"cut.txt{suffix}", None), (f"cut.jsonl{suffix}", "t")):
        with pytest.raises(ValueError, match=r"cut.*cannot be unpacked"):
            read(write(tmp_path / name, pack(text)[:-20]), column=column)
    with pytest.raises(ValueError, match="empty"):
        read(write(tmp_path / f"none.txt{suffix}", pack(b"")))


def test_a_large_file_comes_in_small_chunks(tmp_path):
    name = write(tmp_path / "a.txt", b"0123456789" * 500_000)
    advanced = []
    chunks = list(iter_chunks(find_sources([name]).files, None, advanced.append))
    assert max(len(part) for part, _ in chunks) <= 1 << 20
    assert [ends for _, ends in chunks] == [False] * (len(chunks) - 1) + [True]
    assert sum(advanced) == 5_000_000


def test_table_columns(tmp_path):
    rows = [{"text": "one é", "n": 1}, {"text": None, "n": 2}, {"text": "", "n": 3}, {"text": "four", "n": 4}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    for name in ("a.jsonl", "a.json", "a.ndjson"):
        assert read(write(tmp_path / name, lines.encode()), column="text") == ["one é".encode(), b"four"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"), column="text") == ["one é".encode(), b"four"]


def test_a_large_parquet_file_is_read_in_batches(tmp_path):
    texts = [f"row {i}" for i in range(5000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    advanced = []
    source = find_sources([str(tmp_path / "a.parquet")], column="text").files
    assert [part.decode() for part, _ in iter_chunks(source, "text", advanced.append)] == texts
    assert len(advanced) == 5


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_column_lists_the_columns(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), path)
    else:
        write(path, b'{"body": "x", "title": "y"}\n')
    with pytest.raises(ValueError, match=r"column 'text', got the columns body, title"):
        read(str(path), column="text")
    with pytest.raises(ValueError, match=r"name of the column.*data\.column"):
        read(str(path))


def test_tables_that_do_not_hold_text(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(ValueError, match=r"expected text in the column 'text', got int"):
        read(str(tmp_path / "n.parquet"), column="text")
    with pytest.raises(ValueError, match=r"line 2: expected a JSON object"):
        read(write(tmp_path / "a.jsonl", b'{"text": "x"}\n{"text": \n'), column="text")
    with pytest.raises(ValueError, match=r"line 1: expected the column 'text', got a list"):
        read(write(tmp_path / "b.jsonl", b"[1]\n"), column="text")
    with pytest.raises(ValueError, match="pyarrow refuses"):
        read(write(tmp_path / "c.parquet", b"PAR1 and no more"), column="text")
    with pytest.raises(ValueError, match="got plain text; leave the column out"):
        read(write(tmp_path / "d.txt"), column="text")


def test_parquet_without_pyarrow_says_how_to_install(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"steepest\[parquet\]"):
        read(str(tmp_path / "a.parquet"), column="text")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt.*no such file"):
        read(str(tmp_path / "nothing.txt"))
    with pytest.raises(FileNotFoundError, match="matches nothing"):
        read(str(tmp_path / "*.txt"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder is empty"):
        read(str(tmp_path / "folder"))
    write(tmp_path / "folder/a.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png: not a suffix of text"):
        read(str(tmp_path / "folder"))


def test_files_that_are_not_text(tmp_path):
    with pytest.raises(ValueError, match="got an empty file"):
        read(write(tmp_path / "empty.txt", b""))
    with pytest.raises(ValueError, match=r"binary.*NUL"):
        read(write(tmp_path / "nul.bin", b"abc\0def"))
    with pytest.raises(ValueError, match=r"late.*NUL"):
        read(write(tmp_path / "late.txt", b"a" * 1_500_000 + b"\0"))
    with pytest.raises(ValueError, match=r"not UTF-8.*iconv"):
        read(write(tmp_path / "koi8.txt", "Здравствуй, мир. ".encode("koi8-r") * 20))
    latin = "Il y a fort longtemps, dans un pays lointain, vivait une reine très âgée. ".encode("latin-1") * 20
    assert read(write(tmp_path / "latin.txt", latin)) == [latin]  # kept as it is: a byte model can learn it
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular file"):
        read(str(tmp_path / "pipe"))
