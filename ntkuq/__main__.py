"""`python -m ntkuq` is the same program as `ntkuq`."""

from ntkuq.cli import main


if __name__ == "__main__":
    raise SystemExit(main())
