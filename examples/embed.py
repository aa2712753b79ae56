"""How far a random projection moves the points of a table (Johnson and Lindenstrauss).

    python examples/embed.py [--points 500] [--width 1024]

Squared distances between all pairs, after over before: the smallest and the largest ratio. The
published number of directions is enough for ratios between 0.5 and 1.5; fewer are not surely. Five
ways to draw the projection, from a normal number in every entry to signs and a Hadamard transform.
"""

import argparse

import torch

from espalier.pretrained.embeddings import Projection, dimension, projection

KINDS: tuple[Projection, ...] = ("gaussian", "sign", "sparse", "srht", "qr")


def ratios(kind: Projection, points: int, width: int, narrow: int) -> tuple[float, float]:
    table = torch.randn(points, width, generator=torch.Generator().manual_seed(0))
    thin = table @ projection(kind, width, narrow, seed=1).T
    ratio = (torch.pdist(thin) / torch.pdist(table)).square()
    return ratio.min().item(), ratio.max().item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--width", type=int, default=1024)
    args = parser.parse_args(arguments)
    enough = min(dimension(args.points, 0.5), args.width)
    print(f"{args.points} points of width {args.width}; {enough} directions are enough for 0.5\n")
    print(f"{'':<10} {'directions':>10} {'smallest':>9} {'largest':>8}")
    for kind in KINDS:
        for narrow in (enough, max(1, enough // 8)):
            low, high = ratios(kind, args.points, args.width, narrow)
            print(f"{kind:<10} {narrow:>10} {low:>9.2f} {high:>8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
