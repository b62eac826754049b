"""The filter before the SuperLink: hospitals reach the fleet and its health, nothing else.

Flower's Control API asks for no password: whoever reaches it can start runs and register nodes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from common.files import write_atomic
from common.running.processes import watched_line
from common.running.supervision import Child
from server.house.home import LOOPBACK, Home

# What an enrolled node asks of the fleet; Flower's nodes that enrol themselves ask for more.
FLEET_ACTIONS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "pull-object",
    "push-object",
    "confirm-message-received",
    "get-run",
    "get-fab",
)

# One worker is plenty: a hospital asks every few seconds. No request is written to the disk of
# whoever may read it: temporary files lie in the coordinator's own folder.
_TEMPLATE = """\
# Hospitals reach /v1/fleet/ and /health; all else is refused. Written anew by `server start`.
#   nginx -c {folder}/nginx.conf
worker_processes 1;
pid "{scratch}/nginx.pid";
error_log "{scratch}/nginx-error.log" warn;
events {{ worker_connections 1024; }}

http {{
    access_log off;
    server_tokens off;
    client_body_temp_path "{scratch}/nginx-body";
    proxy_temp_path "{scratch}/nginx-proxy";
    fastcgi_temp_path "{scratch}/nginx-unused";
    uwsgi_temp_path "{scratch}/nginx-unused";
    scgi_temp_path "{scratch}/nginx-unused";

    # Model weights travel in pieces of a few MB; a message's own table of contents may be larger.
    client_max_body_size 256m;
    client_body_timeout 300s;
    client_header_timeout 30s;
    keepalive_timeout 75s;

    upstream superlink {{
        server {loopback}:{superlink_port};
        keepalive 16;
    }}

    server {{
        listen {port} ssl;
        listen [::]:{port} ssl;
        server_name {host};
        ssl_certificate "{folder}/server.crt";
        ssl_certificate_key "{folder}/server.key";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:grandrounds:1m;
        merge_slashes off;

        # Before anything is read or forwarded; `location` matches the path as the SuperLink will
        # see it, with dots and escapes resolved.
        location / {{ return 403; }}

        location = /health {{
            limit_except GET {{ deny all; }}
            proxy_pass https://superlink;
        }}

        location ^~ /v1/fleet/ {{
            # As it was asked for: no escapes, no dots, no second slash.
            if ($request_uri !~ "^/v1/fleet/({actions})$") {{ return 403; }}
            limit_except POST {{ deny all; }}
            proxy_pass https://superlink;
        }}

        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_connect_timeout 5s;
        proxy_read_timeout 300s;
        proxy_send_timeout 300s;
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 1;
        proxy_ssl_trusted_certificate "{folder}/ca.crt";
        proxy_ssl_name localhost;
        proxy_ssl_server_name on;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        proxy_ssl_session_reuse on;
    }}
}}
"""


def nginx_text(home: Home) -> str:
    """Return the filter's configuration."""
    return _TEMPLATE.format(
        folder=home.folder,
        scratch=home.scratch,
        actions="|".join(FLEET_ACTIONS),
        loopback=LOOPBACK,
        superlink_port=home.config.superlink_port,
        port=home.config.port,
        host=home.config.host,
    )


def write_nginx(home: Home) -> Path | None:
    """Write the filter's configuration; None, where hospitals call the SuperLink itself."""
    if not home.config.filtered:
        return None
    path = home.folder / "nginx.conf"
    write_atomic(path, nginx_text(home))
    return path


def nginx_program() -> str | None:
    """Return where nginx is installed, if it is; it often lies where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def nginx_child(home: Home, env: Mapping[str, str]) -> Child | None:
    """Return the filter as a process to keep up; None, where nginx is not installed."""
    program = nginx_program()
    if program is None:
        return None
    prefix, configuration = str(home.scratch), str(home.folder / "nginx.conf")
    command = watched_line(program, "-p", prefix, "-c", configuration, "-g", "daemon off;")
    return Child("nginx", command, env, home.scratch / "empty", home.scratch / "nginx.log")
