"""The containers' file: it says what runs, keeps secrets out, and calls commands that exist."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import parcelwatch

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"])


def test_it_is_what_docker_compose_understands() -> None:
    candidates = (["docker", "compose"], ["docker-compose"])
    found = [
        command
        for command in candidates
        if shutil.which(command[0])
        and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
    ]
    if not found:
        pytest.skip("docker compose is not installed")
    command = [*found[0], "--file", str(COMPOSE), "config", "--quiet"]
    environment = {
        **os.environ,
        "PARCELWATCH_DB_PASSWORD": "of this test",
        "PARCELWATCH_GRAFANA_PASSWORD": "of this test",
    }
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    del environment["PARCELWATCH_DB_PASSWORD"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert refused.returncode != 0
    assert "PARCELWATCH_DB_PASSWORD" in refused.stderr


def test_servers_have_health_checks_and_named_volumes(services: dict[str, Any]) -> None:
    named = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["volumes"]
    for name in ("database", "broker"):
        assert services[name]["healthcheck"]["test"], name
        assert [volume.split(":")[0] in named for volume in services[name]["volumes"]] == [True], name


def test_no_secret_has_a_value_in_the_file(services: dict[str, Any]) -> None:
    secrets = {
        f"{service}.{key}": value
        for service, described in services.items()
        for key, value in described.get("environment", {}).items()
        if "PASSWORD" in key
    }
    assert len(secrets) == 9
    assert {value.split(":?")[0] for value in secrets.values()} == {
        "${PARCELWATCH_DB_PASSWORD",
        "${PARCELWATCH_GRAFANA_PASSWORD",
    }


def test_grafana_lets_nobody_in_without_a_password(services: dict[str, Any]) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"]


def test_what_containers_read_of_this_folder_is_there_and_cannot_be_written(services: dict[str, Any]) -> None:
    volumes = [volume for described in services.values() for volume in described.get("volumes", [])]
    mounted = [volume.split(":") for volume in volumes if volume.startswith("./")]
    assert len(mounted) == 3
    assert all((ROOT / source).exists() and mode == "ro" for source, _, mode in mounted)


def test_ports_are_published_on_this_machine_only(services: dict[str, Any]) -> None:
    ports = [port for described in services.values() for port in described.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_services_call_commands_that_exist(services: dict[str, Any]) -> None:
    assert {"migrate", "ingest", "monitor", "deliveries"} <= services.keys()
    for name in ("migrate", "ingest", "monitor", "deliveries"):
        words = list(services[name]["command"])
        command: Any = parcelwatch.load(words.pop(0))
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(name, words)  # reads the options without running: an unknown one is an error


def test_nothing_starts_before_what_it_needs(services: dict[str, Any]) -> None:
    for name in ("ingest", "monitor", "deliveries"):
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["ingest"]["depends_on"]["broker"] == {"condition": "service_healthy"}
    # Grafana's login is in a role that a migration makes.
    assert services["grafana-login"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["grafana"]["depends_on"]["grafana-login"] == {"condition": "service_completed_successfully"}


def test_the_image_holds_every_package() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {package.split(".")[0] for package in project["packages"]}
    assert packages | {f"{module}.py" for module in project["py-modules"]} <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert copied == sent
    assert "optional-dependencies" not in "\n".join(lines)  # the image is without the extra `research`
    assert re.search(r"^USER parcelwatch$", "\n".join(lines), re.MULTILINE)
