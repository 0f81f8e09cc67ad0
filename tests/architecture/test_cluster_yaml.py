"""Ray's launcher accepts cluster.yaml, which has the settings behind the documented failure times."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT

CLUSTER = ROOT / "cluster.yaml"

#: Reads YAML from its input, and has Ray prepare and check it as `ray up` does.
_PROGRAM = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(sys.stdin))
validate_config(config)
json.dump(config, sys.stdout)
"""

#: What the failure matrix of the documentation promises for the loss of a node.
HEALTH_CHECK = {
    "RAY_health_check_period_ms": 500,
    "RAY_health_check_timeout_ms": 1000,
    "RAY_health_check_failure_threshold": 3,
}
#: Ranges that RFC 5737 sets aside for documentation: nobody's machines.
DOCUMENTATION = [ipaddress.ip_network(block) for block in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]


def launcher(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=text, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    done = launcher(CLUSTER.read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stderr
    prepared: dict[str, Any] = json.loads(done.stdout)
    return prepared


def test_ray_takes_it_with_all_its_workers(config: dict[str, Any]) -> None:
    [node_type] = config["available_node_types"].values()
    assert config["max_workers"] == node_type["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_addresses_are_nobodys(config: dict[str, Any]) -> None:
    addresses = [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]
    assert len(set(addresses)) == len(addresses)
    for address in addresses:
        assert any(ipaddress.ip_address(address) in block for block in DOCUMENTATION), address


def test_the_head_looks_for_dead_nodes_as_often_as_promised(config: dict[str, Any]) -> None:
    *_, start = config["head_start_ray_commands"]
    given = {name: int(value) for name, value in re.findall(r"\b(RAY_health_check_\w+)=(\d+)", start)}
    assert given == HEALTH_CHECK
    assert start.index("RAY_health_check") < start.index("ray start --head")


def test_ray_knows_the_health_check_settings() -> None:
    """Check against Ray's settings: it ignores unknown ones without a warning."""
    import ray

    [server] = Path(ray.__file__).parent.rglob("gcs_server")
    binary = server.read_bytes()
    assert [name for name in HEALTH_CHECK if name.removeprefix("RAY_").encode() not in binary] == []


def test_every_node_installs_rayflow_and_asks_for_the_token(config: dict[str, Any]) -> None:
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert any("pip install" in command and "rayflow-durable" in command for command in commands)
    assert "~/.ray/auth_token" in config["file_mounts"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]


@pytest.mark.parametrize("kind", ["head_start_ray_commands", "worker_start_ray_commands", "setup_commands"])
def test_the_commands_are_shell(config: dict[str, Any], kind: str) -> None:
    for command in config[kind]:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_a_mistake_is_refused() -> None:
    text = CLUSTER.read_text(encoding="utf-8")
    wrong = text.replace("max_workers: 2", "max_workers: many").replace("min_workers: 2\n", "")
    assert wrong != text
    assert launcher(wrong).returncode != 0
    misspelt = text.replace("setup_commands:", "setup_comands:")
    assert "setup_comands" in launcher(misspelt).stderr
