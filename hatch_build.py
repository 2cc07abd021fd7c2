"""Generates the protobuf code whenever the project is built or installed, editable installs too."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateProtobuf(BuildHookInterface):
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and their stubs beside each `.proto`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises RuntimeError when protoc refuses a file (it prints where and why)."""
        from grpc_tools import protoc

        root = Path(self.root, "protos")
        # What was generated from a proto that has gone must not stay importable.
        for stale in (*root.glob("footfall/**/*_pb2*.py"), *root.glob("footfall/**/*_pb2*.pyi")):
            stale.unlink()
        well_known = Path(protoc.__file__).parent / "_proto"
        # mypy-protobuf's plugins are scripts of the build environment, which need not be on PATH.
        scripts = [Path(entry) for entry in (*_bin_dirs(), Path(sys.executable).parent)]
        plugins = [
            f"--plugin={name}={path / name}"
            for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
            for path in scripts
            if (path / name).exists()
        ]
        status = protoc.main(
            [
                "protoc",
                f"-I{root}",
                f"-I{well_known}",
                *plugins,
                f"--python_out={root}",
                f"--grpc_python_out={root}",
                f"--mypy_out=quiet:{root}",
                f"--mypy_grpc_out=quiet:{root}",
                # Reflection serves these: unlike the generated modules they hold the comments.
                f"--descriptor_set_out={root / 'footfall' / 'descriptors.binpb'}",
                "--include_imports",
                "--include_source_info",
                *sorted(str(path) for path in root.glob("footfall/**/*.proto")),
            ]
        )
        if status:
            raise RuntimeError(f"protoc exited with {status}")


def _bin_dirs() -> list[Path]:
    import mypy_protobuf

    # <env>/lib/python3.x/site-packages/mypy_protobuf → <env>/bin
    package = Path(mypy_protobuf.__file__).resolve()
    return [parent / "bin" for parent in package.parents if (parent / "bin").is_dir()]
