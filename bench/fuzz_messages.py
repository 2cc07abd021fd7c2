"""Random messages: typed ones with sane and wild values of every field, and bytes that may be no message at all."""

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_WILDNESS = (0.0, 0.05, 0.3, 0.9)
"""How likely a value of a message is a wild one; drawn once for each message."""
_SET = 0.75
"""How likely a field is set."""
_DEEPEST = 6
_DEEP_STRUCT = 120
"""Levels of a Struct in a Struct; protobuf reads a hundred."""
_LONGEST = 100_000

_INTEGERS = (0, 1, -1, 7, 499, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1)
_NUMBERS = (0.0, -0.0, 0.1, -1e308, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 2.0**53 + 2)
_TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\n\r\t",
    "%s%n%d",
    "'; DROP TABLE events; --",
    "\\N",
    "\ufeff",
    "\u202e\u0301\u0301",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "../../etc/passwd",
    "{}",
    "null",
    "NaN",
    "-1",
    "9" * 400,
    "a" * 257,
    "ü" * 513,
    "x" * 5_000,
    "\U0010ffff" * 3_000,
)
_BOUNDS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Maker:
    """Makes messages of any type. `words` gives sane texts by the name of the field, and `seconds` sane instants."""

    def __init__(self, rng: random.Random, words: Mapping[str, Sequence[str]], seconds: tuple[int, int]) -> None:
        self._rng = rng
        self._words = words
        self._seconds = seconds

    def typed(self, descriptor: Descriptor) -> Message:
        """A message with a value, sane or wild, in most of its fields."""
        made: Message = self._message(descriptor, self._rng.choice(_WILDNESS), 0)
        return made

    def mutated(self, data: bytes) -> bytes:
        """The bytes after one to three changes."""
        for _ in range(self._rng.randint(1, 3)):
            data = self._rng.choice(_MUTATIONS)(data, self._rng)[: 4 * _LONGEST]
        return data

    def text(self, length: int) -> str:
        """A text of printable ASCII characters, of `length` at most."""
        return "".join(chr(self._rng.randint(33, 126)) for _ in range(self._rng.randint(1, length)))

    def _message(self, descriptor: Descriptor, wildness: float, depth: int) -> Any:
        message: Any = GetMessageClass(descriptor)()
        if descriptor.full_name == "google.protobuf.Timestamp" and self._rng.random() >= wildness:
            message.seconds, message.nanos = self._rng.randint(*self._seconds), self._rng.randrange(10**6) * 1_000
            return message
        for field in descriptor.fields:
            if self._rng.random() < _SET:
                self._fill(message, field, wildness, depth)
        return message

    def _fill(self, message: Any, field: FieldDescriptor, wildness: float, depth: int) -> None:
        if field.message_type is not None and depth >= _DEEPEST:
            return
        wild = self._rng.random() < wildness
        if field.is_repeated:
            self._fill_many(
                message, field, wildness, depth, self._rng.choice((0, 1, 30, 600) if wild else (1, 1, 2, 3))
            )
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(self._message(field.message_type, wildness, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field, wild))

    def _fill_many(self, message: Any, field: FieldDescriptor, wildness: float, depth: int, count: int) -> None:
        values = getattr(message, field.name)
        if field.message_type is None:
            values.extend(self._scalar(field, self._rng.random() < wildness) for _ in range(count))
            return
        # Many elements with many elements each would make messages that nobody can send.
        for _ in range(count if depth == 0 else min(count, 3)):
            made: Any = self._message(field.message_type, wildness, depth + (1 if count < 30 else 3))
            if not field.message_type.GetOptions().map_entry:
                values.add().CopyFrom(made)
            elif field.message_type.fields_by_name["value"].message_type is not None:
                values[made.key].CopyFrom(made.value)
            else:
                values[made.key] = made.value

    def _scalar(self, field: FieldDescriptor, wild: bool) -> Any:
        rng = self._rng
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice((0, 1, 16, 5_000)))
            known = self._words.get(field.name, ("a", "b", "c"))
            return rng.choice(_TEXTS) * rng.choice((1, 1, 1, 20)) if wild else rng.choice(known)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return rng.choice(_NUMBERS) if wild else rng.uniform(-10, 1_000)
        if field.enum_type is not None:
            known_numbers = [value.number for value in field.enum_type.values]
            return rng.choice((-1, 999, 2**31 - 1, -(2**31))) if wild else rng.choice(known_numbers)
        low, high = _BOUNDS[field.cpp_type]
        return max(low, min(high, rng.choice(_INTEGERS))) if wild else rng.randint(0, 100)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _delimited(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _repeated(data: bytes, rng: random.Random) -> bytes:
    return data * rng.choice((2, 3, 50))


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(changed), rng.choice((1, 1, 4, 32)))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _spliced(data: bytes, rng: random.Random) -> bytes:
    at, begin = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:at] + data[begin : begin + rng.choice((1, 10, 1_000))] * rng.choice((1, 2, 100)) + data[at:]


def _with_noise(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 8, 200))) + data[at:]


def _with_bad_text(data: bytes, rng: random.Random) -> bytes:
    """A field of a low number that holds no UTF-8: a lone byte, a surrogate, an overlong form."""
    bad = rng.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"caf\xe9", b"\xf4\x90\x80\x80"))
    return data + _delimited(rng.randint(1, 12), bad * rng.choice((1, 100)))


def _with_unknown_fields(data: bytes, rng: random.Random) -> bytes:
    number = rng.choice((15, 99, 19_000, 2**29 - 1))
    wild = rng.choice(_INTEGERS) % 2**64
    parts = (
        _varint(number << 3) + _varint(wild),
        _varint(number << 3 | 1) + struct.pack("<Q", wild),
        _delimited(number, rng.randbytes(rng.choice((0, 10, _LONGEST)))),
        _varint(number << 3 | 3) + _varint(number << 3 | 4),
        _varint(number << 3 | 5) + b"\x00\x00\x00\x00",
        # A group that does not end, a wire type that does not exist, the field number 0.
        _varint(number << 3 | 3),
        _varint(number << 3 | 7),
        b"\x00\x00",
    )
    return data + rng.choice(parts)


def _with_empty_elements(data: bytes, rng: random.Random) -> bytes:
    return data + bytes((rng.randint(1, 15) << 3 | 2, 0)) * rng.choice((1, 501, 20_000))


def _with_deep_structs(data: bytes, rng: random.Random) -> bytes:
    """The `properties` of an event (field 12 of an element of field 2), or any field, that holds Struct in Struct."""
    inner = b""
    for _ in range(rng.choice((5, 40, _DEEP_STRUCT, 10 * _DEEP_STRUCT))):
        # Struct.fields["a"] = Value.struct_value, or Value.list_value of one.
        inner = _delimited(1, _delimited(1, b"a") + _delimited(2, _delimited(5, inner)))
        if len(inner) > _LONGEST:
            break
    field = _delimited(rng.randint(1, 15), inner)
    return data + rng.choice((field, _delimited(rng.randint(1, 3), field)))


def _with_long_field(data: bytes, rng: random.Random) -> bytes:
    return data + _delimited(rng.randint(1, 12), b"x" * rng.choice((300, 9_000, _LONGEST)))


_MUTATIONS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _truncated,
    _repeated,
    _flipped,
    _spliced,
    _with_noise,
    _with_bad_text,
    _with_unknown_fields,
    _with_empty_elements,
    _with_deep_structs,
    _with_long_field,
)
