"""The head file: what the ledger had come to, kept beside it, so that a lost tail is noticed.

It is written after each commit to the ledger. A crash between the two leaves the ledger ahead of
its head, which is harmless; a ledger behind its head has lost entries.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from pathlib import Path

from client.ledger.chain import Head
from common.errors import SiteError
from common.files import write_atomic

_DOMAIN = b"grandrounds.ledger.head.2"


@dataclass(frozen=True)
class HeadFile:
    """A head file and the secret that signs it.

    Attributes:
        path: The file.
        secret: The site's secret, or None where there is none (a simulation): then the file is
            not signed, and who can edit the ledger can edit the file too.
    """

    path: Path
    secret: bytes | None

    @classmethod
    def beside(cls, ledger: Path) -> HeadFile:
        """Return the head file of a ledger, signed if the site's folder holds a secret."""
        secret = ledger.parent / "keys" / "secret"
        return cls(ledger.with_suffix(".head"), secret.read_bytes() if secret.is_file() else None)

    def write(self, head: Head) -> None:
        """Replace the file; the content reaches the disk before the name does.

        Raises:
            SiteError: the disk is full or the folder cannot be written.
        """
        values = {"seq": head.seq, "hash": head.hash}
        if self.secret is not None:
            values["hmac"] = self._signature(head)
        try:
            write_atomic(self.path, json.dumps(values) + "\n", mode=0o600)
        except OSError as error:
            raise SiteError(
                f"the ledger's head {str(self.path)!r} cannot be written: {error}",
                remedy="free space on the disk, or mend the folder's permissions, and ask again",
            ) from error

    def read(self) -> Head | str | None:
        """Return the head, or in words what is wrong with the file, or None if there is none."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            head = Head(values["seq"], values["hash"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return f"the head file {self.path.name} cannot be read ({error})"
        if type(head.seq) is not int or head.seq < 0 or not isinstance(head.hash, str):
            return f"the head file {self.path.name} holds no number and hash of an entry"
        signature = values.get("hmac")
        if self.secret is not None and not (
            isinstance(signature, str)
            and hmac.compare_digest(signature.encode(), self._signature(head).encode())
        ):
            return f"the head file {self.path.name} is not signed with this site's secret"
        return head

    def _signature(self, head: Head) -> str:
        assert self.secret is not None
        message = _DOMAIN + head.seq.to_bytes(16, "big") + head.hash.encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()
