"""Run with the wheel installed, from a folder that is not the repository."""

import importlib.metadata
from pathlib import Path

import ntkuq


def main() -> None:
    root = Path(ntkuq.__file__).parent
    if "site-packages" not in root.parts:
        raise SystemExit(f"imported from {root}, not from the installed wheel")
    files = {
        Path(*entry.parts[1:]).as_posix()
        for entry in importlib.metadata.files("ntkuq") or ()
        if entry.parts[0] == "ntkuq"
    }
    lost = {"py.typed", "__init__.pyi"} - files
    for folder, suffix in (("data/sets", ".npz"), ("report/templates", "")):
        if not any(f.startswith(f"{folder}/") and f.endswith(suffix) for f in files):
            lost.add(f"{folder}/*{suffix}")
    if lost:
        raise SystemExit(f"the wheel lacks {sorted(lost)}")
    for name in ntkuq.__all__:
        getattr(ntkuq, name)
    rows = len(ntkuq.data.load("concrete").train)
    print(f"ntkuq {ntkuq.__version__} works from the wheel; {rows} training rows")


if __name__ == "__main__":
    main()
