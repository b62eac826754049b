"""What a hospital allows: its limits, the rules that hold a study to them, the reasons it gives."""

from __future__ import annotations

from client.policy.limits import NOTHING as NOTHING
from client.policy.limits import SEEDED as SEEDED
from client.policy.limits import Policy as Policy
from client.policy.reasons import Reason as Reason
from client.policy.reasons import Refused as Refused
from client.policy.ruling import Judge as Judge
from client.policy.ruling import Ruling as Ruling
