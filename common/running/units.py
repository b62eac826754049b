"""What keeps the two long-lived services up on a machine: systemd units, Containerfiles."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from common.files import write_atomic


@dataclass(frozen=True)
class Service:
    """A service to keep up.

    Attributes:
        name: What the unit is called.
        about: One line on what it is.
        group: The command group: `server` or `site`.
        folder: What it runs for.
        stop_s: Seconds that it needs, at most, to end in order.
        relay_user: The user as whom it runs its relay: it then starts as root.
        ports: The ports that it opens to others.
        packages: Debian packages that it needs.
    """

    name: str
    about: str
    group: str
    folder: Path
    stop_s: int
    relay_user: str | None = None
    ports: tuple[int, ...] = ()
    packages: tuple[str, ...] = ()


def write_units(folder: Path, service: Service, *, systemd: bool, container: bool) -> list[Path]:
    """Write what is asked for.

    Args:
        folder: Where; made if missing.
        service: What it keeps up.
        systemd: Whether to write a unit file.
        container: Whether to write a Containerfile.

    Returns:
        The files written.
    """
    texts = {}
    if systemd:
        texts[f"{service.name}.service"] = systemd_text(service)
    if container:
        texts["Containerfile"] = container_text(service)
    if texts:
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts]


def systemd_text(service: Service, *, python: str = sys.executable) -> str:
    """Return a systemd unit; it may write in its own folder alone."""
    program = [str(Path(python).with_name("grandrounds"))]
    if not Path(program[0]).exists():
        program = [python, "-P", "-c", "from common.cli import main; main()"]
    start = [*program, *_start(service, str(service.folder))]
    command = " ".join(_quoted(word) for word in start)
    return f"""\
# Install: copy to /etc/systemd/system/, create the user, give it the folder; then
#   systemctl daemon-reload && systemctl enable --now {service.name}
[Unit]
Description={service.about}
After=network-online.target
Wants=network-online.target
RequiresMountsFor={_quoted(str(service.folder))}

[Service]
Type=exec
ExecStart={command}
{"# As root, to run the relay as another user." if service.relay_user else "User=grandrounds"}
UMask=0077
Restart=always
RestartSec=5
# The program ends its processes itself, the last one first.
KillMode=mixed
TimeoutStopSec={service.stop_s}
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=strict
ReadWritePaths={_quoted(str(service.folder))}
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectControlGroups=true
RestrictSUIDSGID=true
LockPersonality=true

[Install]
WantedBy=multi-user.target
"""


def container_text(service: Service) -> str:
    """Return a Containerfile; the folder is mounted, nothing of it is in the image."""
    run = ["podman run --init", f"--stop-timeout {service.stop_s}"]
    run += [f"-p {port}:{port}" for port in service.ports]
    lines = [
        f"# {service.about}",
        "# Build with the wheel of grandrounds beside this file, then run:",
        f"#   podman build -t {service.name} .",
        f"#   {' '.join(run)} \\",
        f"#     -v {service.folder}:/data:Z {service.name}",
        f"FROM docker.io/library/python:{sys.version_info.major}.{sys.version_info.minor}-slim",
    ]
    if service.packages:
        install = "apt-get install -y --no-install-recommends"
        names = " ".join(service.packages)
        clean = "rm -rf /var/lib/apt/lists/*"
        lines.append(f"RUN apt-get update && {install} {names} && {clean}")
    lines += [
        f"COPY grandrounds-{_version()}-py3-none-any.whl /tmp/",
        "RUN pip install --no-cache-dir /tmp/grandrounds-*.whl && rm /tmp/*.whl",
    ]
    if service.relay_user:
        lines.append(f"RUN useradd --system {service.relay_user}")
    else:
        lines += ["# The owner of the mounted folder.", "RUN useradd --uid 10001 grandrounds"]
        lines.append("USER 10001")
    entry = ["grandrounds", *_start(service, "/data")]
    lines += ["VOLUME /data", *(f"EXPOSE {port}" for port in service.ports)]
    lines += ["STOPSIGNAL SIGTERM", f"ENTRYPOINT {json.dumps(entry)}"]
    return "\n".join(lines) + "\n"


def _start(service: Service, folder: str) -> list[str]:
    """The command that keeps the service up, without the program."""
    as_user = ["--relay-user", service.relay_user] if service.relay_user else []
    return [service.group, "start", folder, "--foreground", *as_user]


def _quoted(word: str) -> str:
    """A word of a unit file: `%` stands for something there, and a blank parts words."""
    word = word.replace("%", "%%")
    return f'"{word}"' if " " in word else word


def _version() -> str:
    try:
        return metadata.version("grandrounds")
    except metadata.PackageNotFoundError:
        return "0.0.0"
