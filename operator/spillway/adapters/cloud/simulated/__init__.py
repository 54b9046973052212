"""The market: pools of machines in one process and in simulated time, with faults on demand.

It is pure of clocks, network and Kubernetes: every call is told the time, so the simulator replays weeks of it in seconds, and
`spillway market` serves the same market in real time with Nodes for its machines.
"""

from spillway.adapters.cloud.simulated.faults import ApiFault, ApiFaultKind, Refuse
from spillway.adapters.cloud.simulated.machines import Bill, Machine, Notice, PoolRecord
from spillway.adapters.cloud.simulated.market import Market, MarketRecord, StateMismatch
from spillway.adapters.cloud.simulated.provider import SimulatedProvider
from spillway.adapters.cloud.simulated.spec import BootDelay, NodeShape, NoticeStyle, PoolSpec

__all__ = [
    "ApiFault",
    "ApiFaultKind",
    "Bill",
    "BootDelay",
    "Machine",
    "Market",
    "MarketRecord",
    "NodeShape",
    "Notice",
    "NoticeStyle",
    "PoolRecord",
    "PoolSpec",
    "Refuse",
    "SimulatedProvider",
    "StateMismatch",
]
