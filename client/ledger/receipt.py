"""The tag of a receipt, by which a site knows its own count again when a coordinator shows it.

The key comes from DIR/keys/secret, which stays when a ledger is restored or begun anew. It does not
come from the node's key, of which the relay has a copy: there the coordinator's code may run.
"""

from __future__ import annotations

import hashlib
import hmac

_DOMAIN = b"grandrounds.ledger.receipt.1"


def tag_of(secret: bytes, *, site: str, digest: str, reserves: int) -> str:
    """Return the tag of a receipt: HMAC-SHA256 in hex; it tells nothing that the receipt does not.

    The run is left out, as the count is of all runs of the study.

    Args:
        secret: The site's secret.
        site: Its name.
        digest: The study's.
        reserves: How many of the study's releases the site has reserved.

    >>> one = tag_of(b"secret", site="a", digest="0" * 64, reserves=7)
    >>> one == tag_of(b"secret", site="a", digest="0" * 64, reserves=8)
    False
    """
    key = hmac.new(secret, _DOMAIN, hashlib.sha256).digest()
    made = hmac.new(key, digestmod=hashlib.sha256)
    for field in (site, digest, str(reserves)):
        data = field.encode()
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()
