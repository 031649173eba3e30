# SPDX-License-Identifier: Apache-2.0
"""What a run is told about its data."""

from dataclasses import dataclass

_TOKENIZERS = ("bytes", "bpe")


@dataclass(frozen=True)
class DataConfig:
    """Which text a run learns, and how it is cut into tokens and into a training and a validation part.

    Attributes:
        paths: Files, folders or globs; empty for the corpus that comes with the package.
        column: Column that holds the text of JSON Lines and Parquet files; None for plain text.
        tokenizer: `"bytes"` (vocabulary 256) or `"bpe"` (byte-level BPE trained on the training part).
        vocab_size: Size of the BPE vocabulary, above 256; small data may fill less of it. Not used for bytes.
        val_fraction: Part of the text, counted from its end, that is kept for validation; above 0, at most 0.5.
        cache: Folder for the prepared tokens; None for the user's cache folder (`$XDG_CACHE_HOME/steepest` or
            `~/.cache/steepest`).

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> DataConfig(tokenizer="bpe", vocab_size=8192).val_fraction
        0.05
    """

    paths: tuple[str, ...] = ()
    column: str | None = None
    tokenizer: str = "bpe"
    vocab_size: int = 4096
    val_fraction: float = 0.05
    cache: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or any(not isinstance(path, str) or not path for path in self.paths):
            raise ValueError(
                f"data.paths: expected a list of file names, folders or globs, got {self.paths!r}; "
                'write paths = ["text/*.txt"], or leave it empty for the shipped corpus'
            )
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.column == "":
            raise ValueError("data.column: expected a column name, got an empty one; leave it out for plain text")
        if self.tokenizer not in _TOKENIZERS:
            raise ValueError(f"data.tokenizer: expected one of {', '.join(_TOKENIZERS)}, got {self.tokenizer!r}")
        if not 256 < self.vocab_size <= 1_000_000:
            raise ValueError(
                f"data.vocab_size: expected 257 to 1000000, got {self.vocab_size}; 4096 suits small models "
                "(a byte vocabulary is tokenizer = 'bytes')"
            )
        if not 0 < self.val_fraction <= 0.5:
            raise ValueError(f"data.val_fraction: expected above 0 and at most 0.5, got {self.val_fraction}; try 0.05")
