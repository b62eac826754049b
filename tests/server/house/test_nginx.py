"""The filter: what it exposes is written down twice, here and in Flower."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from server.house.home import create_home
from server.house.nginx import FLEET_ACTIONS, nginx_text


def test_the_actions_are_those_of_an_enrolled_node() -> None:
    from flwr.supernode import fleet_http_client

    paths = re.findall(r'"/v1/fleet/([a-z-]+)"', inspect.getsource(fleet_http_client))
    # Nodes that enrol themselves use these two; ours are enrolled by the coordinator.
    assert set(paths) - set(FLEET_ACTIONS) == {"register-node", "unregister-node"}
    assert set(FLEET_ACTIONS) <= set(paths)


def test_the_configuration_names_ports_certificates_and_nothing_else_that_opens(
    tmp_path: Path,
) -> None:
    home = create_home(tmp_path / "c", host="hub.example.org", port=443)
    text = nginx_text(home)
    assert re.findall(r"listen (\S+)", text) == ["443", "[::]:443"]
    assert "server 127.0.0.1:444;" in text
    assert f'proxy_ssl_trusted_certificate "{home.ca}";' in text
    assert "proxy_ssl_verify on;" in text
    locations = re.findall(r"location (.+?) \{", text)
    assert locations == ["/", "= /health", "^~ /v1/fleet/"]
