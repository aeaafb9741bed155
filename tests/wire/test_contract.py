"""That the contract says what it means, everywhere, and that its Python is what it says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from podium.v1 import error_reason_pb2

PROTO = Path(__file__).parents[2] / "proto"
FILES = sorted(path.name for path in (PROTO / "podium/v1").glob("*.proto"))
FD = descriptor_pb2.FileDescriptorProto
MESSAGE = descriptor_pb2.DescriptorProto
ENUM = descriptor_pb2.EnumDescriptorProto
SERVICE = descriptor_pb2.ServiceDescriptorProto


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_contract", PROTO / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contract(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FD]:
    image = generator.describe(PROTO, tmp_path_factory.mktemp("contract") / "contract.binpb")
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    return {Path(file.name).name: file for file in files if file.package == "podium.v1"}


def elements(file: FD) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name of everything that needs a comment, and where its comment is found."""

    def of_enum(enum: ENUM, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield enum.name, path
        for i, value in enumerate(enum.value):
            yield value.name, (*path, ENUM.VALUE_FIELD_NUMBER, i)

    def of_message(message: MESSAGE, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield message.name, path
        for i, field in enumerate(message.field):
            yield f"{message.name}.{field.name}", (*path, MESSAGE.FIELD_FIELD_NUMBER, i)
        synthetic = {field.oneof_index for field in message.field if field.proto3_optional}
        for i, oneof in enumerate(message.oneof_decl):
            if i not in synthetic:
                yield f"{message.name}.{oneof.name}", (*path, MESSAGE.ONEOF_DECL_FIELD_NUMBER, i)
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from of_message(nested, (*path, MESSAGE.NESTED_TYPE_FIELD_NUMBER, i))
        for i, enum in enumerate(message.enum_type):
            yield from of_enum(enum, (*path, MESSAGE.ENUM_TYPE_FIELD_NUMBER, i))

    for i, message in enumerate(file.message_type):
        yield from of_message(message, (FD.MESSAGE_TYPE_FIELD_NUMBER, i))
    for i, enum in enumerate(file.enum_type):
        yield from of_enum(enum, (FD.ENUM_TYPE_FIELD_NUMBER, i))
    for i, service in enumerate(file.service):
        yield service.name, (FD.SERVICE_FIELD_NUMBER, i)
        for j, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (FD.SERVICE_FIELD_NUMBER, i, SERVICE.METHOD_FIELD_NUMBER, j)


@pytest.mark.parametrize("name", FILES)
def test_everything_has_a_comment(contract: dict[str, FD], name: str) -> None:
    file = contract[name]
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    bare = [element for element, path in elements(file) if not comments.get(path, "").strip()]
    assert bare == []


@pytest.mark.parametrize("name", FILES)
def test_comments_are_sentences(contract: dict[str, FD], name: str) -> None:
    ends = (".", ":", "?", "!")
    comments = [place.leading_comments.strip() for place in contract[name].source_code_info.location]
    assert [comment for comment in comments if comment and not comment.endswith(ends)] == []


def test_durations_and_money_are_of_the_agreed_types(contract: dict[str, FD]) -> None:
    for file in contract.values():
        for message in file.message_type:
            for field in message.field:
                if "nano_usd" in field.name:
                    assert field.type == field.TYPE_INT64, field.name
                    assert field.proto3_optional, f"{field.name} needs presence: unknown is not 0"
                if field.name.endswith(("_time", "_deadline", "elapsed", "_interval", "_path")):
                    assert field.type == field.TYPE_MESSAGE, field.name


def test_the_python_is_fresh_and_the_contract_clean() -> None:
    ran = subprocess.run(
        [sys.executable, PROTO / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_staleness_is_found(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate(tmp_path)
    assert generator.stale(tmp_path) == []
    changed = tmp_path / "podium/v1/ranking_pb2.py"
    changed.write_text(changed.read_text() + "\n")
    (tmp_path / "podium/v1/filter_pb2.pyi").unlink()
    (tmp_path / "podium/v1/new_pb2.py").touch()
    assert generator.stale(tmp_path) == [
        "podium/v1/filter_pb2.pyi",
        "podium/v1/new_pb2.py",
        "podium/v1/ranking_pb2.py",
    ]


def test_every_error_of_the_server_has_its_reason_in_the_contract() -> None:
    errors = pytest.importorskip("podium_server.errors")
    at_start_only = {"CONFIG_INVALID"}

    def reasons(cls: type) -> set[str]:
        return {cls.reason}.union(*map(reasons, cls.__subclasses__()))  # type: ignore[attr-defined]

    known = {name.removeprefix("ERROR_REASON_") for name, _ in error_reason_pb2.ErrorReason.items()}
    assert reasons(errors.PodiumError) - at_start_only - known == set()
