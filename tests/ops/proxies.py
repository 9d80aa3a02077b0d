"""Real proxies, run from the files in `ops`: only addresses and paths are put into them."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.tree import ROOT
from tests.ops.processes import accepts, free_port, running, wait_until

OPS = ROOT / "ops"

CERTIFICATE = "/etc/ssl/chroma-async/fullchain.pem"
KEY = "/etc/ssl/chroma-async/privkey.pem"

NGINX_MAIN = """\
daemon off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
worker_processes 2;
events {{ worker_connections 1024; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include conf.d/*.conf;
}}
"""
"""What /etc/nginx/nginx.conf is on a machine."""


@dataclass(frozen=True)
class Programs:
    """Where the programs of Debian are that `scripts/programs` has fetched."""

    place: Path

    def __getitem__(self, name: str) -> Path:
        found = [self.place / directory / name for directory in ("usr/sbin", "usr/bin", "bin", "sbin")]
        return next(path for path in found if path.exists())

    @property
    def environment(self) -> dict[str, str]:
        """Libraries that the system may lack."""
        folders = [path for folder in ("usr/lib", "lib") for path in (self.place / folder).glob("*-linux-gnu*")]
        folders += [folder / "systemd" for folder in folders]
        known = os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": ":".join([*map(str, folders), *([known] if known else [])])}


@dataclass(frozen=True)
class Authority:
    """A certificate of localhost, its key, and the certificate of the authority that signed it."""

    certificate: Path
    key: Path
    root: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))


@dataclass(frozen=True)
class Proxy:
    """A running proxy: where it listens, the path below which the server is, and its directory with logs."""

    port: int
    prefix: str
    directory: Path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}{self.prefix}"


def adapted(text: str, changes: Mapping[str, str]) -> str:
    """Put addresses and paths into a file of `ops`; each must be there."""
    for old, new in changes.items():
        assert old in text, f"not in the file any more: {old}"
        text = text.replace(old, new)
    return text


def write_nginx(directory: Path, authority: Authority, upstream: str, prefix: str, port: int) -> Path:
    """Write a configuration of nginx with the files of `ops`; return its main file. `upstream`: unix:/path, or host:port."""
    site = adapted(
        (OPS / "nginx" / "chroma-async.conf").read_text(),
        {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            "server_name chroma.example.org;": "server_name localhost;",
            CERTIFICATE: str(authority.certificate),
            KEY: str(authority.key),
            "location / {": f"location {prefix}/ {{",
        },
    )
    where = (OPS / "nginx" / "chroma-async-upstream.conf").read_text()
    write_nginx_files(
        directory,
        {"chroma-async.conf": site, "chroma-async-upstream.conf": adapted(where, {"unix:/run/chroma-async.sock": upstream})},
    )
    return directory / "nginx.conf"


def write_nginx_files(directory: Path, files: Mapping[str, str]) -> None:
    """Write files for /etc/nginx/conf.d, and a main file that includes them."""
    (directory / "conf.d").mkdir()
    for name, text in files.items():
        (directory / "conf.d" / name).write_text(text)
    # Started by root, nginx works as another user, who may not enter the directories of tests.
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(NGINX_MAIN.format(directory=directory, user=user))


@contextlib.contextmanager
def nginx(programs: Programs, authority: Authority, directory: Path, upstream: str, prefix: str = "") -> Iterator[Proxy]:
    port = free_port()
    write_nginx(directory, authority, upstream, prefix, port)
    with serving_nginx(programs, directory, port):
        yield Proxy(port, prefix, directory)


@contextlib.contextmanager
def serving_nginx(programs: Programs, directory: Path, port: int) -> Iterator[None]:
    log = directory / "nginx.log"
    command = [programs["nginx"], "-p", directory, "-c", directory / "nginx.conf", "-e", "stderr"]
    with running(command, log, environment=programs.environment) as process:
        wait_until(lambda: accepts(port), process, log)
        yield


def caddyfile(authority: Authority, upstream: str, prefix: str, port: int) -> str:
    """Return the Caddyfile of `ops`. `upstream`: unix//path, or host:port."""
    return adapted(
        (OPS / "caddy" / "Caddyfile").read_text(),
        {
            "\nchroma.example.org {": f"\nhttps://localhost:{port} {{\n\tbind 127.0.0.1",
            CERTIFICATE: str(authority.certificate),
            KEY: str(authority.key),
            "path /*": f"path {prefix}/*",
            "reverse_proxy unix//run/chroma-async.sock": f"reverse_proxy {upstream}",
        },
    )


@contextlib.contextmanager
def caddy(programs: Programs, authority: Authority, directory: Path, upstream: str, prefix: str = "") -> Iterator[Proxy]:
    port = free_port()
    file, log = directory / "Caddyfile", directory / "caddy.log"
    file.write_text(caddyfile(authority, upstream, prefix, port))
    command = [programs["caddy"], "run", "--config", file, "--adapter", "caddyfile"]
    with running(command, log, environment=caddy_environment(directory)) as process:
        wait_until(lambda: accepts(port), process, log)
        yield Proxy(port, prefix, directory)


def caddy_environment(directory: Path) -> dict[str, str]:
    """Directories where Caddy may write."""
    return {"HOME": str(directory), "XDG_DATA_HOME": str(directory / "state"), "XDG_CONFIG_HOME": str(directory / "config")}
