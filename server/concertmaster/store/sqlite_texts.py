"""Texts in the file of a journal, each of them once, and the runs that refer to them."""

import json
import sqlite3
from collections.abc import Collection, Mapping

_KEEP = "INSERT OR IGNORE INTO texts VALUES (?, ?)"

_REFER = "INSERT OR IGNORE INTO run_texts VALUES (?, ?)"

_SELECT = """
    SELECT digest, text FROM texts WHERE digest IN (SELECT value FROM json_each(?))
"""

_DROP = "DELETE FROM texts WHERE digest NOT IN (SELECT digest FROM run_texts)"


def keep_texts(writer: sqlite3.Connection, run_id: str, texts: Mapping[str, str]) -> None:
    """Keep the texts that a run refers to, by digest."""
    writer.executemany(_KEEP, texts.items())
    writer.executemany(_REFER, [(run_id, digest) for digest in texts])


def kept_texts(reader: sqlite3.Connection, digests: Collection[str]) -> dict[str, str]:
    """Return by digest those of the texts that there are."""
    return dict(reader.execute(_SELECT, (json.dumps(list(digests)),)))


def drop_texts(writer: sqlite3.Connection) -> None:
    """Delete the texts that no run refers to any more."""
    writer.execute(_DROP)
