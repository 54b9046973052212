"""`spillway market`: a cloud for trials and tests, on loopback, whose machines are Nodes that kwok plays."""

from spillway.cli.market.command import market

__all__ = ["market"]
