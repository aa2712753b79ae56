"""What an hour of a device costs: a small dated table, `prices.yaml`, which anyone may correct."""

from pathlib import Path

from espalier.config import Config, decode
from espalier.tree import read_yaml

TABLE = Path(__file__).with_name("prices.yaml")


class Price(Config):
    """Dollars an hour, when and by whose account; and what the device is."""

    device: str
    """part of the device's own name, in small letters"""
    label: str
    tflops: float
    """dense 16-bit peak"""
    memory: float
    """GB"""
    dollars: float
    as_of: str | int
    source: str


class _Table(Config):
    prices: tuple[Price, ...]


def of(kind: str, name: str) -> Price | None:
    """The price of a device by its kind (cpu, cuda) and name; None for one not in the table."""
    known = "cpu" if kind == "cpu" else name.lower().replace(" ", "")
    return next((price for price in every() if price.device in known), None)


def every() -> tuple[Price, ...]:
    """The whole table."""
    return decode(_Table, read_yaml(TABLE).tree).prices
