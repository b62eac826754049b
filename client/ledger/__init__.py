"""The ledger: every release about the site's patients, its price, and whether it was answered.

A price is reserved, durably, before any patient is read, and is never given back: a crash between
reserve and commit counts as spent. The reply is stored in the same transaction as the commit, so a
request that is asked again after a lost answer costs nothing.

Entries are only ever appended, and each is bound by a hash to all before it (`chain`), so that what
was edited, removed or reordered is found (`verify`). A file beside the ledger names its newest
entry (`head`), so that a lost tail is noticed. Everything that can be asked of the ledger is a fold
over its entries (`book`); only the file itself knows SQLite (`journal`).
"""

from __future__ import annotations

from client.ledger.book import Account as Account
from client.ledger.book import Key as Key
from client.ledger.chain import Entry as Entry
from client.ledger.chain import Head as Head
from client.ledger.recovery import Behind as Behind
from client.ledger.recovery import Charge as Charge
from client.ledger.store import Ledger as Ledger
from client.ledger.verify import Verdict as Verdict
