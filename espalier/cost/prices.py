"""What an hour of a device costs: a small dated table, `prices.yaml`, which anyone may correct."""

from pathlib import Path

from espalier.config import Config, decode
from espalier.tree import read_yaml

TABLE = Path(__file__).with_name("prices.yaml")


class Price(Config):
    """Dollars an hour, when and by whose account."""

    device: str
    dollars: float
    as_of: str | int
    source: str


class _Table(Config):
    prices: tuple[Price, ...]


def of(kind: str, name: str) -> Price | None:
    """The price of a device by its kind (cpu, cuda) and name; None for one not in the table."""
    known = "cpu" if kind == "cpu" else name.lower().replace(" ", "")
    table = decode(_Table, read_yaml(TABLE).tree)
    return next((price for price in table.prices if price.device in known), None)
