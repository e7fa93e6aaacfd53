"""The one runner: `python -m experiments NAME [flags]`."""

import tyro

from experiments.agreement import Agreement
from experiments.race.run import Race
from experiments.scaling import Scaling
from experiments.uci import UCI


EXPERIMENTS = {
    "uci": UCI,
    "agreement": Agreement,
    "race": Race,
    "scaling": Scaling,
}


def main() -> None:
    """Run the experiment that the command line names."""
    experiment = tyro.extras.subcommand_cli_from_dict(
        EXPERIMENTS,
        prog="python -m experiments",
        description="Tables, figures and benchmarks of ntkuq.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    experiment.execute()


if __name__ == "__main__":
    main()
