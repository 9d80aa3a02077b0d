"""What tests of `ops` share: programs of Debian, a certificate, our server behind proxies."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.architecture.tree import ROOT
from tests.ops.proxies import Authority, Programs

FETCH_SECONDS_MAX = 600.0


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Programs of Debian, fetched when they are not here yet."""
    done = subprocess.run(
        [ROOT / "scripts" / "programs"], stdout=subprocess.PIPE, text=True, timeout=FETCH_SECONDS_MAX, check=True
    )
    return Programs(Path(done.stdout.strip()))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("authority")
    root = trustme.CA()
    server = root.issue_cert("localhost", "127.0.0.1")
    files = Authority(directory / "fullchain.pem", directory / "privkey.pem", directory / "root.pem")
    server.private_key_pem.write_to_path(str(files.key))
    for part in server.cert_chain_pems:
        part.write_to_path(str(files.certificate), append=True)
    root.cert_pem.write_to_path(str(files.root))
    return files


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a short name: that of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ops-") as place:
        yield Path(place)
