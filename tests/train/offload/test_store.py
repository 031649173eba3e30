"""What a disk can do to a store, and what the store says then."""

import errno
import os
import zlib

import numpy as np
import pytest

from steepest.train.offload import DamagedTileError, TileStore
from steepest.train.offload import store as store_module
from steepest.train.offload.buffers import BLOCK, Buffer, BufferPool
from steepest.train.offload.data_file import DataFile

SIZES = (BLOCK, 5 * BLOCK, 2 * BLOCK)


def filled(nbytes: int, seed: int) -> Buffer:
    buffer = Buffer(nbytes)
    buffer.view[:] = np.random.default_rng(seed).bytes(nbytes)
    return buffer


def new_store(folder, **settings) -> TileStore:
    store = TileStore(folder, **settings)
    for i, nbytes in enumerate(SIZES):
        store.add(f"tile number {i}", nbytes)
    store.open_new({"what": "a test"})
    return store


def content(store: TileStore) -> list[bytes]:
    found = []
    for tile in store.tiles:
        buffer = Buffer(tile.nbytes)
        store.read(tile, buffer.view)
        found.append(bytes(buffer.view))
    return found


def write_all(store: TileStore, seed: int) -> list[bytes]:
    buffers = [filled(tile.nbytes, seed + tile.number) for tile in store.tiles]
    for tile, buffer in zip(store.tiles, buffers, strict=True):
        store.write(tile, buffer.view)
    return [bytes(buffer.view) for buffer in buffers]


def again(folder) -> TileStore:
    store = TileStore(folder)
    for i, nbytes in enumerate(SIZES):
        store.add(f"tile number {i}", nbytes)
    assert store.committed() == {"what": "a test"}
    store.open_existing()
    return store


@pytest.mark.parametrize("direct", [None, False])
def test_what_was_committed_is_there_again_and_nothing_else(tmp_path, direct):
    store = new_store(tmp_path, direct=direct)
    for step in range(3):
        kept = write_all(store, 10 * step)
        store.commit(step, {"numbers": [step]})
        assert content(store) == kept
    newer = write_all(store, 99)
    assert content(store) == newer  # the step that is going on sees its own bytes
    store.close()
    store = again(tmp_path)
    assert (store.step, store.note) == (2, {"numbers": [2]})
    assert content(store) == kept
    store.close()


def test_rolling_back_gives_the_committed_bytes(tmp_path):
    store = new_store(tmp_path)
    kept = write_all(store, 0)
    store.commit(0)
    store.write(store.tiles[1], filled(SIZES[1], 77).view)
    store.rollback()
    assert content(store) == kept
    store.close()


def test_a_commit_may_hold_a_part_of_the_tiles(tmp_path):
    store = new_store(tmp_path)
    kept = write_all(store, 0)
    store.commit(0)
    for step in range(1, 4):
        buffer = filled(SIZES[step % 3], step)
        store.write(store.tiles[step % 3], buffer.view)
        kept[step % 3] = bytes(buffer.view)
        store.commit(step)
    store.close()
    store = again(tmp_path)
    assert content(store) == kept
    store.close()


@pytest.mark.parametrize("where", [0, 100, 3 * BLOCK])
def test_a_flipped_bit_is_found_and_named(tmp_path, where):
    store = new_store(tmp_path)
    write_all(store, 0)
    store.commit(0)
    tile = store.tiles[1]
    store.close()
    with (tmp_path / "tiles.bin").open("r+b") as file:
        file.seek(tile.offset + where)
        byte = file.read(1)[0]
        file.seek(tile.offset + where)
        file.write(bytes([byte ^ 4]))
    store = again(tmp_path)
    with pytest.raises(DamagedTileError, match=r"tile 1 \(tile number 1\) at byte \d+ does not match its checksum"):
        content(store)
    store.close()


def test_a_file_that_was_cut_off_is_found(tmp_path):
    data = DataFile(tmp_path / "file", direct=False)
    data.grow(4 * BLOCK)
    os.truncate(tmp_path / "file", 2 * BLOCK)
    with pytest.raises(OSError, match="cut off"):
        data.read(Buffer(4 * BLOCK).view, 0)
    data.close()


def test_short_writes_and_reads_are_continued(tmp_path, monkeypatch):
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: write(fd, view[: min(len(view), BLOCK)], at))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, [views[0][: min(len(views[0]), BLOCK)]], at))
    data, buffer = DataFile(tmp_path / "file"), filled(5 * BLOCK, 3)
    data.grow(5 * BLOCK)
    data.write(buffer.view, 0)
    back = Buffer(5 * BLOCK)
    data.read(back.view, 0)
    assert back.view == buffer.view
    data.close()


def test_a_disk_that_takes_a_part_of_a_block_is_full(tmp_path, monkeypatch):
    data = DataFile(tmp_path / "file")
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: 100)
    with pytest.raises(OSError, match="No space") as raised:
        data.write(Buffer(BLOCK).view, 0)
    assert raised.value.errno == errno.ENOSPC
    data.close()


def test_too_little_room_is_found_before_anything_is_written(tmp_path, monkeypatch):
    def refuse(descriptor, offset, nbytes):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    store = TileStore(tmp_path)
    store.add("large", 2**30)
    with pytest.raises(OSError, match=r"2.00 GiB more are needed and [\d.]+ GiB are free"):
        store.open_new({})
    store.close()


@pytest.mark.parametrize("lost", [1, 7, 40])
def test_a_half_written_line_of_the_journal_is_a_step_that_was_not_taken(tmp_path, lost):
    store = new_store(tmp_path)
    kept = write_all(store, 0)
    store.commit(0)
    write_all(store, 5)
    store.commit(1)
    store.close()
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-lost])
    store = again(tmp_path)
    assert store.step == 0
    assert content(store) == kept
    store.commit(1)
    store.close()
    assert len(journal.read_bytes().splitlines()) == 3


def test_a_damaged_heading_and_another_format_are_refused(tmp_path):
    store = new_store(tmp_path)
    store.close()
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    text = b'{"format":99}'
    for content_now, told in (
        (b"x" + whole, "first line does not match"),
        (b"%08x %s\n" % (zlib.crc32(text), text), "has format 99"),
    ):
        journal.write_bytes(content_now)
        store = TileStore(tmp_path)
        with pytest.raises(ValueError, match=told):
            store.committed()
        store.close()


def test_a_full_disk_at_a_commit_leaves_the_last_one(tmp_path, monkeypatch):
    store = new_store(tmp_path)
    kept = write_all(store, 0)
    store.commit(0)
    write_all(store, 5)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: write(fd, view[:9], at))
    with pytest.raises(OSError, match="No space"):
        store.commit(1)
    monkeypatch.undo()
    store.rollback()
    assert (store.step, content(store)) == (0, kept)
    store.close()
    store = again(tmp_path)
    assert (store.step, content(store)) == (0, kept)
    store.close()


def test_a_long_journal_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_LONGEST_JOURNAL", 1000)
    store = new_store(tmp_path)
    for step in range(30):
        kept = write_all(store, step)
        store.commit(step)
    assert (tmp_path / "journal.jsonl").stat().st_size < 1500
    store.close()
    store = again(tmp_path)
    assert (store.step, content(store)) == (29, kept)
    store.close()


def test_one_store_at_a_time(tmp_path):
    store = new_store(tmp_path)
    with pytest.raises(OSError, match="another process"):
        TileStore(tmp_path)
    store.close()
    new_store(tmp_path).close()


def test_a_pool_stays_within_its_limit_but_for_one_that_is_larger():
    pool = BufferPool(4 * BLOCK)
    first = pool.take(3 * BLOCK)
    pool.give(first)
    assert pool.take(3 * BLOCK) is first
    pool.give(first)
    second = pool.take(2 * BLOCK)  # the idle one has to go
    third = pool.take(2 * BLOCK)
    assert pool.most <= 4 * BLOCK
    pool.give(second)
    pool.give(third)
    pool.give(pool.take(9 * BLOCK))
    assert pool.most == 9 * BLOCK
