"""Interpolated modified Kneser-Ney with dictionaries, as slowly and plainly as it can be written."""

from collections import Counter


def discounts(counts):
    n = Counter(min(c, 5) for c in counts)
    out = {}
    for c in (1, 2, 3):
        if n[1] == 0 or n[c] == 0:
            out[c] = 0.5
        else:
            y = n[1] / (n[1] + 2 * n[2])
            out[c] = min(max(c - (c + 1) * y * n[c + 1] / n[c], 0.05), c)
    return out


class KneserNey:
    def __init__(self, text: bytes, order: int, longest: int = 5) -> None:
        # Every model learns from the bytes that have `longest` bytes before them.
        examples = [text[i - longest : i + 1] for i in range(longest, len(text))]
        self.tables = []
        for length in range(order + 1):
            if length == order:
                counts = Counter(gram[-length - 1 :] for gram in examples)
            else:
                counts = Counter(gram[1:] for gram in {gram[-length - 2 :] for gram in examples})
            self.tables.append((counts, discounts(counts.values())))

    def probability(self, context: bytes, symbol: int) -> float:
        p = 1 / 256
        for length, (counts, d) in enumerate(self.tables):
            h = context[len(context) - length :]
            followers = {g: c for g, c in counts.items() if g[:-1] == h}
            if followers:
                total = sum(followers.values())
                c = counts.get(h + bytes([symbol]), 0)
                gamma = sum(d[min(c, 3)] for c in followers.values()) / total
                p = (c - d[min(c, 3)] if c else 0.0) / total + gamma * p
        return p
