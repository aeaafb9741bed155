# ruff: noqa: T201  # a command says what it finds
"""Generates the Python of the contract, beside the `.proto` files. `--check` changes nothing and says what is wrong.

The imports of `google/*` are read from the Python packages that carry them: nothing is vendored or downloaded.
Podium's own repository is the only place where this runs; it needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import filecmp
import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parent
PACKAGES = ("podium/v1", "podium/admin/v1")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
SCRIPTS = sysconfig.get_path("scripts")


def protoc(source: Path, *options: str, pattern: str = "*.proto") -> None:
    """Run protoc over the contract that lies in `source`."""
    # google/protobuf comes with grpc_tools, google/rpc with googleapis-common-protos.
    includes = [source, files("grpc_tools") / "_proto", Path(status_pb2.__file__).parents[2]]
    contract = sorted(
        str(path.relative_to(source)) for package in PACKAGES for path in (source / package).glob(pattern)
    )
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes), *options, *contract]
    subprocess.run(command, check=True)


def generate(target: Path) -> None:
    """Write the generated Python under `target`."""
    typed, typed_grpc = (f"--plugin={SCRIPTS}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc"))
    protoc(ROOT, typed, f"--python_out={target}", f"--mypy_out=quiet:{target}")
    # For a file without a service it would write a module with nothing in it.
    services = "*_service.proto"
    protoc(ROOT, typed_grpc, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", pattern=services)


def describe(source: Path, image: Path) -> Path:
    """Write the contract in `source`, with its imports and comments, as one descriptor set, which buf reads."""
    protoc(source, "--include_imports", "--include_source_info", f"--descriptor_set_out={image}")
    return image


def buf(*arguments: str | Path) -> bool:
    """Run buf, which prints its findings, and return whether there were none."""
    return subprocess.run([f"{SCRIPTS}/buf", *map(str, arguments)], check=False).returncode == 0


def generated(folder: Path) -> set[str]:
    """Return the paths of the generated files under `folder`."""
    found = (path for package in PACKAGES for pattern in GENERATED for path in (folder / package).glob(pattern))
    return {str(path.relative_to(folder)) for path in found}


def stale(fresh: Path) -> list[str]:
    """Return the paths of committed files that are not what `fresh` has, are missing, or have no source any more."""
    names = sorted(generated(fresh) | generated(ROOT))
    _, differing, missing = filecmp.cmpfiles(fresh, ROOT, names, shallow=False)
    return sorted(differing + missing)


@contextmanager
def committed() -> Iterator[Path | str]:
    """Yield a folder with the contract of the last commit, or why there is none."""
    git = ["git", "-C", str(ROOT)]
    try:
        # Of this folder alone, because git runs in it.
        archive = subprocess.run([*git, "archive", "--format=tar", "HEAD"], check=True, capture_output=True).stdout
    except FileNotFoundError:
        yield "there is no git here"
        return
    except subprocess.CalledProcessError as error:
        yield f"git has no contract to compare with: {error.stderr.decode().strip()}"
        return
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
        before = Path(folder)
        yield before if any((before / PACKAGES[0]).glob("*.proto")) else "the last commit has no contract"


def check() -> bool:
    """Print what is wrong with the contract or its Python, and return whether nothing is."""
    config = ROOT / "buf.yaml"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        now = describe(ROOT, work / "now.binpb")
        fine = buf("lint", now, "--config", config)
        # Formatting is about the text, which a descriptor set no longer has.
        fine &= buf("format", ROOT, "--config", config, "--diff", "--exit-code")
        with committed() as before:
            if isinstance(before, str):
                print(f"breaking changes are not looked for: {before}")
            else:
                last = describe(before, work / "last.binpb")
                fine &= buf("breaking", now, "--against", last, "--config", config)
        fresh = work / "fresh"
        fresh.mkdir()
        generate(fresh)
        for name in stale(fresh):
            print(f"proto/{name} is stale: run `make proto`")
            fine = False
    return fine


def main() -> int:
    """Generate, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something is wrong")
    if parser.parse_args().check:
        return 0 if check() else 1
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)  # whole before anything is replaced
        for name in generated(ROOT) - generated(fresh):
            (ROOT / name).unlink()
        for name in generated(fresh):
            shutil.copyfile(fresh / name, ROOT / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
