"""What is deployed, checked by linters where no engine runs it, and against the code that it speaks of."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from podium_server.access.listening import Exposure, check_figures
from podium_server.access.sections import IN_SO_MANY_WORDS
from podium_server.config import BreakerSection, Config, StageSection, load
from podium_server.telemetry import metrics

kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = Path(sysconfig.get_path("scripts"))
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each is not None]


def every(kind: str) -> list[dict[str, Any]]:
    return [each for path in MANIFESTS for each in documents(path) if each["kind"] == kind]


def ran(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_dockerfile_passes_its_linter() -> None:
    ran(SCRIPTS / "hadolint", "--no-color", DEPLOY / "Dockerfile")


def test_compose_is_what_its_schema_says() -> None:
    ran(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_takes(path: Path) -> None:
    for each in documents(path):
        kubernetes_validate.validate(each, "1.34", strict=True)


def test_the_kustomization_names_every_manifest() -> None:
    [named] = documents(DEPLOY / "kubernetes/kustomization.yaml")
    assert sorted(named["resources"]) == [path.name for path in MANIFESTS]


def test_the_image_runs_as_nobody_in_particular_and_writes_to_volumes_only() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.M)
    assert "HEALTHCHECK" in final
    assert '"podium", "health"' in final
    [deployment] = every("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    # Everywhere that it writes to is a volume.
    mounted = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert mounted == {"/var/lib/podium", "/var/cache/podium", "/tmp"}
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["podium"]
    assert compose["read_only"] is True
    assert all(port.startswith("127.0.0.1:") for port in compose["ports"])


def toml(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "podium.toml"
    path.write_text(text)
    return load(path)


def configurations() -> dict[str, str]:
    found = {path.name: path.read_text("utf-8") for path in DEPLOY.glob("*.toml")}
    [mounted] = every("ConfigMap")
    return found | {"kubernetes": mounted["data"]["podium.toml"]}


@pytest.mark.parametrize("name", configurations())
def test_the_configurations_are_valid_and_may_listen(name: str, tmp_path: Path) -> None:
    config = toml(configurations()[name], tmp_path)
    Exposure.of(config.tls, config.access, config.server.insecure).check(config.server.host, config.server.port)
    telemetry, anyone = config.telemetry, config.server.insecure == IN_SO_MANY_WORDS
    check_figures(telemetry.metrics_host, 9464, telemetry.metrics_insecure, accepted=anyone)
    assert telemetry.metrics_port == 9464
    assert tomllib.loads(configurations()[name])["telemetry"]["logs"] == "json"


def test_who_stops_a_server_waits_longer_than_it_drains(tmp_path: Path) -> None:
    [deployment] = every("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    drain_s = toml(configurations()["kubernetes"], tmp_path).limits.drain_s
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + drain_s
    grace = documents(DEPLOY / "compose.yaml")[0]["services"]["podium"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > drain_s


def test_probes_ask_with_options_that_the_command_has() -> None:
    from podium_server.cli.commands.health import command

    options = {name for parameter in command.params for name in parameter.opts}
    [deployment] = every("Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe"):
        asked = container[probe]["exec"]["command"]
        assert asked[:2] == ["podium", "health"]
        assert {part.partition("=")[0] for part in asked if part.startswith("--")} <= options


def test_clients_can_balance_by_themselves() -> None:
    [headless] = [each for each in every("Service") if each["spec"].get("clusterIP") == "None"]
    [deployment] = every("Deployment")
    assert headless["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    [budget] = every("PodDisruptionBudget")
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["replicas"] > budget["spec"]["maxUnavailable"]


# --- the dashboard --------------------------------------------------------------------------------------------------


def test_the_dashboard_is_what_its_generator_makes() -> None:
    ran(sys.executable, DEPLOY / "grafana/generate.py", "--check")


def test_the_dashboard_names_every_metric_and_no_other() -> None:
    text = (DEPLOY / "grafana/podium.json").read_text("utf-8")
    named = set(re.findall(r"\bpodium_[a-z_]+", text))
    known = {series for metric in metrics.ALL for series in metric.series}
    assert named <= known
    # A histogram is shown by its buckets.
    shown = {metric.name for metric in metrics.ALL if named & set(metric.series)}
    assert shown == {metric.name for metric in metrics.ALL}


# --- the document ---------------------------------------------------------------------------------------------------

OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")


def test_the_document_shows_configurations_that_are_valid_and_defaults_that_are_ours(tmp_path: Path) -> None:
    shown = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", OPERATIONS, re.DOTALL)]
    for block in shown:
        if "models" in block:
            assert BreakerSection(**block["models"]["judge"]["breaker"]) == BreakerSection()
        elif "pipelines" in block:
            stage, *_ = block["pipelines"]["best"]["stages"]
            assert StageSection(**stage).on_failure == "skip"
        else:
            assert set(block) <= {"telemetry", "admin"}
            for name, section in block.items():
                Config.model_fields[name].annotation(**section)  # type: ignore[misc]


def test_the_document_names_metrics_that_there_are() -> None:
    known = {series for metric in metrics.ALL for series in (metric.name, *metric.series)}
    for name in re.findall(r"`(podium_[a-z_]+)", OPERATIONS):
        assert name in known or any(each.startswith(name) for each in known), name
