"""Orders, kept in SQLite."""

import sqlite3


def load(db: sqlite3.Connection, customer: str) -> list[tuple[int, str, int]]:
    """Return the orders of a customer: id, date, total in cents."""
    return db.execute(
        "SELECT id, placed_on, total FROM orders WHERE customer = ?", (customer,)
    ).fetchall()
