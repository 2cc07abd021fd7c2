"""Server reflection with the comments of the protos, so that `grpcurl describe` shows them."""

from functools import cache
from pathlib import Path
from typing import Any

import footfall.type.v1.event_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet


@cache
def _commented_files() -> dict[str, FileDescriptorProto]:
    # <root>/footfall/type/v1/event_pb2.py → <root>/footfall/descriptors.binpb, written by the build.
    path = Path(footfall.type.v1.event_pb2.__file__).parents[2] / "descriptors.binpb"
    return {file.name: file for file in FileDescriptorSet.FromString(path.read_bytes()).file}


class _CommentedFile:
    """The part of a FileDescriptor that the reflection servicer uses, with comments; generated modules have none."""

    def __init__(self, file: FileDescriptor) -> None:
        self._file = file
        self.name = file.name
        self.dependencies = [_CommentedFile(dependency) for dependency in file.dependencies]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:
        commented = _commented_files().get(self.name)
        if commented is None:
            self._file.CopyToProto(proto)
        else:
            proto.CopyFrom(commented)


class CommentedPool:
    """The default descriptor pool, with comments in the files that it returns."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileByName(self, name: str) -> _CommentedFile:
        return _CommentedFile(self._pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> _CommentedFile:
        try:
            return _CommentedFile(self._pool.FindFileContainingSymbol(symbol))
        except KeyError:
            # The pool does not find RPCs by this method, and `grpcurl describe` asks for them by name.
            return _CommentedFile(self._pool.FindMethodByName(symbol).containing_service.file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)
