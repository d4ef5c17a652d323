"""Generate cascade_serve/rpc/stubs from the wire contract; run it after every change of a .proto file.

Two things differ from what protoc writes by itself: the descriptors live in a pool of our own, so that another package
with the same protocol (tritonclient) can be imported beside ours, and imports go through the package, so that every
generated class can be found by its name, which pickling needs.

Usage: python protos/generate.py [--check]
"""

import argparse
import re
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
STUBS = PROTOS.parent / "cascade_serve" / "rpc" / "stubs"
PACKAGE = "cascade_serve.rpc.stubs"
MODULES = ("model_config_pb2", "grpc_service_pb2")
# The service lives in one file; the other's gRPC module would be empty.
FILES = tuple(f"{stem}{suffix}" for stem in (*MODULES, "grpc_service_pb2_grpc") for suffix in (".py", ".pyi"))

_PICKLING = """for _name in DESCRIPTOR.message_types_by_name:
  _make_picklable(_globals[_name])
# @@protoc_insertion_point(module_scope)"""


def generate() -> dict[str, str]:
    """Run protoc; give file name → contents."""
    scripts = Path(sysconfig.get_path("scripts"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{PROTOS}"]
        arguments += [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        arguments += [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
        arguments += [str(path) for path in sorted(PROTOS.glob("*.proto"))]
        if protoc.main(arguments) != 0:
            sys.exit("error: protoc failed")
        return {name: _adapt((Path(folder) / name).read_text(encoding="utf-8")) for name in FILES}


def _adapt(text: str) -> str:
    """Move descriptors into our pool and imports into our package."""
    text = text.replace("_descriptor_pool.Default().AddSerializedFile", "_POOL.AddSerializedFile")
    text = text.replace(
        "from google.protobuf import descriptor_pool as _descriptor_pool\n",
        f"from {PACKAGE}.pool import POOL as _POOL, make_picklable as _make_picklable\n",
    )
    text = text.replace("# @@protoc_insertion_point(module_scope)", _PICKLING)
    for module in MODULES:
        text = re.sub(
            rf"^import {module} as (\w+)$", rf"from {PACKAGE} import {module} as \1", text, flags=re.MULTILINE
        )
        text = text.replace(f"DESCRIPTOR, '{module}', _globals", f"DESCRIPTOR, '{PACKAGE}.{module}', _globals")
    return text


def main() -> None:
    """Write the stubs, or with --check say which ones are not what the .proto files give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a stub is out of date")
    arguments = parser.parse_args()
    stale = []
    for name, text in generate().items():
        path = STUBS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not arguments.check:
                path.write_text(text, encoding="utf-8")
    verb = "out of date" if arguments.check else "written"
    print(f"{', '.join(stale) or 'nothing'} {verb} (grpcio-tools {version('grpcio-tools')})")
    if arguments.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
