"""Small sets of visitors are lists; rows of counts have shorter heads (see common/visitor_sets.py).

Plain sets are not rewritten: a Roaring bitmap is still one of their two forms. The forms are implemented here once
more, so that a later change of them does not change this migration.
"""

import struct
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from alembic import op
from pyroaring import BitMap

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COUNTED = (11, 12)
_ROWS = 10_000

_PAGE = sa.text("""
SELECT site_id, interval, dimension, bucket_start, key, shard, visitors FROM rollup_shards
WHERE (site_id, interval, dimension, bucket_start, key, shard) > (:site, :interval, :dimension, :start, :key, :shard)
ORDER BY site_id, interval, dimension, bucket_start, key, shard LIMIT :rows
""")
_REPLACE = sa.text("""
UPDATE rollup_shards SET visitors = :visitors
WHERE site_id = :site AND interval = :interval AND dimension = :dimension AND bucket_start = :start AND key = :key
  AND shard = :shard
""")


def upgrade() -> None:
    _rewrite(lambda dimension, row: _short_heads(row) if dimension in _COUNTED else row)


def downgrade() -> None:
    _rewrite(lambda dimension, row: _long_heads(row) if dimension in _COUNTED else _bitmap(row))


def _rewrite(change: Callable[[int, bytes], bytes]) -> None:
    """Applies `change` to the visitors of every row and stores those that differ, 10,000 rows at a time."""
    names = ("site", "interval", "dimension", "start", "key", "shard")
    last: tuple[object, ...] = (-(2**31), 0, 0, "-infinity", "", 0)
    while rows := op.get_bind().execute(_PAGE, dict(zip(names, last, strict=True)) | {"rows": _ROWS}).fetchall():
        changed = []
        for *place, visitors in rows:
            if visitors is not None and (new := change(place[2], bytes(visitors))) != visitors:
                changed.append(dict(zip(names, place, strict=True)) | {"visitors": new})
        if changed:
            op.get_bind().execute(_REPLACE, changed)
        last = tuple(rows[-1][:-1])


def _short_heads(row: bytes) -> bytes:
    changed, at = b"", 0
    while at < len(row):
        count, size = struct.unpack_from("<iI", row, at)
        short = -128 <= count <= 127 and size <= 255
        changed += struct.pack("<bB", count, size) if short else b"\0" + struct.pack("<iI", count, size)
        changed += row[at + 8 : at + 8 + size]
        at += 8 + size
    return changed


def _long_heads(row: bytes) -> bytes:
    return b"".join(struct.pack("<iI", count, len(body)) + body for count, body in _bitmaps(row))


def _bitmaps(row: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(row):
        form, at = ("<bB", at) if row[at] else ("<iI", at + 1)
        count, size = struct.unpack_from(form, row, at)
        at += struct.calcsize(form) + size
        yield count, _bitmap(row[at - size : at])


def _bitmap(row: bytes) -> bytes:
    width = row[0]
    if width > 4:
        return row
    return bytes(BitMap(int.from_bytes(row[at : at + width], "little") for at in range(1, len(row), width)).serialize())
