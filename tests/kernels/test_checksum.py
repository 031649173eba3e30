import hashlib

import numpy as np
import pytest

from steepest.kernels.checksum import checksum


def reference(data: bytes) -> int:
    """The docstring's formula with Python's integers."""
    padded = data + bytes(-len(data) % 4096)
    columns = []
    for column in range(512):
        a = column + 1
        for start in range(8 * column, len(padded), 4096):
            x = int.from_bytes(padded[start : start + 8], "little")
            b = (a ^ x) * 0x9E3779B97F4A7C15 % 2**64
            a = b ^ (b >> 32)
        columns.append(a.to_bytes(8, "little"))
    digest = hashlib.blake2b(b"".join(columns), digest_size=8, salt=len(data).to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


@pytest.mark.parametrize("length", [0, 1, 8, 4095, 4096, 4097, 12345])
def test_follows_the_formula(length):
    data = np.random.default_rng(length).bytes(length)
    assert checksum(data) == reference(data)
    assert checksum(bytearray(data)) == checksum(memoryview(data)) == checksum(data)


def test_any_changed_bit_any_moved_word_and_any_other_length_changes_it():
    rng = np.random.default_rng(0)
    data = bytearray(rng.bytes(3 * 4096))
    before = checksum(data)
    for bit in rng.choice(8 * len(data), 400, replace=False):
        data[bit // 8] ^= 1 << (bit % 8)
        assert checksum(data) != before
        data[bit // 8] ^= 1 << (bit % 8)
    rows = [bytes(data[i : i + 4096]) for i in range(0, len(data), 4096)]
    assert checksum(b"".join(rows[::-1])) != before
    assert checksum(bytes(data[8:]) + bytes(data[:8])) != before
    assert len({checksum(bytes(n)) for n in range(0, 9000, 7)}) == len(range(0, 9000, 7))


def test_two_changes_of_the_highest_bits_of_a_column_do_not_cancel():
    """In a plain polynomial modulo 2^64 they would."""
    data = bytearray(3 * 4096)
    before = checksum(data)
    data[7] ^= 128
    data[4096 + 7] ^= 128
    assert checksum(data) != before
