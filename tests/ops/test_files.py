"""Every file of `ops` is what the program that reads it takes, as that program itself says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from tests.architecture.tree import ROOT
from tests.integrations.environments import python_environment
from tests.ops.processes import CHROMA_ASYNC, clean_environment, free_port
from tests.ops.proxies import OPS, Authority, Programs, adapted, caddy_environment, caddyfile, write_nginx

from chroma_async.protocol import CALLS, Ingest

pytestmark = pytest.mark.timeout(300)

CHECK_SECONDS_MAX = 120.0
KUBERNETES_VERSIONS = ("1.29", "1.33", "1.37")
EXPOSURE_MAX = 1.5
"""What `systemd-analyze security` says of the unit; 10 is a service that may do everything."""


def check(command: Sequence[str | Path], *, environment: dict[str, str], directory: Path = ROOT) -> str:
    """Run a program that checks; return what it says."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=clean_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=CHECK_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.parametrize("upstream", ["nginx", "compose"])
def test_nginx_takes_its_files(programs: Programs, authority: Authority, tmp_path: Path, upstream: str) -> None:
    write_nginx(tmp_path, authority, "unix:/run/chroma-async.sock", "", free_port())
    (tmp_path / "conf.d" / "metrics.conf").write_text((OPS / "nginx" / "chroma-async-metrics.conf").read_text())
    if upstream == "compose":
        servers = {"chroma-async-a:8000": "127.0.0.1:8001", "chroma-async-b:8000": "127.0.0.1:8002"}
        text = adapted((OPS / "compose" / "chroma-async-upstream.conf").read_text(), servers)
        (tmp_path / "conf.d" / "chroma-async-upstream.conf").write_text(text)
    said = check(
        [programs["nginx"], "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr"],
        environment=programs.environment,
    )
    warnings = [line for line in said.splitlines() if "warn" in line]
    assert all('the "listen ... http2" directive is deprecated' in line for line in warnings)  # from nginx 1.25.1 on


def test_caddy_takes_its_file(programs: Programs, authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "Caddyfile"
    file.write_text(caddyfile(authority, "unix//run/chroma-async.sock", "/chroma", free_port()))
    command = [programs["caddy"], "validate", "--config", file, "--adapter", "caddyfile"]
    assert "Valid configuration" in check(command, environment=caddy_environment(tmp_path))


def test_nginx_sends_a_post_again_only_if_that_is_safe() -> None:
    """Which calls may come twice is said in one place, the catalogue of calls. Other methods HTTP itself declares safe.

    A stream may, too, but nginx can't: it keeps nothing of the body.
    """
    text = (OPS / "nginx" / "chroma-async.conf").read_text()
    pattern = re.search(r"location ~ (\S*collections\S+) \{", text)
    assert pattern is not None
    posts = [call for call in CALLS if call.route.method == "POST" and call is not Ingest]
    assert any(call.safe_to_repeat for call in posts)
    for call in posts:
        path = re.sub(r"\{\w+\}", "x", call.route.path)
        assert bool(re.search(pattern[1], path)) == call.safe_to_repeat, path


def test_prometheus_takes_its_files_and_every_alert_fires_when_it_should(programs: Programs, tmp_path: Path) -> None:
    promtool, place = programs["promtool"], OPS / "prometheus"
    assert "1 rule files found" in check([promtool, "check", "config", place / "prometheus.yml"], environment={})
    check([promtool, "test", "rules", "chroma-async.rules.test.yml"], environment={}, directory=place)
    compose = tmp_path / "prometheus.yml"
    password = tmp_path / "password"
    password.touch()
    compose.write_text(
        adapted((OPS / "compose" / "prometheus.yml").read_text(), {"/run/secrets/prometheus.password": str(password)})
    )
    shutil.copy(place / "chroma-async.rules.yml", tmp_path)
    assert "1 rule files found" in check([promtool, "check", "config", compose], environment={})


def test_every_alert_has_a_test_and_a_runbook() -> None:
    rules = yaml.safe_load((OPS / "prometheus" / "chroma-async.rules.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((OPS / "prometheus" / "chroma-async.rules.test.yml").read_text())["tests"]
    names = {rule["alert"] for rule in rules}
    for test in tests:
        assert {entry["alertname"] for entry in test["alert_rule_test"]} == names
    for rule in rules:
        assert (OPS / "runbooks" / rule["annotations"]["runbook"]).is_file()


def test_dashboard_and_alerts_name_only_metrics_that_exist() -> None:
    known = set(
        re.findall(r"^\| `(chroma_async_\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text(), re.MULTILINE)
    )
    series = known | {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    expressions = [*dashboard_expressions(), (OPS / "prometheus" / "chroma-async.rules.yml").read_text()]
    used = {name for expression in expressions for name in re.findall(r"chroma_async_\w+", expression)}
    assert used
    assert used <= series


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads((OPS / "grafana" / "dashboards" / "chroma-async.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_grafana_finds_its_data_source() -> None:
    provisioning = OPS / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    dashboard = json.loads((OPS / "grafana" / "dashboards" / "chroma-async.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    compose = yaml.safe_load((OPS / "compose" / "compose.yml").read_text())
    provider = yaml.safe_load((provisioning / "dashboards" / "chroma-async.yml").read_text())["providers"][0]
    assert any(f":{provider['options']['path']}:ro" in volume for volume in compose["services"]["grafana"]["volumes"])


def test_docker_compose_takes_its_file(programs: Programs) -> None:
    """Debian's docker-compose; until Debian 12 a script, with the libraries that it came with."""
    modules = {"PYTHONPATH": str(programs.place / "usr/lib/python3/dist-packages"), "HOME": "/nonexistent"}
    interpreter = ["/usr/bin/python3"] if programs["docker-compose"].read_bytes().startswith(b"#!") else []
    command = [*interpreter, programs["docker-compose"], "-f", OPS / "compose" / "compose.yml", "config"]
    found = yaml.safe_load(check(command, environment={**programs.environment, **modules}))
    assert set(found["services"]) == {"chroma-async-a", "chroma-async-b", "nginx", "prometheus", "grafana"}


def test_what_compose_mounts_is_there() -> None:
    compose = yaml.safe_load((OPS / "compose" / "compose.yml").read_text())
    made_by_hand = {"./tls"}
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith(".") and source not in made_by_hand:
                assert (OPS / "compose" / source).exists(), source


def test_systemd_takes_unit_and_socket(programs: Programs, tmp_path: Path) -> None:
    unit = adapted(
        (OPS / "systemd" / "chroma-async.service").read_text(),
        {"ExecStart=/opt/chroma-async/bin/chroma-async": f"ExecStart={CHROMA_ASYNC}"},
    )
    (tmp_path / "chroma-async.service").write_text(unit)
    shutil.copy(OPS / "systemd" / "chroma-async.socket", tmp_path)
    files = [tmp_path / "chroma-async.service", tmp_path / "chroma-async.socket"]
    assert check([programs["systemd-analyze"], "verify", *files], environment=programs.environment) == ""
    said = check(
        [programs["systemd-analyze"], "security", "--offline=true", "--no-pager", files[0]], environment=programs.environment
    )
    exposure = re.search(r"exposure level for chroma-async.service: ([\d.]+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_takes_its_manifests(version: str) -> None:
    validate = python_environment(Path(__file__).with_name("kubernetes.txt")) / "kubernetes-validate"
    said = check([validate, "--strict", "-k", version, OPS / "kubernetes" / "chroma-async.yaml"], environment={})
    assert said.count("passed") == 5


@pytest.mark.parametrize("file", ["kubernetes/chroma-async.yaml", "compose/compose.yml", "Dockerfile"])
def test_files_start_the_server_with_options_that_it_has(file: str) -> None:
    lines = [line for line in (OPS / file).read_text().splitlines() if not line.lstrip().startswith("#")]
    block = "\n".join(lines)
    named = re.findall(r"""(?:- |, |\[|")(--[a-z][a-z-]+)""", block)
    options = {name for name in named if name != "--url"}
    assert {"--path", "--metrics"} <= options
    assert options <= run_options()


def run_options() -> set[str]:
    said = check([CHROMA_ASYNC, "run", "--help"], environment={"COLUMNS": "200"})
    return set(re.findall(r"--[a-z][a-z-]+", said))


def test_traefiks_file_names_what_it_defines() -> None:
    """There is no Traefik in Debian: this is all that is checked of it."""
    http = yaml.safe_load((OPS / "traefik" / "chroma-async.yml").read_text())["http"]
    for router in http["routers"].values():
        assert router["service"] in http["services"]
        assert set(router["middlewares"]) <= set(http["middlewares"])
    balancer = http["services"]["chroma-async"]["loadBalancer"]
    assert balancer["serversTransport"] in http["serversTransports"]
