"""Exact sets of visitors as bytes, in the two forms that rollup rows hold.

An event dimension's row holds a plain set: a visitor is in it once it has an event there, and never
leaves. Sets of several rows are united.

A session dimension's row holds counts: how many of a visitor's sessions stand under the key. A session
may move from one key to another (its exit page changes as it grows), so a row can take visitors away:
counts of several rows are added, and the visitors with a positive sum are in the set. Almost every count
is 1, so a row is written as one Roaring bitmap per distinct count.

Roaring bitmaps: Lemire et al., "Roaring Bitmaps: Implementation of an Optimized Software Library" (2018).
"""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from pyroaring import BitMap

_ONE = struct.Struct("<IIHHIH")
"""A bitmap of one number: cookie, number of containers, high bits, cardinality − 1, offset, low bits."""
_ONE_COOKIE, _ONE_OFFSET = 12346, 16
_RUNS_COOKIE = 12347
_U32 = struct.Struct("<I")

HEAD_BYTES = 1_000
"""Enough for 16 million visitor numbers, and a small part of a large set."""

_GROUP = struct.Struct("<iI")
"""Head of a group of visitors with one count: the count, and the bytes of the bitmap that follows."""


def encode_set(visitors: Collection[int] | BitMap) -> bytes:
    """A plain set of visitor numbers (0 to 2³²−1), which may be repeated."""
    if len(visitors) == 1:
        # Most deltas are of one visitor: as the library writes it, but ten times as fast.
        [visitor] = visitors
        return _ONE.pack(_ONE_COOKIE, 1, visitor >> 16, 0, _ONE_OFFSET, visitor & 0xFFFF)
    bitmap = BitMap(visitors)
    bitmap.run_optimize()
    return bitmap.serialize()


def cardinality_of(head: bytes) -> int | None:
    """How many visitors a plain set holds, told from its first HEAD_BYTES; None if it needs more of them.

    The head of a serialised Roaring bitmap names the cardinality of each of its containers: see "Roaring bitmap
    format specification", RoaringFormatSpec.
    """
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


def union_of_sets(rows: Iterable[bytes]) -> BitMap:
    """The visitors of any of the rows."""
    singles: list[int] = []
    bitmaps: list[BitMap] = []
    for row in rows:
        single = _single(row)
        if single is None:
            bitmaps.append(BitMap.deserialize(row))
        else:
            singles.append(single)
    if singles or not bitmaps:
        bitmaps.append(BitMap(singles))
    return bitmaps[0] if len(bitmaps) == 1 else BitMap.union(*bitmaps)


def encode_counts(counts: Mapping[int, int]) -> bytes:
    """Counts by visitor number, negative where sessions were taken away; zeros are left out."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for visitor, count in counts.items():
        if count:
            groups[count].append(visitor)
    return b"".join(_encode_group(count, groups[count]) for count in sorted(groups))


def positive_of_counts(rows: Iterable[bytes]) -> BitMap:
    """The visitors whose counts in all the rows add up to more than 0."""
    total = _sum_of_counts(rows)
    return BitMap.union(BitMap(), *(visitors for count, visitors in total.items() if count > 0))


def merge_sets(rows: Sequence[bytes]) -> bytes:
    """One row of plain sets for several."""
    return rows[0] if len(rows) == 1 else encode_set(union_of_sets(rows))


def merge_counts(rows: Sequence[bytes]) -> bytes:
    """One row of counts for several."""
    if len(rows) == 1:
        return rows[0]
    total = _sum_of_counts(rows)
    return b"".join(_encode_group(count, total[count]) for count in sorted(total) if total[count])


def _sum_of_counts(rows: Iterable[bytes]) -> dict[int, BitMap]:
    total: defaultdict[int, BitMap] = defaultdict(BitMap)
    # Most groups are of one visitor: these are added up as numbers first.
    singles: defaultdict[int, int] = defaultdict(int)
    for row in rows:
        for count, body in _groups(row):
            single = _single(body)
            if single is None:
                _add_group(total, count, BitMap.deserialize(body))
            else:
                singles[single] += count
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for visitor, count in singles.items():
        groups[count].append(visitor)
    for count, visitors in groups.items():
        if count:
            _add_group(total, count, BitMap(visitors))
    return total


def _encode_group(count: int, visitors: Collection[int] | BitMap) -> bytes:
    body = encode_set(visitors)
    return _GROUP.pack(count, len(body)) + body


def _single(row: bytes) -> int | None:
    """The only visitor of a plain set as encode_set writes it; None if there are others or none."""
    if len(row) != _ONE.size:
        return None
    cookie, _, high, _, _, low = _ONE.unpack(row)
    return high << 16 | low if cookie == _ONE_COOKIE else None


def _groups(row: bytes) -> Iterable[tuple[int, bytes]]:
    offset = 0
    while offset < len(row):
        count, size = _GROUP.unpack_from(row, offset)
        offset += _GROUP.size
        yield count, row[offset : offset + size]
        offset += size


def _add_group(total: defaultdict[int, BitMap], count: int, visitors: BitMap) -> None:
    """Adds `count` to each of the visitors; a visitor stands in at most one group of `total`."""
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
