"""The one runner: `python -m experiments NAME [flags]`."""

import tyro

from experiments.agreement import Agreement
from experiments.continual.published import Published
from experiments.continual.race import ContinualRace
from experiments.continual.width import Width
from experiments.decisions.active import Active
from experiments.decisions.bandit_race import BanditRace
from experiments.decisions.bandits import Bandits
from experiments.decisions.search import Search
from experiments.decisions.search_table import SearchTable
from experiments.ensembles import Ensembles
from experiments.gp_images import Images
from experiments.gp_uci import GaussianProcesses
from experiments.kernels import Kernels
from experiments.optimization.autoencoder import Autoencoder
from experiments.optimization.conditions import ConditionsStudy
from experiments.optimization.cost import StepCost
from experiments.optimization.poisson import Poisson
from experiments.optimization.steps import Steps
from experiments.race.run import Race
from experiments.reference import Reference
from experiments.scaling import Scaling
from experiments.scores import ScoreTimes
from experiments.solvers import Solvers
from experiments.training.run import Training
from experiments.uci import UCI


EXPERIMENTS = {
    "uci": UCI,
    "width": Width,
    "gp-uci": GaussianProcesses,
    "gp-images": Images,
    "active": Active,
    "agreement": Agreement,
    "autoencoder": Autoencoder,
    "bandit-race": BanditRace,
    "bandits": Bandits,
    "conditions": ConditionsStudy,
    "continual": Published,
    "continual-race": ContinualRace,
    "ensembles": Ensembles,
    "reference": Reference,
    "kernels": Kernels,
    "poisson": Poisson,
    "race": Race,
    "scaling": Scaling,
    "scores": ScoreTimes,
    "search": Search,
    "search-table": SearchTable,
    "solvers": Solvers,
    "step-cost": StepCost,
    "steps": Steps,
    "training": Training,
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
