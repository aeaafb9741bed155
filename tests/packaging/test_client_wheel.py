"""That the client's wheel, installed alone, calls a server."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.client.toy_podium import Toy, serving

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from podium_client import Client, NotFound
import podium_client
assert "site-packages" in podium_client.__file__, podium_client.__file__
with Client(sys.argv[1]) as podium:
    print(podium.rerank("q", ["a", "b", "c"], timeout_s=10).order)
    try:
        podium.rerank("fail:unknown", ["a"])
    except NotFound as error:
        print(error.known)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that no index is needed: the dev environment has hatchling.
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT / "clients/python"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0 and "hatchling" in built.stderr:
        pytest.skip(f"the wheel cannot be built here: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("podium_client-*.whl")
    return found


def test_the_wheel_has_the_client_and_the_contract(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"podium", "podium_client"}
    assert {"podium_client/py.typed", "podium_client/service_config.json"} <= names
    assert {"podium/v1/rerank_service_pb2_grpc.py", "podium/v1/rerank_service_pb2.pyi"} <= names
    assert wheel.stat().st_size < 500_000


def test_installed_alone_it_calls_a_server(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # which is what installing a pure wheel is
        requires = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    # What it depends on, and nothing else of this environment.
    wanted = re.findall(r"^Requires-Dist: ([\w.-]+)", requires, re.MULTILINE)
    seen: set[str] = set()
    while wanted:
        distribution = metadata.distribution(wanted.pop())
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        wanted += [
            found[0]
            for line in distribution.requires or ()
            if "extra ==" not in line and (found := re.findall(r"^[\w.-]+", line))
        ]
        for file in distribution.files or ():
            source, copy = Path(str(file.locate())), site / str(file)
            if ".." not in file.parts and source.suffix != ".pyc":
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(source)
    assert seen == {"grpcio", "protobuf", "googleapis-common-protos", "typing_extensions"}
    with serving(Toy()) as target:
        ran = subprocess.run(
            [tmp_path / "bin/python", "-I", "-c", SCRIPT, target], capture_output=True, text=True, check=False
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["(2, 1, 0)", "('fast', 'recall')"]
