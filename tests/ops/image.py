"""The steps of a Dockerfile, one by one, in a root directory of their own: where no container engine is at hand.

The machine's /usr stands in for the base image; everything else of the root is new. What a step sees of the network and of
the package index is what this machine has.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STEP_SECONDS_MAX = 240.0

# $1: the root, $2: ro or rw, $3: directories that stay writable, $4: user:group, then the directory and the command.
ENTER = """
set -euo pipefail
root="$1" mode="$2" writable="$3" user="$4" directory="$5"
shift 5
mount --bind "$root" "$root"
mount --rbind /usr "$root/usr"
mount -o remount,ro,bind "$root/usr"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
for place in $writable; do
    mount --bind "$root$place" "$root$place"
done
if [[ "$mode" == ro ]]; then
    mount -o remount,ro,bind "$root"
fi
exec chroot --userspec="$user" --groups= "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
"""


@dataclass
class Stage:
    """One FROM and what follows: its root, and what RUN, ENTRYPOINT and so on work with."""

    root: Path
    user: str = "0:0"
    directory: str = "/"
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/python:/usr/bin:/bin:/usr/sbin:/sbin"})
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)

    def enter(self, command: Sequence[str], *, read_only: bool = False) -> list[str]:
        """The command that runs `command` in this root, as its user."""
        mode = "ro" if read_only else "rw"
        place = [str(self.root), mode, " ".join(self.volumes), self.user, self.directory]
        named = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["/usr/bin/env", "-i", *named, *_index(), *command]
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/bash", "-c", ENTER, "enter", *place, *inside]

    def run(self, command: Sequence[str], *, read_only: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.enter(command, read_only=read_only),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_SECONDS_MAX,
            check=False,
        )


def build(dockerfile: Path, context: Path, place: Path) -> Stage:
    """Do the steps; return the last stage. An instruction that is not known here is an error."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in instructions(dockerfile.read_text()):
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image.startswith("python:"), image
            stage = Stage(new_root(place / (name or "last")))
            stages[name] = stage
            continue
        assert stage is not None
        _do(stage, word, rest, context, stages)
    assert stage is not None
    return stage


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction and what follows it, with continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def _do(stage: Stage, word: str, rest: str, context: Path, stages: dict[str, Stage]) -> None:
    if word == "RUN":
        done = stage.run(["/bin/sh", "-c", rest])
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-6000:]}"
    elif word == "COPY":
        _copy(stage, shlex.split(rest), context, stages)
    elif word == "WORKDIR":
        stage.directory = rest
        (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        stage.user = f"{rest}:{rest}"
    elif word == "ENV":
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            stage.environment[name] = value.replace("$PATH", stage.environment["PATH"])
    elif word == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    elif word == "CMD":
        stage.command = json.loads(rest)
    elif word == "HEALTHCHECK":
        stage.health = json.loads(rest.partition("CMD ")[2])
    elif word == "VOLUME":
        stage.volumes.append(rest)
    else:
        assert word in ("EXPOSE", "STOPSIGNAL"), word


def _copy(stage: Stage, words: list[str], context: Path, stages: dict[str, Stage]) -> None:
    source = context
    if words[0].startswith("--from="):
        source = stages[words[0].removeprefix("--from=")].root
        words = words[1:]
    *names, target = words
    goal = (
        (stage.root / stage.directory.lstrip("/") / target)
        if not target.startswith("/")
        else stage.root / target.lstrip("/")
    )
    for name in names:
        path = source / name.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, goal, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, goal)


def new_root(root: Path) -> Path:
    """A root directory without anything but a configuration of the system, and the place for /usr."""
    for name in ("usr", "dev", "proc", "tmp", "etc", "opt", "var", "run"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "hosts", "resolv.conf", "pip.conf"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    for name in ("ssl", "ld.so.conf.d", "xdg", "alternatives"):
        if Path("/etc", name).is_dir():
            shutil.copytree(Path("/etc", name), root / "etc" / name, symlinks=True, ignore_dangling_symlinks=True)
    for name in ("ld.so.cache", "ld.so.conf"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    # What the base image has under that name.
    (root / "python").mkdir()
    (root / "python" / "python").symlink_to("/usr/bin/python3")
    return root


def _index() -> list[str]:
    """Where this machine takes packages from."""
    wanted = ("PIP_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return [f"{name}={os.environ[name]}" for name in (*wanted, *map(str.lower, wanted)) if name in os.environ]
