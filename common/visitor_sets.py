"""Exact sets of visitors as bytes, in the two forms that rollup rows hold.

A row of an event dimension holds a plain set: the visitors who have an event under the key. A visitor never leaves it.
Sets of several rows are united.

A row of a session dimension holds counts: how many of a visitor's sessions are under the key. A session can move to
another key (its exit page changes as it grows), so counts in a row can be negative. Counts of several rows are added,
and the visitors with a positive sum are in the set. Almost every count is 1, so a row is written as one set for each
distinct count.

A large set is a Roaring bitmap in its portable form: Lemire et al., "Roaring Bitmaps: Implementation of an Optimized
Software Library" (2018). A small set is a list: a byte that says how many bytes a number takes (1 to 4), then the
numbers, ascending, little-endian. Most rows are of few visitors (a page in an hour), and a bitmap of one visitor takes
18 bytes where a list takes 4. Every set has one encoding: the shorter one up to 64 visitors, a bitmap above.
"""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from pyroaring import BitMap

_RUNS_COOKIE = 12347
_U32 = struct.Struct("<I")
_WIDEST = 4
_MOST_LISTED = 64
"""The most visitors of a list. Sets of more are always bitmaps."""
_SHORTEST_BITMAP = 15
"""The bytes of a bitmap of one run."""
_TAGS = [bytes([width]) for width in range(_WIDEST + 1)]

HEAD_BYTES = 1_000
"""The first bytes of a set that cardinality_of reads: enough for visitor numbers up to 16 million."""

_GROUP = struct.Struct("<bB")
"""The head of a group of visitors with one count: the count, and the length of the set that follows, in bytes."""
_WIDE_GROUP = struct.Struct("<iI")
"""The same for larger numbers, after a byte that is 0. No group has the count 0, so the byte tells the heads apart."""


def encode_set(visitors: Collection[int] | BitMap) -> bytes:
    """Encodes a plain set of visitor numbers (0 to 2³²−1). Numbers may be repeated."""
    if len(visitors) == 1:
        # Most deltas are of one visitor.
        [visitor] = visitors
        width = _width(visitor)
        return _TAGS[width] + visitor.to_bytes(width, "little")
    if len(visitors) > _MOST_LISTED:
        bitmap = visitors if isinstance(visitors, BitMap) else BitMap(visitors)
        if len(bitmap) > _MOST_LISTED:
            return _encode_bitmap(bitmap)
        visitors = bitmap
    return _encode_few(sorted({*visitors}))


def _encode_few(numbers: list[int]) -> bytes:
    if not numbers:
        return _encode_bitmap(BitMap())
    width = _width(numbers[-1])
    listed = _TAGS[width] + b"".join([number.to_bytes(width, "little") for number in numbers])
    if len(listed) <= _SHORTEST_BITMAP:
        return listed
    return min(listed, _encode_bitmap(BitMap(numbers)), key=len)


def _encode_bitmap(bitmap: BitMap) -> bytes:
    bitmap.run_optimize()
    return bitmap.serialize()


def _width(number: int) -> int:
    """How many bytes the number takes."""
    return (number.bit_length() + 7) // 8 or 1


def _few(row: bytes) -> Sequence[int] | None:
    """The visitors of a set in the form of a list; None for a bitmap, which begins with 0x3A or 0x3B."""
    match row[0]:
        case 1:
            return row[1:]
        case 2:
            return [low | high << 8 for low, high in zip(row[1::2], row[2::2], strict=True)]
        case 3:
            return [a | b << 8 | c << 16 for a, b, c in zip(row[1::3], row[2::3], row[3::3], strict=True)]
        case 4:
            return struct.unpack(f"<{len(row) // 4}I", row[1:])
        case _:
            return None


def cardinality_of(head: bytes) -> int | None:
    """How many visitors a plain set holds, read from its first HEAD_BYTES; None if they are not enough.

    They hold every list as a whole. The head of a serialised Roaring bitmap has the cardinality of each of its
    containers: see "Roaring bitmap format specification", RoaringFormatSpec.
    """
    if head[0] <= _WIDEST:
        return (len(head) - 1) // head[0]
    (cookie,) = _U32.unpack_from(head)
    if cookie & 0xFFFF == _RUNS_COOKIE:
        containers = (cookie >> 16) + 1
        start = _U32.size + (containers + 7) // 8
    else:
        (containers,) = _U32.unpack_from(head, _U32.size)
        start = 2 * _U32.size
    end = start + 4 * containers
    # Of each container: the high bits its numbers share, and its cardinality less 1.
    return None if end > len(head) else sum(struct.unpack(f"<{2 * containers}H", head[start:end])[1::2]) + containers


def cardinality_sql(column: str) -> str:
    """An SQL expression of what `cardinality_of` tells of the plain set in a bytea column; 0 for NULL, and exact for
    sets of any size, of which it reads the heads only."""
    head = f"substring({column} FROM 1 FOR 8)"
    low_and_high = "get_byte(c.cardinalities, 4 * i + 2) + 256 * get_byte(c.cardinalities, 4 * i + 3)"
    return f"""CASE
        WHEN {column} IS NULL THEN 0
        WHEN get_byte({head}, 0) <= {_WIDEST} THEN (octet_length({column}) - 1) / get_byte({head}, 0)
        ELSE (
            SELECT coalesce(sum({low_and_high} + 1), 0)
            FROM (SELECT {head} AS bytes OFFSET 0) AS h
            CROSS JOIN LATERAL (SELECT CASE get_byte(h.bytes, 0) WHEN {_RUNS_COOKIE & 0xFF}
                THEN get_byte(h.bytes, 2) + 256 * get_byte(h.bytes, 3) + 1
                ELSE get_byte(h.bytes, 4) + 256 * get_byte(h.bytes, 5) + 65536 * get_byte(h.bytes, 6)
            END AS containers OFFSET 0) AS n
            CROSS JOIN LATERAL (SELECT substring({column} FROM 1 + CASE get_byte(h.bytes, 0)
                WHEN {_RUNS_COOKIE & 0xFF} THEN 4 + (n.containers + 7) / 8 ELSE 8
            END FOR 4 * n.containers) AS cardinalities OFFSET 0) AS c
            CROSS JOIN generate_series(0, n.containers - 1) AS i
        )
    END"""


def union_of_sets(rows: Iterable[bytes]) -> BitMap:
    """The union of several plain sets."""
    listed: list[int] = []
    bitmaps: list[BitMap] = []
    for row in rows:
        few = _few(row)
        if few is None:
            bitmaps.append(BitMap.deserialize(row))
        else:
            listed += few
    if listed or not bitmaps:
        bitmaps.append(BitMap(listed))
    return bitmaps[0] if len(bitmaps) == 1 else BitMap.union(*bitmaps)


def encode_counts(counts: Mapping[int, int]) -> bytes:
    """Encodes counts by visitor number. They are negative where sessions were taken back. Zeros are left out."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for visitor, count in counts.items():
        if count:
            groups[count].append(visitor)
    return b"".join(_encode_group(count, groups[count]) for count in sorted(groups))


def positive_of_counts(rows: Iterable[bytes]) -> BitMap:
    """The visitors whose counts in all rows add up to more than 0."""
    total = _sum_of_counts(rows)
    return BitMap.union(BitMap(), *(visitors for count, visitors in total.items() if count > 0))


def merge_sets(rows: Sequence[bytes]) -> bytes:
    """Merges several plain sets into one."""
    return rows[0] if len(rows) == 1 else encode_set(union_of_sets(rows))


def merge_counts(rows: Sequence[bytes]) -> bytes:
    """Merges several rows of counts into one."""
    if len(rows) == 1:
        return rows[0]
    total = _sum_of_counts(rows)
    return b"".join(_encode_group(count, total[count]) for count in sorted(total) if total[count])


def _sum_of_counts(rows: Iterable[bytes]) -> dict[int, BitMap]:
    total: defaultdict[int, BitMap] = defaultdict(BitMap)
    # Most groups are of few visitors. Those are added up as numbers first.
    numbers: defaultdict[int, int] = defaultdict(int)
    for row in rows:
        for count, body in _groups(row):
            few = _few(body)
            if few is None:
                _add_group(total, count, BitMap.deserialize(body))
            else:
                for visitor in few:
                    numbers[visitor] += count
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for visitor, count in numbers.items():
        groups[count].append(visitor)
    for count, visitors in groups.items():
        if count:
            _add_group(total, count, BitMap(visitors))
    return total


def _encode_group(count: int, visitors: Collection[int] | BitMap) -> bytes:
    body = encode_set(visitors)
    if -128 <= count <= 127 and len(body) <= 255:
        return _GROUP.pack(count, len(body)) + body
    return b"\0" + _WIDE_GROUP.pack(count, len(body)) + body


def _groups(row: bytes) -> Iterable[tuple[int, bytes]]:
    offset = 0
    while offset < len(row):
        head = _GROUP
        if not row[offset]:
            head, offset = _WIDE_GROUP, offset + 1
        count, size = head.unpack_from(row, offset)
        offset += head.size
        yield count, row[offset : offset + size]
        offset += size


def _add_group(total: defaultdict[int, BitMap], count: int, visitors: BitMap) -> None:
    """Adds `count` to each of the visitors. A visitor is in at most one group of `total`."""
    moved: list[tuple[int, BitMap]] = []
    for old in list(total):
        both = total[old] & visitors
        if both:
            total[old] -= both
            visitors = visitors - both
            moved.append((old + count, both))
    moved.append((count, visitors))
    for new, group in moved:
        if new:
            total[new] |= group
