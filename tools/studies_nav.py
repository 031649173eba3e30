# SPDX-License-Identifier: Apache-2.0
"""Put every generated page of a study into the navigation, so that no list of them has to be edited."""

from pathlib import Path
from typing import Any


def on_config(config: Any, **_: Any) -> Any:
    """Replace the entry `Ledger: studies/index.md` by a section with the ledger and the studies' pages.

    Args:
        config: mkdocs' configuration.

    Returns:
        The same, with its navigation changed.
    """
    folder = Path(config["docs_dir"]) / "studies"
    studies = [f"studies/{path.name}" for path in sorted(folder.glob("*.md")) if path.stem != "index"]
    for entry in config["nav"]:
        if entry.get("Studies") == "studies/index.md":
            entry["Studies"] = [{"Ledger": "studies/index.md"}, *studies]
    return config
