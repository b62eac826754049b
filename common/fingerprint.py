"""The fingerprint of a public key, which a hospital reads out and the coordinator compares."""

from __future__ import annotations

import base64
import hashlib


def fingerprint_of(line: str) -> str:
    """Return the SHA-256 of a public key as `ssh-keygen -l` shows it.

    Args:
        line: The key as it stands in an OpenSSH file: type, then base64.

    >>> fingerprint_of("ecdsa-sha2-nistp384 AAAA")
    'SHA256:cJ6AyISHokEeHuTfufIqhhSS0gxHZRUMDHlKvXD4FHw'
    """
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
