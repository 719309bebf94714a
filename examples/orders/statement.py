"""The statement that a customer gets once a month."""

import sqlite3

from store import load


def statement(db: sqlite3.Connection, customer: str) -> str:
    """Return a line for each order and one for the sum."""
    orders = load(db, customer)
    lines = [f"{placed_on}  {total / 100:.2f}" for _, placed_on, total in orders]
    lines.append(f"Total  {sum(total for _, _, total in orders) / 100:.2f}")
    return "\n".join(lines)
